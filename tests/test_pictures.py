"""The world and the camera: scenes keep CLEVR's rules, and pictures show what the scenes say.

reference/ holds two scenes, and what Blender's Cycles makes of them: 256 samples, 224x224."""

import hashlib
import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from clevr.render import first_seen, render, solids_of, view_of
from clevr.scenes import Rig, project, sample_scene, visible_pixels

REFERENCE = Path(__file__).parent / "reference"
RADIUS = {"large": 0.7, "small": 0.35}
ROUNDED = {"cube": 0.18, "sphere": 1.0, "cylinder": 0.08}      # share of the radius


@pytest.fixture(scope="module")
def scenes():
    return [sample_scene(np.random.default_rng(seed)) for seed in range(40)]


def from_solid(thing, points):
    """Signed distances of points (n, 3) from a rounded cube, ball or cylinder."""
    angle, radius = np.deg2rad(thing["rotation"]), RADIUS[thing["size"]]
    x, y, z = (points - thing["3d_coords"]).T
    x, y = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    if thing["shape"] == "sphere":
        return np.sqrt(x * x + y * y + z * z) - radius
    sides = (x, y, z) if thing["shape"] == "cube" else (np.hypot(x, y), z)
    edge = ROUNDED[thing["shape"]] * radius
    beyond = np.abs(sides) - (radius - edge)
    return np.linalg.norm(np.maximum(beyond, 0), axis=0) + np.minimum(beyond.max(0), 0) - edge


def marched_ids(objects, camera, width, height):
    """Which object each pixel shows, -1 for none: every ray goes on by its distance from the
    nearest surface until it is there."""
    forward = -camera / np.linalg.norm(camera)
    right = np.array((forward[1], -forward[0], 0)) / np.hypot(forward[0], forward[1])
    up = np.cross(right, forward)
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    film = 32 / 35 * ((x - 0.5)[..., None] * right + (0.5 - y)[..., None] * up * 2 / 3)
    rays = (forward + film).reshape(-1, 3)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    far, ids, going = np.zeros(len(rays)), np.full(len(rays), -1), np.arange(len(rays))
    while len(going):
        points = camera + far[going, None] * rays[going]
        gaps = np.array([from_solid(thing, points) for thing in objects])
        there = gaps.min(0) < 1e-4
        ids[going[there]] = gaps[:, there].argmin(0)
        far[going] += gaps.min(0)
        going = going[~there & (far[going] < 25)]
    return ids.reshape(height, width)


def test_rays_agree_with_marching(scenes):
    for scene in scenes[:6]:
        expected = marched_ids(scene.objects, scene.rig.camera, 96, 64)
        ids = first_seen(solids_of(scene.objects), view_of(scene.rig.camera), 96, 64)
        assert len(np.unique(expected)) > 3
        assert (ids != expected).sum() <= 4         # rays that graze an outline


def test_visible_pixels_agree_with_marching(scenes):
    scene = min(scenes, key=lambda scene: visible_pixels(scene.objects, scene.rig).min())
    ids = marched_ids(scene.objects, scene.rig.camera, 480, 320)
    expected = np.bincount(ids[ids >= 0], minlength=len(scene.objects))
    assert visible_pixels(scene.objects, scene.rig) == pytest.approx(expected, rel=0.002, abs=2)


def test_scenes_keep_the_rules(scenes):
    assert {len(scene.objects) for scene in scenes} == set(range(3, 11))
    for scene in scenes:
        places = np.array([thing["3d_coords"] for thing in scene.objects])
        radii = np.array([RADIUS[thing["size"]] for thing in scene.objects])
        assert np.abs(places[:, :2]).max() <= 3 and (places[:, 2] == radii).all()
        assert visible_pixels(scene.objects, scene.rig).min() >= 200
        x, y = -scene.rig.camera[:2] / np.hypot(*scene.rig.camera[:2])
        to_right, to_back = places[:, :2] @ (y, -x), places[:, :2] @ (x, y)
        for i, j in combinations(range(len(places)), 2):
            assert np.linalg.norm(places[i, :2] - places[j, :2]) - radii[i] - radii[j] >= 0.25
            assert min(abs(to_right[i] - to_right[j]), abs(to_back[i] - to_back[j])) >= 0.4
        others = range(len(places))
        for i in others:
            assert scene.relationships["right"][i] == [j for j in others if to_right[j] > to_right[i]]
            assert scene.relationships["left"][i] == [j for j in others if to_right[j] < to_right[i]]
            assert scene.relationships["behind"][i] == [j for j in others if to_back[j] > to_back[i]]
            assert scene.relationships["front"][i] == [j for j in others if to_back[j] < to_back[i]]


def test_the_rig_stays_near_its_place(scenes):
    middle = {"camera": (7.481, -6.508, 5.344), "key": (6.447, -2.905, 4.258),
              "back": (-1.169, 2.646, 5.816), "fill": (-4.671, -4.014, 3.011)}
    for name, place in middle.items():
        off = np.array([getattr(scene.rig, name) for scene in scenes]) - place
        reach = 0.5 if name == "camera" else 1.0
        assert 0.8 * reach < np.abs(off).max() <= reach


def test_pixel_coordinates_fall_on_their_object(scenes):
    for scene in scenes:
        for thing in scene.objects:
            x, y, depth = thing["pixel_coords"]
            if 0 <= x < 480 and 0 <= y < 320:
                assert first_seen(solids_of([thing]), view_of(scene.rig.camera), 480, 320)[y, x] == 0
            away = np.subtract(thing["3d_coords"], scene.rig.camera)
            assert depth == pytest.approx(-away @ scene.rig.camera / np.linalg.norm(scene.rig.camera))


def test_the_origin_is_the_middle_of_the_picture(scenes):
    assert project((0, 0, 0), scenes[0].rig.camera)[:2] == pytest.approx((240, 160))


@pytest.mark.parametrize("index", (0, 1))
def test_pictures_are_like_those_of_cycles(index):
    scene = json.loads((REFERENCE / "scenes.json").read_text())[index]
    rig = Rig(**{name: np.array(place) for name, place in scene["rig"].items()})
    picture = Image.fromarray(render(scene["objects"], rig))
    ours = np.asarray(picture.resize((224, 224), Image.Resampling.BILINEAR), float)
    theirs = np.asarray(Image.open(REFERENCE / f"cycles_{index}.png"), float)
    assert np.abs(ours - theirs).mean() < 4         # levels of 255
    assert np.abs((ours - theirs).mean((0, 1))).max() < 2


def test_another_process_makes_the_same_bytes(scenes):
    """It also loads the compiled code from the cache, as the workers do."""
    code = ("import hashlib, numpy as np; from clevr.render import render; "
            "from clevr.scenes import sample_scene; scene = sample_scene(np.random.default_rng(0)); "
            "print(hashlib.sha256(render(scene.objects, scene.rig)).hexdigest())")
    here = hashlib.sha256(render(scenes[0].objects, scenes[0].rig)).hexdigest()
    there = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert there.stdout.strip() == here, there.stderr


def share_that_changes(scenes, material):
    """The share of a ball's pixels that change by more than 20 levels as the cube beside it turns
    from blue to yellow."""
    rig, pictures = scenes[0].rig, []
    for color in ("blue", "yellow"):
        ball = {"shape": "sphere", "size": "large", "material": material, "color": "gray",
                "3d_coords": [0, 0, 0.7], "rotation": 0}
        cube = {"shape": "cube", "size": "large", "material": "rubber", "color": color,
                "3d_coords": [-0.6, -1.9, 0.7], "rotation": 20}
        pictures.append(render([ball, cube], rig).astype(int))
    shown = first_seen(solids_of([ball, cube]), view_of(rig.camera), 480, 320) == 0
    return (np.abs(pictures[0] - pictures[1])[shown].max(-1) > 20).mean()


def test_metal_mirrors_its_neighbours_and_rubber_does_not(scenes):
    assert share_that_changes(scenes, "metal") > 0.04
    assert share_that_changes(scenes, "rubber") < 0.004


def test_matte_surfaces_have_no_grain(scenes):
    """Else noise, not shine, could tell a network the material."""
    for scene in scenes[:4]:
        ids = first_seen(solids_of(scene.objects), view_of(scene.rig.camera), 480, 320)
        matte = np.array([thing["material"] == "rubber" for thing in scene.objects] + [True])[ids]
        matte = matte[:, 2:-2]
        for step in range(5):
            matte = matte & (ids[:, step:476 + step] == ids[:, 2:-2])
        picture = render(scene.objects, scene.rig).astype(int)
        bend = np.abs(picture[:, 1:-3] - 2 * picture[:, 2:-2] + picture[:, 3:-1]).max(-1)[matte]
        assert np.percentile(bend, 98) <= 6
