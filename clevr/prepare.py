"""Decides what a data folder needs: new data, the rest of our own, or only a check."""

import json
import sys
from pathlib import Path

from . import layout
from .layout import SPLITS, DamagedFile, DataError, atomic_write, record_files
from .workers import default_workers

SEED = 2
SIZES = {
    "small": {"train": 256, "val": 64},
    "coursework": {"train": 14950, "val": 3750},
}


def prepare(data, size=None, state=None):
    """Makes the folder `data` ready for training; returns what `tfrecords.check` counts in it.

    A folder without TFRecords gets our data of `size` (a key of SIZES, None for "small"). Our own data are
    completed or mended if need be; anybody else's are only checked. The files that were found whole are
    noted in the file `state`: if they are still the same, nothing is read and None is returned.

    Raises DataError if the data are damaged, or are there but not of the `size` that is asked for."""
    if not record_files(data):
        for path in data.rglob("[!.]*tfrecord*"):
            raise DataError(
                f"{path} is neither in {data / 'train'} nor in {data / 'val'}: move it there"
            )
        ours, size = True, size or "small"
    else:
        found = stated_size(data)
        if size not in (None, found):
            raise DataError(
                f"{data} holds other data than those of size {size}: empty it, "
                "or name another folder (make DATA_DIR=...)"
            )
        ours, size = found is not None and (data / layout.MANIFEST).exists(), found
    if state and state.exists() and state.read_bytes() == list_files(data):
        return None
    # Not before: TensorFlow takes seconds.
    from . import tfrecords

    if ours and not all(tfrecords.is_complete(data, split) for split in SPLITS):
        from .generate import generate

        images = Path("build") / f"clevr-{size}"
        generate(images, SIZES[size], SEED, default_workers())
        tfrecords.convert(images, data, None, default_workers())
    files = list_files(data)
    try:
        tallies = tfrecords.check(data)
    except DamagedFile as error:
        if not ours:
            raise
        print(f"{error.path} is damaged and made again", file=sys.stderr)
        error.path.unlink()
        return prepare(data, size, state)
    if state:
        with atomic_write(state) as temporary:
            temporary.write_bytes(files)
    return tallies


def stated_size(data):
    """The key of SIZES that source.txt states; None if it states none.

    Raises DataError if source.txt says the data are ours, but there are other files."""
    source = data / "source.txt"
    text = (
        source.read_text(encoding="utf-8", errors="replace").strip()
        if source.exists()
        else ""
    )
    if text.startswith(layout.OURS):
        for path in record_files(data):
            if not layout.is_shard(path):
                raise DataError(
                    f"{path} is not of the data that {source} describes: empty {data} but for "
                    "README.md, then bring one set of data"
                )
    return next(
        (size for size in SIZES if text == layout.description(SEED, SIZES[size])), None
    )


def list_files(data):
    """Names, sizes and times of change of the TFRecords, as bytes."""
    files = {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in record_files(data)
    }
    return json.dumps(files, indent=1).encode()
