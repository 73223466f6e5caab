"""Scenes keep CLEVR's rules, and images show what the scenes say.

reference/ holds two scenes, and how Blender's Cycles renders them: 256 samples, 224x224."""

import json
from itertools import combinations

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from clevr.render import render, solids_of, view_of, visible_solids
from clevr.scenes import Rig, sample_scene, visible_pixels

REFERENCE = ROOT / "tests" / "reference"
RADIUS = {"large": 0.7, "small": 0.35}
ROUNDED = {"cube": 0.18, "sphere": 1.0, "cylinder": 0.08}  # fraction of the radius


@pytest.fixture(scope="module")
def scenes():
    return [sample_scene(np.random.default_rng(seed)) for seed in range(40)]


# An independent renderer of object outlines: ray marching.


def distances(thing, points):
    """Signed distances of points (n, 3) from a rounded cube, sphere or cylinder."""
    angle, radius = np.deg2rad(thing["rotation"]), RADIUS[thing["size"]]
    x, y, z = (points - thing["3d_coords"]).T
    x, y = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    if thing["shape"] == "sphere":
        return np.sqrt(x * x + y * y + z * z) - radius
    sides = (x, y, z) if thing["shape"] == "cube" else (np.hypot(x, y), z)
    edge = ROUNDED[thing["shape"]] * radius
    beyond = np.abs(sides) - (radius - edge)
    return (
        np.linalg.norm(np.maximum(beyond, 0), axis=0)
        + np.minimum(beyond.max(0), 0)
        - edge
    )


def march(objects, camera, width, height):
    """The object that each pixel shows, or -1: a ray advances by its distance from the nearest surface."""
    forward = -camera / np.linalg.norm(camera)
    right = np.array((forward[1], -forward[0], 0)) / np.hypot(forward[0], forward[1])
    up = np.cross(right, forward)
    x, y = np.meshgrid(
        (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    )
    film = 32 / 35 * ((x - 0.5)[..., None] * right + (0.5 - y)[..., None] * up * 2 / 3)
    rays = (forward + film).reshape(-1, 3)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    depths, ids, active = (
        np.zeros(len(rays)),
        np.full(len(rays), -1),
        np.arange(len(rays)),
    )
    while len(active):
        points = camera + depths[active, None] * rays[active]
        gaps = np.array([distances(thing, points) for thing in objects])
        reached = gaps.min(0) < 1e-4
        ids[active[reached]] = gaps[:, reached].argmin(0)
        depths[active] += gaps.min(0)
        active = active[~reached & (depths[active] < 25)]
    return ids.reshape(height, width)


def test_visible_objects_agree_with_ray_marching(scenes):
    for scene in scenes[:5]:
        expected = march(scene.objects, scene.rig.camera, 96, 64)
        ids = visible_solids(
            solids_of(scene.objects), view_of(scene.rig.camera), 96, 64
        )
        assert len(np.unique(expected)) > 3
        assert (ids != expected).sum() <= 4  # rays that graze an outline
    scene = min(
        scenes, key=lambda scene: visible_pixels(scene.objects, scene.rig).min()
    )
    ids = march(scene.objects, scene.rig.camera, 480, 320)
    expected = np.bincount(ids[ids >= 0], minlength=len(scene.objects))
    assert visible_pixels(scene.objects, scene.rig) == pytest.approx(
        expected, rel=0.002, abs=2
    )


@pytest.mark.parametrize("index", (0, 1))
def test_images_are_like_those_of_cycles(index):
    scene = json.loads((REFERENCE / "scenes.json").read_text())[index]
    rig = Rig(**{name: np.array(position) for name, position in scene["rig"].items()})
    image = Image.fromarray(render(scene["objects"], rig)).resize(
        (224, 224), Image.Resampling.BILINEAR
    )
    error = np.asarray(image, float) - np.asarray(
        Image.open(REFERENCE / f"cycles_{index}.png"), float
    )
    assert np.abs(error).mean() < 4 and np.abs(error.mean((0, 1))).max() < 2  # of 255


def test_scenes_keep_the_rules(scenes):
    assert {len(scene.objects) for scene in scenes} == set(range(3, 11))
    for scene in scenes:
        for thing in scene.objects:
            x, y, _ = thing["pixel_coords"]
            if 0 <= x < 480 and 0 <= y < 320:
                assert (
                    visible_solids(
                        solids_of([thing]), view_of(scene.rig.camera), 480, 320
                    )[y, x]
                    == 0
                )
        positions = np.array([thing["3d_coords"] for thing in scene.objects])
        radii = np.array([RADIUS[thing["size"]] for thing in scene.objects])
        assert np.abs(positions[:, :2]).max() <= 3 and (positions[:, 2] == radii).all()
        assert visible_pixels(scene.objects, scene.rig).min() >= 200
        x, y = -scene.rig.camera[:2] / np.hypot(*scene.rig.camera[:2])
        right, behind = positions[:, :2] @ (y, -x), positions[:, :2] @ (x, y)
        for i, j in combinations(range(len(positions)), 2):
            assert (
                np.linalg.norm(positions[i, :2] - positions[j, :2])
                - radii[i]
                - radii[j]
                >= 0.25
            )
            assert min(abs(right[i] - right[j]), abs(behind[i] - behind[j])) >= 0.4
        for name, along in (
            ("right", right),
            ("left", -right),
            ("behind", behind),
            ("front", -behind),
        ):
            assert scene.relationships[name] == [
                np.flatnonzero(along > own).tolist() for own in along
            ]
