"""Samples scene graphs by CLEVR's rules (Johnson et al., CVPR 2017, section 3 and
appendix): which objects, where they stand, what is left of what, and the jittered
camera and lights."""

from typing import NamedTuple

import numpy as np

from .attributes import VALUES
from .render import (
    HEIGHT,
    LENS_X,
    LENS_Y,
    SIZES,
    WIDTH,
    camera_axes,
    solids_of,
    view_of,
    visible_solids,
)

MIN_OBJECTS = 3
MAX_OBJECTS = 10
HALF_SIDE = 3.0  # objects stand in a square of twice this side
MIN_GAP = 0.25  # between surfaces, by radius
MIN_MARGIN = 0.4  # between centres, along each view direction
MIN_PIXELS = 200  # visible of every object at 480x320
PLACE_TRIES = 50  # for one object, before the scene is started over

# Positions in CLEVR's scene, and the jitter of each coordinate.
POSITIONS = {
    "camera": ((7.481, -6.508, 5.344), 0.5),
    "key": ((6.447, -2.905, 4.258), 1.0),
    "back": ((-1.169, 2.646, 5.816), 1.0),
    "fill": ((-4.671, -4.014, 3.011), 1.0),
}


class Rig(NamedTuple):
    """Positions of the camera and of the three lamps: float64 (3,) each."""

    camera: np.ndarray
    key: np.ndarray
    back: np.ndarray
    fill: np.ndarray


class Scene(NamedTuple):
    """The first three hold what CLEVR v1.0's scene files hold under these names, in
    plain Python numbers."""

    objects: list
    directions: dict
    relationships: dict
    rig: Rig


def sample_scene(rng):
    """A scene that keeps all of CLEVR's rules, sampled with the NumPy generator
    `rng`."""
    jittered = {
        name: np.array(position) + rng.uniform(-jitter, jitter, 3)
        for name, (position, jitter) in POSITIONS.items()
    }
    rig = Rig(**jittered)
    directions = directions_of(rig.camera)
    count = rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1)
    objects = None
    while objects is None or visible_pixels(objects, rig).min() < MIN_PIXELS:
        objects = place_objects(rng, count, directions)
    for thing in objects:
        thing["pixel_coords"] = project(thing["3d_coords"], rig.camera)
    return Scene(objects, directions, relate(objects, directions), rig)


def directions_of(camera):
    """CLEVR's six directions, as unit vectors: lists of three floats."""
    right, _, forward = camera_axes(camera)
    behind = forward * (1, 1, 0) / np.hypot(forward[0], forward[1])
    vectors = {
        "right": right,
        "left": -right,
        "behind": behind,
        "front": -behind,
        "above": np.array((0.0, 0.0, 1.0)),
        "below": np.array((0.0, 0.0, -1.0)),
    }
    return {name: vector.tolist() for name, vector in vectors.items()}


def project(point, camera):
    """Where the camera sees a point: column and row, int, and the depth, float."""
    right, up, forward = camera_axes(camera)
    offset = point - camera
    depth = offset @ forward
    return [
        round(WIDTH / 2 * (1 + offset @ right / depth / LENS_X)),
        round(HEIGHT / 2 * (1 - offset @ up / depth / LENS_Y)),
        float(depth),
    ]


def place_objects(rng, count, directions):
    """`count` objects that keep their distance, or None if there was no room for one of
    them."""
    ground = np.array([directions["right"][:2], directions["behind"][:2]])
    sizes = np.empty(count)
    positions = np.empty((count, 2))
    objects = []
    for i in range(count):
        size = str(rng.choice(VALUES["size"]))
        sizes[i] = SIZES[size]
        for _ in range(PLACE_TRIES):
            positions[i] = rng.uniform(-HALF_SIDE, HALF_SIDE, 2)
            offsets = positions[:i] - positions[i]
            gaps = np.hypot(offsets[:, 0], offsets[:, 1]) - sizes[:i] - sizes[i]
            margins = np.abs(offsets @ ground.T)
            if np.all(gaps >= MIN_GAP) and np.all(margins >= MIN_MARGIN):
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
    """How many pixels of each object are visible at 480x320, occlusion included: (n,)
    int64."""
    ids = visible_solids(solids_of(objects), view_of(rig.camera), WIDTH, HEIGHT)
    return np.bincount(ids[ids >= 0], minlength=len(objects))


def relate(objects, directions):
    """For each ground direction and each object, the indices of the objects that lie
    that way."""
    positions = np.array([thing["3d_coords"] for thing in objects])
    related = {}
    # The order of the keys is that in the files: the same seed gives the same bytes.
    for name in ("left", "right", "front", "behind"):
        along = positions @ directions[name]
        related[name] = [np.flatnonzero(along > own).tolist() for own in along]
    return related
