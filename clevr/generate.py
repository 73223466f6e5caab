"""Makes a folder of CLEVR-like scenes, images and questions in the layout of CLEVR v1.0. Every image has
random numbers of its own, so neither the number of workers nor an interruption changes the result."""

import json
from functools import partial

import numpy as np
from PIL import Image
from tqdm import tqdm

from . import layout
from .layout import SPLITS, DataError, atomic_write, image_file, partial_path, questions_file, scenes_file
from .questions import ask
from .render import render
from .scenes import sample_scene
from .workers import results

PNG_LEVEL = 1       # 16 ms an image faster than the usual 6, and 28 % larger


def generate(out, images, seed, workers):
    """Makes `images` = {"train": N, "val": M} images of `seed` with ten questions each in folder `out`, or
    resumes an earlier call. Raises DataError if `out` holds anything but a part of this very job."""
    # The date is that of the generator, not of the run: the same seed gives the same bytes.
    infos = {split: {"split": split, "license": "CC0 1.0", "version": "1.0", "date": "11/24/2026",
                     "description": layout.description(seed, images), "seed": seed, "images": images[split]}
             for split in SPLITS}
    refuse_another_job(out, infos["train"])
    for split, info in infos.items():
        make_scenes(out, info, workers)
        if not questions_file(out, split).exists():
            write_records(questions_file(out, split), info, "questions", make_questions(out, info))


def refuse_another_job(out, info):
    """Raises DataError unless `out` is empty, or was begun with the same seed and sizes."""
    scenes, begin = scenes_file(out, "train"), first_line(info, "scenes").encode()
    begun = any(path.exists() and path.read_bytes().startswith(begin)
                for path in (scenes, partial_path(scenes)))
    # Half-written files begin with a dot.
    if not begun and any(not path.name.startswith(".") and path.is_file() for path in out.rglob("*")):
        raise DataError(f'{out} is not empty, and not of "{info["description"]}": name another folder')


def first_line(info, key):
    """How our scene and question files begin; one record a line follows."""
    return json.dumps({"info": info, key: []})[:-2] + "\n"


def write_records(path, info, key, records):
    # By the first line, written at once, a resumed job knows its folder.
    with atomic_write(path) as temporary, open(temporary, "w", buffering=1, encoding="utf-8") as file:
        file.write(first_line(info, key))
        for i, record in enumerate(records):
            file.write((",\n" if i else "") + json.dumps(record))
        file.write("\n]}\n")


def make_scenes(out, info, workers):
    """Makes the split's missing images, and its scene file."""
    split, count, path = info["split"], info["images"], scenes_file(out, info["split"])
    if path.exists() and all(image_file(out, split, i).exists() for i in range(count)):
        return
    scene = sample_scene(np.random.default_rng(0))
    render(scene.objects, scene.rig, 3, 2)      # so that the workers find the compiled code in the cache
    # A resumed job samples all scenes again, which takes a seventh of the time of rendering them.
    with results(workers, partial(make_image, out, split, info["seed"]), range(count)) as records:
        write_records(path, info, "scenes", tqdm(records, f"{split}: scenes and images", count, unit="image"))


def make_image(out, split, seed, index):
    """Samples a scene, renders it unless the image is there; returns its official record."""
    scene = sample_scene(np.random.default_rng([seed, SPLITS.index(split), index]))
    path = image_file(out, split, index)
    if not path.exists():
        with atomic_write(path) as temporary:
            pixels = render(scene.objects, scene.rig)
            Image.fromarray(pixels).save(temporary, "PNG", compress_level=PNG_LEVEL)
    return {"image_index": index, "objects": scene.objects, "relationships": scene.relationships,
            "image_filename": path.name, "split": split, "directions": scene.directions}


def make_questions(out, info):
    """Asks about the scenes in order, because the answers are balanced over all scenes so far."""
    split, index, counts = info["split"], 0, {}
    with open(scenes_file(out, split), "rb") as file:
        scenes = layout.read_json(file, "scenes.item")
        for scene in tqdm(scenes, f"{split}: questions", info["images"], unit="image"):
            # Other numbers than the scene's own: trailing zeros would make no difference.
            rng = np.random.default_rng([info["seed"], SPLITS.index(split), scene["image_index"], 1])
            for question in ask(scene, rng, counts):
                yield {"image_index": scene["image_index"], "program": question["program"],
                       "question_index": index, "image_filename": scene["image_filename"],
                       "question_family_index": question["question_family_index"], "split": split,
                       "answer": question["answer"], "question": question["question"]}
                index += 1
