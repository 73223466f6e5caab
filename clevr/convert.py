"""Turns a folder in the layout of CLEVR v1.0 into the coursework's TFRecords. Threads
do the work: TensorFlow costs each process seconds and 640 MB, and Pillow and NumPy
release the GIL."""

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from PIL import Image
from tqdm import tqdm

from .files import DataError, atomic_write, claim, read_json
from .layout import SPLITS, json_file, record_files, shard_file
from .quiet_tensorflow import tf
from .record import IMAGE_BYTES, SIDE, make_record, words_of

JOB = "convert.json"  # says what a folder was converted from
SOURCE = "source.txt"  # one line that says what the data are, for whoever shows results
SHARD_IMAGES = 128  # 77 MB a file
# Pillow's modes of which RGB can show all colours.
RGB_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")


def convert(src, out, images, workers):
    """Writes `out`/{train,val}/*.tfrecords from a folder in CLEVR's layout, or resumes.
    `images` = {"train": N, "val": M} takes the first N and M images; None takes all.

    Raises DataError if `src` is damaged or incomplete, if `out` holds other records, or
    if the disk is full."""
    for split in SPLITS:
        for path in (src / "images" / split, json_file(src, "questions", split)):
            if not path.exists():
                raise DataError(
                    f"{path} is missing: {src} must have the layout of CLEVR v1.0"
                )
    records = [path for split in SPLITS for path in record_files(out, split)]
    claim(out / JOB, describe_job(src, images), records)
    with atomic_write(out / SOURCE) as temporary:
        temporary.write_text(describe_source(src) + "\n", encoding="utf-8")
    for split in SPLITS:
        pairs = read_pairs(json_file(src, "questions", split), images[split])
        write_shards(src, pairs, out, split, workers)


def describe_job(src, images):
    """What two calls have in common if one can resume the other."""
    hashes = {}
    for split in SPLITS:
        with open(json_file(src, "questions", split), "rb") as file:
            hashes[split] = hashlib.file_digest(file, "sha256").hexdigest()
    return {"images": images, "questions_sha256": hashes}


def describe_source(src):
    """One line on the data in `src`, from the info of its training questions."""
    with open(json_file(src, "questions", "train"), "rb") as file:
        info = next(read_json(file, "info"), {})
    return info.get("description", f"CLEVR v{info.get('version', '1.0')}")


def read_pairs(path, limit):
    """[(image file name, [(question, answer), ...]), ...] of a questions file, of the
    first `limit` images or of all (None). Takes 200 MB for CLEVR v1.0.

    Raises DataError if a question is unusable or there are fewer images."""
    pairs = {}
    last = None
    with (
        open(path, "rb") as file,
        tqdm.wrapattr(
            file, "read", path.stat().st_size, desc=f"reading {path.name}"
        ) as stream,
    ):
        for number, record in enumerate(read_json(stream, "questions.item"), 1):
            try:
                name, question, answer = read_question(record)
            except ValueError as error:
                raise DataError(f"{path}: question {number} {error}") from None
            if name not in pairs:
                if len(pairs) == limit:
                    break
                pairs[name] = []
            elif name != last:
                raise DataError(
                    f"{path}: the questions about {name} do not follow one another: "
                    "sort them by image_index"
                )
            pairs[name].append((question, answer))
            last = name
    if len(pairs) < (limit or 1):
        raise DataError(
            f"{path} holds questions about {len(pairs)} images, not {limit or 1}: "
            "ask for fewer images, or fetch or make the file again"
        )
    return list(pairs.items())


def read_question(record):
    """The image file name, question and answer of an official record of a question;
    ValueError says what is wrong with it."""
    values = []
    for key in ("image_filename", "question", "answer"):
        if key not in record:
            raise ValueError(
                f"lacks {key!r}: bring a training or validation file "
                "(test has no answers)"
            )
        values.append(record[key])
    name, question, answer = values
    if isinstance(answer, bool):  # as CLEVR's own generator writes them
        answer = "yes" if answer else "no"
    elif isinstance(answer, int):
        answer = str(answer)
    if not all(isinstance(text, str) for text in (name, question, answer)):
        raise ValueError(
            f"has {(name, question, answer)}, not text (or a whole number or boolean "
            "as its answer): mend it or leave it out"
        )
    if not words_of(question):
        raise ValueError(f'"{question}" has no word: mend it or leave it out')
    return name, question, answer


def write_shards(src, pairs, out, split, workers):
    """Writes the split's files that are not there, each by one thread."""
    count = -(-len(pairs) // SHARD_IMAGES)
    todo = {}
    for i in range(count):
        path = shard_file(out, split, i, count)
        if not path.exists():
            todo[path] = pairs[i * SHARD_IMAGES : (i + 1) * SHARD_IMAGES]
    need = sum(len(shard) for shard in todo.values()) * IMAGE_BYTES
    free = shutil.disk_usage(out).free
    if need > free:
        raise DataError(
            f"{out / split} needs {need / 1e9:.1f} GB more, but its disk has "
            f"{free / 1e9:.1f}: make room, or convert fewer images to another folder"
        )
    pool = ThreadPoolExecutor(workers)
    try:
        images = src / "images" / split
        written = pool.map(partial(write_shard, images), todo, todo.values())
        for _ in tqdm(written, f"{split}: files", len(todo), unit="file"):
            pass
    finally:
        pool.shutdown(cancel_futures=True)


def write_shard(images, path, shard):
    """Writes one file of records, the same bytes for the same arguments."""
    try:
        with (
            atomic_write(path) as temporary,
            tf.io.TFRecordWriter(str(temporary)) as writer,
        ):
            for name, pairs in shard:
                writer.write(make_record(read_pixels(images / name), pairs))
    except tf.errors.OpError as error:
        raise DataError(
            f"cannot write {error.message}: if the disk is full, make room; then give "
            "the same command again"
        ) from None


def read_pixels(path):
    """An image file as the coursework has it: little-endian int32 (224, 224, 3), RGB,
    0 to 255. Raises DataError if the file cannot be read, or holds more than RGB."""
    try:
        with Image.open(path) as image:
            # Pillow reads the high bytes of 16-bit colour, which is right, but not of
            # 16-bit gray.
            if image.mode not in RGB_MODES or is_transparent(image):
                raise DataError(
                    f"{path} is transparent, or its mode, {image.mode}, holds more "
                    "than RGB of 8 bits: save it as an 8-bit RGB PNG"
                )
            # Pillow's bilinear filter averages as it shrinks, without ringing.
            square = image.convert("RGB").resize(
                (SIDE, SIDE), Image.Resampling.BILINEAR
            )
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as an image ({error}): fetch or make it again"
        ) from None
    return np.asarray(square, "<i4")


def is_transparent(image):
    alpha = image.convert("RGBA").getchannel("A")
    return alpha.getextrema()[0] < 255
