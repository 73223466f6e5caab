"""Fills an empty data folder with our own data; reads any other as it is."""

import json
import shutil
from pathlib import Path

from .files import DataError, atomic_write
from .layout import SPLITS, record_files
from .workers import default_workers

SEED = 2
SIZES = {
    "small": {"train": 256, "val": 64},
    "coursework": {"train": 14950, "val": 3750},
}
DEFAULT = Path("data")  # made if it does not exist, as no other folder is
BUILD = Path("build")
EMPTY = ("README.md", "source.txt", *SPLITS)  # what an empty data folder may hold


def prepare(data, size=None, state=None):
    """Reads the TFRecords of the folder `data` through, made before if it is empty: of
    `size`, a key of SIZES, "small" if it is None. Returns what `check` counts.

    The file `state` notes which files were found whole: if they are still the same,
    nothing is read and None is returned. Files that are there are never changed.

    Raises DataError if they are damaged, or not as many records as `size` says."""
    if not any(list_files(data).values()):
        refuse_other_files(data)
        make(data, size or "small")
    files = list_files(data)
    noted = read_state(state)
    tallies = None
    if noted.get("files") != files:
        # Not before: TensorFlow takes seconds.
        from .check import check

        tallies = check(data)
        images = {split: tally.images for split, tally in tallies.items()}
        noted = {"files": files, "images": images}
        if state:
            with atomic_write(state) as temporary:
                temporary.write_text(json.dumps(noted, indent=1), encoding="utf-8")
    if size and noted["images"] != SIZES[size]:
        raise DataError(
            f"{data} holds {noted['images']['train']:,} + {noted['images']['val']:,} "
            f"images, not those of size {size}: empty it but for README.md, name "
            "another folder (make DATA_DIR=...), or leave out the size"
        )
    return tallies


def list_files(data):
    """Names, sizes and times of change of the TFRecords, by split."""
    files = {}
    for split in SPLITS:
        files[split] = {}
        for path in record_files(data, split):
            status = path.stat()
            files[split][str(path)] = [status.st_size, status.st_mtime_ns]
    return files


def read_state(state):
    """What an earlier call noted; an empty dict if it noted nothing readable."""
    try:
        return json.loads(state.read_text(encoding="utf-8")) if state else {}
    except (FileNotFoundError, ValueError):
        return {}


def refuse_other_files(data):
    """Raises DataError unless the folder `data`, which has no records, is empty; the
    default one need not exist."""
    if not data.is_dir():
        if data.resolve() == DEFAULT.resolve() and not data.exists():
            return
        raise DataError(
            f"{data} is not a folder: is its name right? Make it, empty, to have data "
            "generated in it"
        )
    for path in sorted(data.rglob("*")):
        name = path.relative_to(data).as_posix()
        if name not in EMPTY and not name.startswith("."):
            raise DataError(
                f"{data} holds {name}, but no files with tfrecord in their names in "
                "train/ and val/: move or rename the records, or empty it but for "
                "README.md"
            )


def make(data, size):
    """Makes our data in build/, resuming there, and moves them to `data` when whole."""
    from .convert import SOURCE, convert
    from .generate import generate

    images = BUILD / f"clevr-{size}"
    made = BUILD / f"data-{size}"
    generate(images, SIZES[size], SEED, default_workers())
    convert(images, made, SIZES[size], default_workers())
    data.mkdir(exist_ok=True)
    # To another disk, a move takes minutes: its target is hidden until it is whole.
    for split in SPLITS:
        move(made / split, data / f".{split}")
    for split in SPLITS:
        (data / f".{split}").replace(data / split)
    shutil.move(made / SOURCE, data / SOURCE)
    shutil.rmtree(made)


def move(source, target):
    """Moves a folder; `target` may be left of an interrupted move."""
    shutil.rmtree(target, ignore_errors=True)
    try:
        shutil.move(source, target)
    except shutil.Error as error:
        reason = error.args[0][0][2]
        raise DataError(
            f"cannot move {source} to {target} ({reason}): if the disk is full, make "
            "room; then give the same command again"
        ) from None
