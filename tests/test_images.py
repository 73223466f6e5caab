"""Scenes keep CLEVR's rules, and images show what the scenes say.

reference/ holds two scenes, and how Blender's Cycles renders them: 256 samples,
224x224."""

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
    angle = np.deg2rad(thing["rotation"])
    radius = RADIUS[thing["size"]]
    east, north, z = (points - thing["3d_coords"]).T
    x = np.cos(angle) * east + np.sin(angle) * north
    y = np.cos(angle) * north - np.sin(angle) * east
    if thing["shape"] == "sphere":
        return np.sqrt(x * x + y * y + z * z) - radius
    sides = (x, y, z) if thing["shape"] == "cube" else (np.hypot(x, y), z)
    edge = ROUNDED[thing["shape"]] * radius
    beyond = np.abs(sides) - (radius - edge)
    outside = np.linalg.norm(np.maximum(beyond, 0), axis=0)
    inside = np.minimum(beyond.max(0), 0)
    return outside + inside - edge


def march(objects, camera, width, height):
    """The object that each pixel shows, or -1: a ray advances by its distance from the
    nearest surface."""
    forward = -camera / np.linalg.norm(camera)
    right = np.array((forward[1], -forward[0], 0)) / np.hypot(forward[0], forward[1])
    up = np.cross(right, forward)
    columns = (np.arange(width) + 0.5) / width
    rows = (np.arange(height) + 0.5) / height
    x, y = np.meshgrid(columns, rows)
    film = 32 / 35 * ((x - 0.5)[..., None] * right + (0.5 - y)[..., None] * up * 2 / 3)
    rays = (forward + film).reshape(-1, 3)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    depths = np.zeros(len(rays))
    ids = np.full(len(rays), -1)
    active = np.arange(len(rays))
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
        camera = scene.rig.camera
        expected = march(scene.objects, camera, 96, 64)
        ids = visible_solids(solids_of(scene.objects), view_of(camera), 96, 64)
        assert len(np.unique(expected)) > 3
        assert (ids != expected).sum() <= 4  # rays that graze an outline


def test_visible_pixels_agree_with_ray_marching(scenes):
    """In the scene with the least visible object."""
    counts = [visible_pixels(scene.objects, scene.rig) for scene in scenes]
    index = min(range(len(scenes)), key=lambda i: counts[i].min())
    scene = scenes[index]
    ids = march(scene.objects, scene.rig.camera, 480, 320)
    expected = np.bincount(ids[ids >= 0], minlength=len(scene.objects))
    assert counts[index] == pytest.approx(expected, rel=0.002, abs=2)


@pytest.mark.parametrize("index", (0, 1))
def test_images_are_like_those_of_cycles(index):
    scene = json.loads((REFERENCE / "scenes.json").read_text())[index]
    rig = Rig(**{name: np.array(position) for name, position in scene["rig"].items()})
    image = Image.fromarray(render(scene["objects"], rig))
    image = image.resize((224, 224), Image.Resampling.BILINEAR)
    with Image.open(REFERENCE / f"cycles_{index}.png") as reference:
        error = np.asarray(image, float) - np.asarray(reference, float)
    assert np.abs(error).mean() < 4  # of 255
    assert np.abs(error.mean((0, 1))).max() < 2


def test_scenes_have_three_to_ten_objects(scenes):
    assert {len(scene.objects) for scene in scenes} == set(range(3, 11))


def test_pixel_coordinates_show_the_object(scenes):
    for scene in scenes:
        view = view_of(scene.rig.camera)
        for thing in scene.objects:
            x, y, _ = thing["pixel_coords"]
            if 0 <= x < 480 and 0 <= y < 320:
                ids = visible_solids(solids_of([thing]), view, 480, 320)
                assert ids[y, x] == 0


def test_objects_keep_their_distance_and_are_visible(scenes):
    for scene in scenes:
        positions = np.array([thing["3d_coords"] for thing in scene.objects])
        radii = np.array([RADIUS[thing["size"]] for thing in scene.objects])
        assert np.abs(positions[:, :2]).max() <= 3
        assert (positions[:, 2] == radii).all()
        assert visible_pixels(scene.objects, scene.rig).min() >= 200
        right, behind = ground_axes(scene.rig.camera)
        for i, j in combinations(range(len(positions)), 2):
            offset = positions[i, :2] - positions[j, :2]
            assert np.linalg.norm(offset) - radii[i] - radii[j] >= 0.25
            assert abs(offset @ right) >= 0.4
            assert abs(offset @ behind) >= 0.4


def test_relationships_are_those_of_the_positions(scenes):
    for scene in scenes:
        positions = np.array([thing["3d_coords"][:2] for thing in scene.objects])
        right, behind = ground_axes(scene.rig.camera)
        axes = {"right": right, "left": -right, "behind": behind, "front": -behind}
        assert scene.relationships.keys() == axes.keys()
        for name, axis in axes.items():
            along = positions @ axis
            for own, found in zip(along, scene.relationships[name], strict=True):
                assert found == np.flatnonzero(along > own).tolist()


def ground_axes(camera):
    """The directions on the ground to the camera's right and away from it: (2,)
    each."""
    x, y = -camera[:2] / np.hypot(camera[0], camera[1])
    return np.array((y, -x)), np.array((x, y))
