"""The folder layout of CLEVR v1.0: where its files lie, what their records hold, how to stream them.

Whatever reads CLEVR reads a folder written with these functions, and these functions read the
official download: https://cs.stanford.edu/people/jcjohns/clevr/ (Johnson et al., CVPR 2017)."""

import os
from contextlib import contextmanager
from pathlib import Path

import ijson

SPLITS = ("train", "val")       # the official test split has no answers


class DataError(Exception):
    """What is wrong with the user's files or arguments, in one line that names the file."""


def image_name(split, index):
    return f"CLEVR_{split}_{index:06d}.png"


def images_folder(root, split):
    return Path(root) / "images" / split


def scenes_file(root, split):
    return Path(root) / "scenes" / f"CLEVR_{split}_scenes.json"


def questions_file(root, split):
    return Path(root) / "questions" / f"CLEVR_{split}_questions.json"


def scene_record(split, index, scene):
    """The official record of a scene: a dict ready for JSON."""
    return {"image_index": index, "objects": scene.objects, "relationships": scene.relationships,
            "image_filename": image_name(split, index), "split": split,
            "directions": scene.directions}


def question_record(scene, index, question):
    """The official record of the split's `index`-th question, which is about `scene` (a record)."""
    return {"image_index": scene["image_index"], "program": question["program"],
            "question_index": index, "image_filename": scene["image_filename"],
            "question_family_index": question["question_family_index"], "split": scene["split"],
            "answer": question["answer"], "question": question["question"]}


def read_records(file, key):
    """Streams the records of an open (binary) scene or question file in constant memory.

    `key` is "scenes" or "questions". Raises DataError if the file is not such JSON."""
    return read_items(file, f"{key}.item")


def read_items(file, prefix):
    try:
        yield from ijson.items(file, prefix, use_float=True)
    except ijson.JSONError as fault:
        reason = " ".join(str(fault).split())       # it may draw an arrow over several lines
        raise DataError(f"{file.name}: torn or not JSON ({reason}): fetch or make it again") from None


def read_info(path):
    """What a scene or question file says of itself: a dict, empty if it says nothing. Stops reading
    there; the release puts it first. Raises DataError if the file is not such JSON."""
    with open(path, "rb") as file:
        return next(read_items(file, "info"), {})


@contextmanager
def whole_file(path):
    """Gives a path beside `path` to write to; it becomes `path` only if all went well, so that a
    file of that name is whole even after a kill or a power cut."""
    aside = path.with_name(f".{path.name}.part")
    yield aside
    with open(aside, "rb+") as file:
        os.fsync(file.fileno())
    aside.replace(path)
