"""Samples scene graphs by CLEVR's rules (Johnson et al., CVPR 2017, section 3 and appendix): which
objects, where they stand, what is left of what, and the jittered camera and lights."""

from collections import namedtuple

import numpy as np

from . import render
from .attributes import VALUES
from .render import HEIGHT, LENS_X, LENS_Y, SIZES, WIDTH, camera_axes

MIN_OBJECTS, MAX_OBJECTS = 3, 10
HALF_SIDE = 3.0  # objects stand in a square of twice this side
MIN_GAP = 0.25  # between surfaces, by radius
MIN_MARGIN = 0.4  # between centres, along each view direction
MIN_PIXELS = 200  # visible of every object at 480x320
PLACE_TRIES = 50  # for one object, before the scene is started over

# Positions in CLEVR's scene, and the jitter of each coordinate.
RIG = {
    "camera": ((7.481, -6.508, 5.344), 0.5),
    "key": ((6.447, -2.905, 4.258), 1.0),
    "back": ((-1.169, 2.646, 5.816), 1.0),
    "fill": ((-4.671, -4.014, 3.011), 1.0),
}


Rig = namedtuple(
    "Rig", RIG
)  # positions of the camera and of the three lamps: float64 (3,) each
# The first three hold what CLEVR v1.0's scene files hold under these names, in plain Python numbers.
Scene = namedtuple("Scene", "objects directions relationships rig")


def sample_scene(rng):
    """A scene that keeps all of CLEVR's rules, sampled with the NumPy generator `rng`."""
    rig = Rig(
        *(
            np.array(position) + rng.uniform(-jitter, jitter, 3)
            for position, jitter in RIG.values()
        )
    )
    right, up, forward = camera_axes(rig.camera)
    behind = forward * (1, 1, 0) / np.hypot(forward[0], forward[1])
    vectors = {
        "right": right,
        "left": -right,
        "behind": behind,
        "front": -behind,
        "above": np.array((0.0, 0.0, 1.0)),
        "below": np.array((0.0, 0.0, -1.0)),
    }
    directions = {name: vector.tolist() for name, vector in vectors.items()}
    count = rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1)
    objects = None
    while objects is None or visible_pixels(objects, rig).min() < MIN_PIXELS:
        objects = place_objects(rng, count, directions)
    for thing in objects:
        offset = thing["3d_coords"] - rig.camera
        depth = offset @ forward
        thing["pixel_coords"] = [
            round(WIDTH / 2 * (1 + offset @ right / depth / LENS_X)),
            round(HEIGHT / 2 * (1 - offset @ up / depth / LENS_Y)),
            float(depth),
        ]
    return Scene(objects, directions, relate(objects, directions), rig)


def place_objects(rng, count, directions):
    """`count` objects that keep their distance, or None if there was no room for one of them."""
    ground = np.array([directions["right"][:2], directions["behind"][:2]])
    sizes, positions, objects = np.empty(count), np.empty((count, 2)), []
    for i in range(count):
        size = str(rng.choice(VALUES["size"]))
        sizes[i] = SIZES[size]
        for _ in range(PLACE_TRIES):
            positions[i] = rng.uniform(-HALF_SIDE, HALF_SIDE, 2)
            offsets = positions[:i] - positions[i]
            if np.all(
                np.hypot(*offsets.T) - sizes[:i] - sizes[i] >= MIN_GAP
            ) and np.all(np.abs(offsets @ ground.T) >= MIN_MARGIN):
                break
        else:
            return None
        objects.append(
            {
                "shape": str(rng.choice(VALUES["shape"])),
                "size": size,
                "material": str(rng.choice(VALUES["material"])),
                "color": str(rng.choice(VALUES["color"])),
                "3d_coords": [*positions[i].tolist(), SIZES[size]],
                "rotation": rng.uniform(0, 360),
            }
        )
    return objects


def visible_pixels(objects, rig):
    """How many pixels of each object are visible at 480x320, occlusion included: (n,) int64."""
    ids = render.visible_solids(
        render.solids_of(objects), render.view_of(rig.camera), WIDTH, HEIGHT
    )
    return np.bincount(ids[ids >= 0], minlength=len(objects))


def relate(objects, directions):
    """For each ground direction and each object, the indices of the objects that lie that way."""
    positions = np.array([thing["3d_coords"] for thing in objects])
    ahead = {
        name: positions @ directions[name]
        for name in ("left", "right", "front", "behind")
    }
    return {
        name: [np.flatnonzero(along > own).tolist() for own in along]
        for name, along in ahead.items()
    }
