"""Makes a folder of CLEVR-like scenes, pictures and questions in the layout of CLEVR v1.0.

Every image has random numbers of its own, so the result does not depend on the number of workers,
nor on how often the job was killed and started again."""

import json
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from .official import (SPLITS, DataError, image_name, images_folder, question_record,
                       questions_file, read_records, scene_record, scenes_file, whole_file)
from .questions import ask
from .render import render
from .scenes import sample_scene

PNG_LEVEL = 1       # 16 ms an image quicker than the usual 6, and 28 % larger


def generate(out, images, seed, workers):
    """Makes `images` = {"train": N, "val": M} images of `seed` with ten questions each in folder
    `out`, or goes on where an earlier call stopped. Uses `workers` processes.

    Raises DataError if `out` holds anything but a part of this very job."""
    out = Path(out)
    # The date is that of the generator, not of the run: the same seed gives the same bytes.
    infos = {split: {"split": split, "license": "CC0 1.0", "version": "1.0", "date": "11/24/2026",
                     "description": "CLEVR-like data made by this project, not CLEVR "
                                    f"(seed {seed}, {images['train']} + {images['val']} images)",
                     "seed": seed, "images": images[split]} for split in SPLITS}
    refuse_another_job(out, infos)
    for split, info in infos.items():
        for folder in (images_folder(out, split), scenes_file(out, split).parent,
                       questions_file(out, split).parent):
            folder.mkdir(parents=True, exist_ok=True)
        make_scenes(out, info, workers)
        make_questions(out, info)


def first_line(info, key):
    """How our scene and question files begin; one record a line follows."""
    return json.dumps({"info": info, key: []})[:-2] + "\n"


def job_of(path):
    """The info with which one of our files begins; None if another hand wrote it."""
    with open(path, encoding="utf-8") as file:
        begin = file.readline(1000)
    try:
        return json.loads(begin + "]}")["info"]
    except (ValueError, KeyError):
        return None


def refuse_another_job(out, infos):
    """Raises DataError unless `out` is empty, or was begun with the same seed and sizes."""
    remedy = "ask for the same again, name another folder, or delete this one"
    found = [(path, info) for split, info in infos.items()
             for path in (scenes_file(out, split), journal_of(scenes_file(out, split)),
                          questions_file(out, split)) if path.exists() and path.stat().st_size]
    for path, info in found:
        job = job_of(path)
        if job is None or job.keys() != info.keys():
            raise DataError(f"{path} was not made by this command: name another folder")
        if job != info:
            raise DataError(f"{path} was made with seed {job['seed']} and {job['images']} images, "
                            f"not seed {info['seed']} and {info['images']}: {remedy}")
    # Half-written files begin with a dot.
    if not found and any(not path.name.startswith(".") and path.is_file()
                         for path in out.rglob("*")):
        raise DataError(f"{out} is not empty, and not made by this command: name another folder")


def journal_of(scenes):
    """Where scenes gather, one a line, until all are there."""
    return scenes.with_name(f".{scenes.name}.part")


def make_scenes(out, info, workers):
    """Makes the split's scene file and pictures: what is missing of them."""
    split, count = info["split"], info["images"]
    scenes = scenes_file(out, split)
    journal = journal_of(scenes)
    have = {path.name for path in images_folder(out, split).iterdir()}
    lacking = [i for i in range(count) if image_name(split, i) not in have]
    if scenes.exists():
        if not lacking:
            return
        scenes.replace(journal)     # pictures were deleted: go on as if the end had not been reached
    drawn = resume(journal, first_line(info, "scenes"))
    todo = [i for i in lacking if i < drawn] + list(range(drawn, count))
    with (tqdm(desc=f"{split}: scenes and pictures", total=count, initial=count - len(todo),
               unit="image") as bar,
          open(journal, "a", buffering=1, encoding="utf-8") as file):
        compile_renderer()
        with results(workers, partial(make_image, out, split, info["seed"]), todo) as lines:
            for i, line in zip(todo, lines):
                if i >= drawn:
                    file.write(line + (",\n" if i < count - 1 else "\n]}\n"))
                bar.update()
        os.fsync(file.fileno())
    journal.replace(scenes)


def resume(journal, header):
    """Cuts off a torn end, or begins the file; returns how many scenes it holds."""
    journal.touch()
    with open(journal, "r+b") as file:
        lines = iter(file)
        if next(lines, b"") != header.encode():
            file.truncate(0)
            file.seek(0)
            file.write(header.encode())
            return 0
        end, count = len(header.encode()), 0
        for line in lines:
            if not line.endswith(b"},\n"):
                break
            end, count = end + len(line), count + 1
        file.truncate(end)
        return count


def make_image(out, split, seed, index):
    """Draws a scene, renders it unless the picture is there; returns its record as JSON."""
    scene = sample_scene(np.random.default_rng([seed, SPLITS.index(split), index]))
    picture = images_folder(out, split) / image_name(split, index)
    if not picture.exists():
        with whole_file(picture) as aside:
            pixels = render(scene.objects, scene.rig)
            Image.fromarray(pixels).save(aside, "PNG", compress_level=PNG_LEVEL)
    return json.dumps(scene_record(split, index, scene))


def make_questions(out, info):
    """Asks about the scenes in their order, for the balance of answers runs through all of them."""
    split, path = info["split"], questions_file(out, info["split"])
    if path.exists():
        return
    asked, counts = 0, {}
    with (open(scenes_file(out, split), "rb") as scenes, whole_file(path) as aside,
          open(aside, "w", encoding="utf-8") as file):
        file.write(first_line(info, "questions"))
        for scene in tqdm(read_records(scenes, "scenes"), f"{split}: questions", info["images"],
                          unit="image"):
            # Other numbers than the scene's own: trailing zeros would make no difference.
            rng = np.random.default_rng([info["seed"], SPLITS.index(split), scene["image_index"], 1])
            for question in ask(scene, rng, counts):
                file.write((",\n" if asked else "") + json.dumps(question_record(scene, asked, question)))
                asked += 1
        file.write("\n]}\n")


def compile_renderer():
    """Compiles in this process, so that the workers find it done and do not all do it at once."""
    scene = sample_scene(np.random.default_rng(0))
    render(scene.objects, scene.rig, 3, 2)


@contextmanager
def results(workers, work, items):
    """Gives work(item) of each of the items, in their order, done by a pool of processes that leaves
    quietly when it is interrupted or killed."""
    # One thread each: the workers themselves fill the cores.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), begin_worker)
    try:
        # Workers inherit this from their first moment on: Ctrl-C is the parent's to handle.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        lines = pool.map(work, items)
        signal.signal(signal.SIGINT, handler)
        yield lines
    finally:
        pool.shutdown(cancel_futures=True)


def begin_worker():
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent():
    """Without this, the workers of a killed parent would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)
