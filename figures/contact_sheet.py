"""Draws contact_sheet.png: the first twelve images of a seed, at half their size."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from clevr.render import HEIGHT, WIDTH, render  # noqa: E402
from clevr.scenes import sample_scene  # noqa: E402

SEED, COLUMNS, ROWS = 2, 4, 3
SIZE = WIDTH // 2, HEIGHT // 2

sheet = Image.new("RGB", (COLUMNS * SIZE[0], ROWS * SIZE[1]))
for i in range(COLUMNS * ROWS):
    scene = sample_scene(np.random.default_rng([SEED, 0, i]))  # as `generate` does
    image = Image.fromarray(render(scene.objects, scene.rig)).resize(SIZE, Image.Resampling.LANCZOS)
    sheet.paste(image, (i % COLUMNS * SIZE[0], i // COLUMNS * SIZE[1]))
sheet.save(Path(__file__).with_name("contact_sheet.png"), optimize=True)
