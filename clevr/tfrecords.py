"""Turns a folder in the layout of CLEVR v1.0 into the coursework's TFRecords, and checks such files. Threads
do the work: TensorFlow costs every process 3.6 s and 640 MB; Pillow and NumPy release the GIL."""

import hashlib
import json
import os
import shutil
import string
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from mmap import ACCESS_READ, mmap

import numpy as np
from google.protobuf.message import DecodeError
from PIL import Image
from tqdm import tqdm

from . import layout
from .layout import (
    SPLITS,
    DamagedFile,
    DataError,
    atomic_write,
    is_shard,
    json_file,
    record_files,
)
from .questions import VALUES

_stderr = os.dup(2)
os.dup2(
    os.open(os.devnull, os.O_WRONLY), 2
)  # two notices of TensorFlow that no setting turns off
try:
    import tensorflow as tf
finally:
    os.dup2(_stderr, 2)

SIDE = 224
IMAGE_BYTES = SIDE * SIDE * 3 * 4  # int32
FRAME_BYTES = 16  # around each record: length and checksums
SHARD_IMAGES = 128  # 77 MB a file
RGB_MODES = (
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
)  # of Pillow: RGB can show all their colours
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
COMPRESSED = {
    b"\x1f\x8b": "(gzip): gunzip it",
    b"\x78\x9c": "(zlib): decompress it",
}  # by the first bytes


def convert(src, out, limit, workers):
    """Writes `out`/{train,val}/*.tfrecords from the CLEVR v1.0 folder `src`, the first `limit` images of each
    split or all (None), or resumes. `src` and `out` are Paths.

    Raises DataError if `src` is incomplete or `out` holds other files."""
    hashes = {}
    for split in SPLITS:
        questions = json_file(src, "questions", split)
        for path in (src / "images" / split, questions):
            if not path.exists():
                raise DataError(
                    f"{path} is missing: {src} must be a folder in the layout of CLEVR v1.0"
                )
        with open(questions, "rb") as file:
            info = next(layout.read_json(file, "info"), {})  # of both splits the same
            hashes[split] = hashlib.sha256(
                mmap(file.fileno(), 0, access=ACCESS_READ)
            ).hexdigest()
    job = json.dumps({"limit": limit, "questions_sha256": hashes}, indent=1) + "\n"
    files, manifest = record_files(out), out / layout.MANIFEST
    if files and not (
        all(map(is_shard, files)) and manifest.exists() and manifest.read_text() == job
    ):
        raise DataError(
            f"{out} holds TFRecords of another source or limit: empty it, or name another folder"
        )
    source = info.get("description", f"CLEVR v{info.get('version', '1.0')}") + "\n"
    # source.txt is one line that says what the data are, for whoever shows results.
    for path, text in (manifest, job), (out / "source.txt", source):
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    for split in SPLITS:
        if not is_complete(out, split):
            pairs = read_pairs(json_file(src, "questions", split), limit)
            write_shards(src / "images" / split, pairs, out / split, workers)


def is_complete(data, split):
    """Whether the data folder has all the shards of a split that their names promise."""
    names = [path.name for path in record_files(data, split) if is_shard(path)]
    return bool(names) and names == [
        layout.shard_name(split, i, len(names)) for i in range(len(names))
    ]


def read_pairs(source, limit):
    """[(image file name, [(question, answer), ...]), ...] from a questions file: 200 MB for CLEVR v1.0."""
    pairs, last = {}, None
    with (
        open(source, "rb") as file,
        tqdm.wrapattr(
            file, "read", source.stat().st_size, desc=f"reading {source.name}"
        ) as stream,
    ):
        for number, record in enumerate(layout.read_json(stream, "questions.item"), 1):
            try:
                name, question, answer = (
                    record[key] for key in ("image_filename", "question", "answer")
                )
            except (KeyError, TypeError) as error:
                raise DataError(
                    f"{source}: question {number} lacks {error}: "
                    "bring a training or validation file (test has no answers)"
                ) from None
            if isinstance(
                answer, int
            ):  # CLEVR's own generator writes numbers and booleans
                answer = {"True": "yes", "False": "no"}.get(str(answer), str(answer))
            if not all(isinstance(text, str) for text in (name, question, answer)):
                raise DataError(
                    f"{source}: question {number} has {(name, question, answer)}, not text (or a "
                    "whole number or boolean as its answer): fix it or leave it out"
                )
            if name not in pairs:
                if len(pairs) == limit:
                    break
            elif name != last:
                raise DataError(
                    f"{source}: the questions about {name} do not follow one another: "
                    "sort them by image_index"
                )
            last = name
            pairs.setdefault(name, []).append((question, answer))
    if not pairs:
        raise DataError(f"{source} holds no questions: fetch or make it again")
    return list(pairs.items())


def write_shards(images, pairs, folder, workers):
    """Writes the shards that `folder` lacks, each by one thread."""
    shards = [pairs[i : i + SHARD_IMAGES] for i in range(0, len(pairs), SHARD_IMAGES)]
    paths = [
        folder / layout.shard_name(folder.name, i, len(shards))
        for i in range(len(shards))
    ]
    todo = {
        path: shard
        for path, shard in zip(paths, shards, strict=True)
        if not path.exists()
    }
    need, free = (
        sum(map(len, todo.values())) * IMAGE_BYTES,
        shutil.disk_usage(folder.parent).free,
    )
    if need > free:
        raise DataError(
            f"{folder} needs {need / 1e9:.1f} GB more, but its disk has {free / 1e9:.1f}: "
            "make room, name another folder, or give a smaller --limit"
        )
    with ThreadPoolExecutor(workers) as pool:
        written = pool.map(partial(write_shard, images), todo, todo.values())
        for _ in tqdm(written, f"{folder.name}: files", len(todo), unit="file"):
            pass


def write_shard(images, path, shard):
    """Writes one file of records, the same bytes for the same arguments."""
    with (
        atomic_write(path) as temporary,
        tf.io.TFRecordWriter(str(temporary)) as writer,
    ):
        for name, pairs in shard:
            example = tf.train.Example()
            feature = example.features.feature
            feature["image"].bytes_list.value.append(
                read_pixels(images / name).tobytes()
            )
            for question, answer in pairs:
                feature["question"].bytes_list.value.append(question.encode())
                feature["answer"].bytes_list.value.append(answer.encode())
            writer.write(example.SerializeToString(deterministic=True))


def read_pixels(path):
    """An image file as the coursework has it: little-endian int32 (224, 224, 3), RGB, 0 to 255."""
    try:
        with Image.open(path) as image:
            # Of 16-bit colour, Pillow reads the high bytes, which is right; of 16-bit gray, it is not.
            if (
                image.mode not in RGB_MODES
                or image.convert("RGBA").getextrema()[3][0] < 255
            ):
                raise DataError(
                    f"{path} is transparent, or its mode, {image.mode}, holds more than RGB of 8 "
                    "bits: save it as an 8-bit RGB PNG"
                )
            # Pillow's bilinear filter averages as it shrinks, without ringing.
            return np.asarray(
                image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR),
                "<i4",
            )
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as an image ({error}): fetch or make it again"
        ) from None


@dataclass
class Tally:
    """What the records of a split hold. `words` are lower-case, without punctuation."""

    files: int = 0
    images: int = 0
    questions: int = 0
    words: set = field(default_factory=set)
    answers: Counter = field(default_factory=Counter)

    def answers_by_type(self):
        """How often each answer was given, for each type that occurs: {"count": Counter, ...}."""
        types = {
            "yes/no": ("yes", "no"),
            "count": map(str, range(11)),
            **VALUES,
            "other": (),
        }
        type_of = {
            answer: name for name, answers in types.items() for answer in answers
        }
        counts = {name: Counter() for name in types}
        for answer, count in self.answers.items():
            counts[type_of.get(answer, "other")][answer] = count
        return {name: counter for name, counter in counts.items() if counter}


def check(data):
    """Reads all records of `data`/{train,val}, a Path, and returns {"train": Tally, "val": Tally}.

    Raises DataError at the first error, with the file and the record's number, counted from 1."""
    for split in SPLITS:
        files = record_files(data, split)
        if not files:
            raise DataError(
                f"{data / split} holds no .tfrecords files: see data/README.md"
            )
        if (
            (data / layout.MANIFEST).exists()
            and any(map(is_shard, files))
            and not is_complete(data, split)
        ):
            raise DataError(
                f"{data / split} lacks files, convert was interrupted: run it again"
            )
    tallies = {split: Tally() for split in SPLITS}
    for path in tqdm(record_files(data), "checking", unit="file"):
        check_file(path, tallies[path.parent.name], tallies["train"].answers)
    return tallies


def check_file(path, tally, known):
    """Adds the records of a file to `tally`; then its answers must be among `known`."""
    tally.files += 1
    with open(path, "rb") as file:
        compressed = COMPRESSED.get(file.read(2))
    number = size = 0
    try:
        records = tf.data.TFRecordDataset(str(path)).prefetch(
            4
        )  # read ahead by a thread
        for number, record in enumerate(records.as_numpy_iterator(), 1):
            questions, answers = parse(record)
            tally.images += 1
            tally.questions += len(questions)
            tally.answers.update(answers)
            for answer in answers:
                if answer not in known:
                    raise DataError(
                        f'{path}: record {number}: answer "{answer}" does not occur in training: '
                        "bring more training records, or leave this one out"
                    )
            for question in questions:
                tally.words.update(question.lower().translate(NO_PUNCTUATION).split())
            size += len(record) + FRAME_BYTES
        if (
            size < path.stat().st_size
        ):  # TensorFlow takes a truncated frame for the end of the file
            raise tf.errors.DataLossError(None, None, "truncated")
    except tf.errors.DataLossError as error:
        if number == 0 and compressed:
            raise DataError(f"{path} is compressed {compressed}") from None
        kind = (
            "truncated, the file ends within it"
            if "truncated" in error.message
            else "bad CRC"
        )
        raise DamagedFile(path, f"record {number + 1}: {kind}") from None
    except ValueError as error:
        raise DamagedFile(path, f"record {number}: {error}") from None
    if number == 0:
        raise DamagedFile(path, "empty, it holds no record 1")


def parse(record):
    """The questions and answers of a record, as lists of strings; ValueError if anything is wrong."""
    try:
        features = tf.train.Example.FromString(record).features.feature
    except DecodeError:
        raise ValueError("not a tf.train.Example") from None
    for name in ("image", "question", "answer"):
        if name not in features:
            raise ValueError(f'feature "{name}" is missing (it has {sorted(features)})')
    images, questions, answers = (
        features[name].bytes_list.value for name in ("image", "question", "answer")
    )
    if len(images) != 1 or len(images[0]) != IMAGE_BYTES:
        raise ValueError(
            f"image holds {[*map(len, images)]} bytes, not [{IMAGE_BYTES}] (224x224x3 int32)"
        )
    pixels = np.frombuffer(images[0], "<i4")
    if pixels.min() < 0 or pixels.max() > 255:
        raise ValueError(
            f"image has values from {pixels.min()} to {pixels.max()}, not within 0 to 255"
        )
    if not questions or len(questions) != len(answers):
        raise ValueError(
            f"{len(questions)} questions and {len(answers)} answers, not the same number from 1"
        )
    return [text.decode() for text in questions], [text.decode() for text in answers]
