"""Draws contact_sheet.png: the first twelve images of a seed, at half their size. From
the project's folder: python -m figures.contact_sheet"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from clevr.render import render
from clevr.scenes import sample_scene

images = []
for i in range(12):
    scene = sample_scene(np.random.default_rng([2, 0, i]))  # as generate --seed 2 does
    image = Image.fromarray(render(scene.objects, scene.rig))
    images.append(ImageOps.scale(image, 0.5, Image.Resampling.LANCZOS))
rows = [np.hstack(images[i : i + 4]) for i in (0, 4, 8)]
sheet = Image.fromarray(np.vstack(rows))
sheet.save(Path(__file__).with_name("contact_sheet.png"), optimize=True)
