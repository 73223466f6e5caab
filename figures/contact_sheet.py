"""Draws contact_sheet.png: the first twelve images of a seed, at half their size."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from clevr.render import render  # noqa: E402
from clevr.scenes import sample_scene  # noqa: E402

scenes = [
    sample_scene(np.random.default_rng([2, 0, i])) for i in range(12)
]  # as `generate --seed 2` does
images = [
    ImageOps.scale(
        Image.fromarray(render(scene.objects, scene.rig)), 0.5, Image.Resampling.LANCZOS
    )
    for scene in scenes
]
sheet = np.vstack([np.hstack(images[i : i + 4]) for i in (0, 4, 8)])
Image.fromarray(sheet).save(
    Path(__file__).with_name("contact_sheet.png"), optimize=True
)
