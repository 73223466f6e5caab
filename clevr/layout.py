"""Where files lie and what they hold: the layout of CLEVR v1.0 (Johnson et al., CVPR 2017), ours and that of
https://cs.stanford.edu/people/jcjohns/clevr/, and the data folder of TFRecords."""

import os
import re
from contextlib import contextmanager

import ijson

SPLITS = ("train", "val")  # the official test split has no answers
OURS = "CLEVR-like data made by this project, not CLEVR"
MANIFEST = "convert.json"  # in the data folder, if we converted it


class DataError(Exception):
    """What is wrong with the user's files or arguments, in one line that names the file."""


class DamagedFile(DataError):
    """A record file, `path`, with corrupt or invalid contents, as `problem` says."""

    def __init__(self, path, problem):
        super().__init__(
            f"{path}: {problem}: delete the file, then fetch or convert it again"
        )
        self.path = path


def image_file(root, split, index):
    return root / "images" / split / f"CLEVR_{split}_{index:06d}.png"


def json_file(root, kind, split):
    """The file of a split's "scenes" or "questions", whichever `kind` says."""
    return root / kind / f"CLEVR_{split}_{kind}.json"


def record_files(data, *splits):
    """The TFRecords of these splits, or of all, in the order in which they are read."""
    # Also *.tfrecord and *.tfrecord-00000-of-00010. Half-written files begin with a dot.
    return sorted(
        path
        for split in splits or SPLITS
        for path in (data / split).glob("[!.]*tfrecord*")
        if path.is_file()
    )


def shard_name(split, index, count):
    return f"{split}-{index:05d}-of-{count:05d}.tfrecords"


def is_shard(path):
    """Whether a path is named like our shards."""
    return (
        re.fullmatch(rf"{path.parent.name}-\d{{5}}-of-\d{{5}}\.tfrecords", path.name)
        is not None
    )


def description(seed, images):
    """How our own data describe themselves: in the info of their JSON files and in source.txt."""
    return f"{OURS} (seed {seed}, {images['train']} + {images['val']} images)"


def read_json(file, prefix):
    """Streams what an open (binary) scene or question file holds under a prefix, in constant memory:
    "scenes.item", "questions.item" or "info". Raises DataError if the file is not JSON."""
    try:
        yield from ijson.items(file, prefix, use_float=True)
    except ijson.JSONError as error:
        reason = " ".join(str(error).split())  # it may draw an arrow over several lines
        raise DataError(
            f"{file.name}: truncated or not JSON ({reason}): fetch or make it again"
        ) from None


def partial_path(path):
    """Where a file is written before it is complete."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def atomic_write(path):
    """Gives a temporary path to write to, which is renamed to `path` only if all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    yield partial_path(path)
    with open(partial_path(path), "rb+") as file:
        os.fsync(file.fileno())
    partial_path(path).replace(path)
