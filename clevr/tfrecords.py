"""Turns a folder in the layout of CLEVR v1.0 into the coursework's TFRecords, and checks such files.

Threads of one process do the work, not processes: Pillow and NumPy let go of the interpreter lock,
while TensorFlow costs every process that imports it 3.6 s and 640 MB."""

import hashlib
import json
import shutil
import string
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from PIL import Image
from tqdm import tqdm

from .official import SPLITS, DataError, images_folder, questions_file, read_info, read_records, whole_file

SIDE = 224
IMAGE_BYTES = SIDE * SIDE * 3 * 4                   # int32
FRAME_BYTES = 16                                    # around each record: length and checksums
SHARD_IMAGES = 128                                  # 77 MB a file
FILTER = Image.Resampling.BILINEAR                  # Pillow's: averages as it shrinks, no ringing
MANIFEST = "convert.json"
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
REMEDY = "delete the file, then fetch or convert it again"


def convert(src, out, limit, workers):
    """Writes `out`/{train,val}/*.tfrecords from the CLEVR v1.0 folder `src`, the first `limit` images
    of each split or all (None), with `workers` threads; goes on where an earlier call stopped.

    Raises DataError if `src` is incomplete or `out` holds files of another job."""
    src, out = Path(src), Path(out)
    for path in [place(src, split) for split in SPLITS for place in (images_folder, questions_file)]:
        if not path.exists():
            raise DataError(f"{path} is missing: {src} must be a folder in the layout of CLEVR v1.0")
    claim(out, src, limit)
    write_source(out, src)
    for split in SPLITS:
        (out / split).mkdir(exist_ok=True)
        if not is_complete(out / split):
            pairs = pairs_file(out, split)
            if not pairs.exists():
                gather_pairs(questions_file(src, split), pairs, limit)
            write_shards(images_folder(src, split), pairs, out / split, workers)
        pairs_file(out, split).unlink(missing_ok=True)


def claim(out, src, limit):
    """Notes in `out` what it is made from, or raises DataError if it is made from something else."""
    manifest = out / MANIFEST
    job = {"limit": limit,
           "questions_sha256": {split: sha256(questions_file(src, split)) for split in SPLITS}}
    if manifest.exists():
        if json.loads(manifest.read_text(encoding="utf-8")) != job:
            raise DataError(f"{out} holds records of another source or limit ({manifest}): "
                            "name another folder, or empty this one")
    elif any(out.glob("*/*tfrecords")):
        raise DataError(f"{out} holds TFRecords that this command did not write: "
                        "name another folder")
    else:
        out.mkdir(parents=True, exist_ok=True)
        with whole_file(manifest) as aside:
            aside.write_text(json.dumps(job, indent=1) + "\n", encoding="utf-8")


def write_source(out, src):
    """Writes `out`/source.txt, one line that says what the data are, for whoever shows results."""
    if (out / "source.txt").exists():
        return
    info = read_info(questions_file(src, "train"))
    with whole_file(out / "source.txt") as aside:
        aside.write_text(info.get("description", f"CLEVR v{info.get('version', '1.0')}") + "\n",
                         encoding="utf-8")


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(partial(file.read, 1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def is_complete(folder):
    """Whether `folder` holds all the shards that its file names speak of."""
    shards = [path.stem for path in folder.glob("*-of-*.tfrecords")]
    return bool(shards) and len(shards) == int(shards[0].rpartition("-")[2])


def pairs_file(out, split):
    """Where the questions of a split wait to be written; it is there only until they all are."""
    return out / f".{split}-pairs.jsonl"


def gather_pairs(source, path, limit):
    """Writes one JSON line an image, [file name, questions, answers], in the order of the questions
    file `source`, so that the number of shards is known and a restart need not parse that file."""
    seen = set()
    with (open(source, "rb") as file, whole_file(path) as aside,
          open(aside, "w", encoding="utf-8") as lines,
          tqdm.wrapattr(file, "read", source.stat().st_size, desc=f"reading {source.name}") as stream):
        for name, triples in groupby(read_triples(stream), lambda triple: triple[0]):
            if name in seen:
                raise DataError(f"{source}: the questions about {name} do not follow one another: "
                                "sort them by image_index")
            seen.add(name)
            _, questions, answers = zip(*triples)
            lines.write(json.dumps([name, questions, answers]) + "\n")
            if len(seen) == limit:
                break
        if not seen:
            raise DataError(f"{source} holds no questions: fetch or make it again")


def read_triples(file):
    """Streams image file name, question and answer from an open questions file."""
    for number, record in enumerate(read_records(file, "questions"), 1):
        try:
            triple = record["image_filename"], record["question"], record["answer"]
        except (KeyError, TypeError) as fault:
            raise DataError(f"{file.name}: question {number} lacks {fault}: "
                            "bring a training or validation file (test has no answers)") from None
        if not all(isinstance(text, str) for text in triple):
            raise DataError(f"{file.name}: question {number}: image_filename, question and answer "
                            f"must be strings, not {triple}")
        yield triple


def write_shards(images, pairs, folder, workers):
    """Writes the shards that `folder` lacks, each by one thread."""
    shards = find_shards(pairs)
    todo, lacking = {}, 0
    for i, (start, size) in enumerate(shards):
        path = folder / f"{folder.name}-{i:05d}-of-{len(shards):05d}.tfrecords"
        if not path.exists():
            todo[path] = start
            lacking += size
    need, free = lacking * IMAGE_BYTES, shutil.disk_usage(folder).free
    if need > free:
        raise DataError(f"{folder} needs {need / 1e9:.1f} GB more, but its disk has {free / 1e9:.1f}: "
                        "make room, name another folder, or give a smaller --limit")
    total = sum(size for _, size in shards)
    with (tqdm(desc=f"{folder.name}: records", total=total, initial=total - lacking,
               unit="image") as bar, ThreadPoolExecutor(workers) as pool):
        for written in pool.map(partial(write_shard, images, pairs), todo, todo.values()):
            bar.update(written)


def find_shards(pairs):
    """Where in `pairs` each shard begins, in bytes, and how many lines it has: [[start, size], ...]."""
    shards, offset = [], 0
    with open(pairs, "rb") as lines:
        for i, line in enumerate(lines):
            if i % SHARD_IMAGES == 0:
                shards.append([offset, 0])
            shards[-1][1] += 1
            offset += len(line)
    return shards


def write_shard(images, pairs, path, start):
    """Writes one file of records, whole or not at all; returns their number."""
    with open(pairs, "rb") as lines:
        lines.seek(start)
        batch = [json.loads(line) for line in islice(lines, SHARD_IMAGES)]
    with whole_file(path) as aside, tf.io.TFRecordWriter(str(aside)) as writer:
        for name, questions, answers in batch:
            writer.write(serialize(read_pixels(images / name), questions, answers))
    return len(batch)


def read_pixels(path):
    """A picture file as the coursework has it: little-endian int32 (224, 224, 3), RGB, 0 to 255."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB").resize((SIDE, SIDE), FILTER), "<i4")
    except (OSError, SyntaxError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise DataError(f"{path} is no whole picture ({reason}): fetch or make it again") from None


def serialize(pixels, questions, answers):
    """The bytes of a tf.train.Example, the same for the same arguments."""
    values = {"image": [pixels.tobytes()], "question": [text.encode() for text in questions],
              "answer": [text.encode() for text in answers]}
    features = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
                for name, value in values.items()}
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


@dataclass
class Tally:
    """What the records of a split hold. `words` are lower-case, without punctuation."""

    files: int = 0
    images: int = 0
    questions: int = 0
    words: set = field(default_factory=set)
    answers: Counter = field(default_factory=Counter)


def check(data):
    """Reads all records of `data`/{train,val}/*.tfrecords and returns {"train": Tally, "val": Tally}.

    Raises DataError at the first fault, with the file and the record's number, counted from 1."""
    files = {split: sorted((Path(data) / split).glob("*tfrecords")) for split in SPLITS}
    for split in SPLITS:
        if not files[split]:
            raise DataError(f"{Path(data) / split} holds no .tfrecords files: bring or make some "
                            "(data/README.md says how)")
        if pairs_file(Path(data), split).exists():
            raise DataError(f"{Path(data) / split} is unfinished, convert was interrupted: "
                            "give the same command again")
    tallies = {split: Tally() for split in SPLITS}
    size = sum(path.stat().st_size for split in SPLITS for path in files[split])
    with tqdm(desc="checking", total=size, unit="B", unit_scale=True) as bar:
        for split in SPLITS:
            known = None if split == "train" else tallies["train"].answers
            for path in files[split]:
                check_file(path, tallies[split], known, bar)
    return tallies


def check_file(path, tally, known, bar):
    """Adds the records of a file to `tally`. Answers must be among `known`, unless it is None."""
    tally.files += 1
    number = size = 0
    try:
        for number, record in enumerate(stream(path), 1):
            questions, answers = parse(record)
            for answer in answers:
                if known is not None and answer not in known:
                    raise DataError(f'answer "{answer}" occurs nowhere in training: a classifier '
                                    "cannot learn it; bring more training records, or leave this out")
            tally.images += 1
            tally.questions += len(questions)
            tally.answers.update(answers)
            for question in questions:
                tally.words.update(question.lower().translate(NO_PUNCTUATION).split())
            size += len(record) + FRAME_BYTES
            bar.update(len(record) + FRAME_BYTES)
        if size < path.stat().st_size:      # TensorFlow takes a torn frame for the end of the file
            raise tf.errors.DataLossError(None, None, "truncated")
    except tf.errors.DataLossError as fault:
        kind = "torn, the file ends within it" if "truncated" in fault.message else "bad CRC"
        raise DataError(f"{path}: record {number + 1}: {kind}: {REMEDY}") from None
    except DataError as fault:
        raise DataError(f"{path}: record {number}: {fault}") from None
    if number == 0:
        raise DataError(f"{path}: empty, it holds no record 1: {REMEDY}")


def stream(path):
    """The bytes of each record; TensorFlow reads ahead in a thread of its own."""
    return tf.data.TFRecordDataset(str(path)).prefetch(4).as_numpy_iterator()


def parse(record):
    """The questions and answers of a record, as lists of strings; DataError if anything is amiss."""
    try:
        features = tf.train.Example.FromString(record).features.feature
    except DecodeError:
        raise DataError(f"not a tf.train.Example: {REMEDY}") from None
    for name in ("image", "question", "answer"):
        if name not in features:
            raise DataError(f'feature "{name}" is missing (it has {sorted(features)}): {REMEDY}')
    values = {name: features[name].bytes_list.value for name in ("image", "question", "answer")}
    check_image(values["image"])
    questions, answers = values["question"], values["answer"]
    if not questions or len(questions) != len(answers):
        raise DataError(f"{len(questions)} questions and {len(answers)} answers, which must be "
                        f"as many, and at least one: {REMEDY}")
    try:
        return [text.decode() for text in questions], [text.decode() for text in answers]
    except UnicodeDecodeError as fault:
        raise DataError(f"text is not UTF-8 ({fault}): {REMEDY}") from None


def check_image(values):
    if len(values) != 1 or len(values[0]) != IMAGE_BYTES:
        raise DataError(f"image holds {[len(value) for value in values]} bytes, not [{IMAGE_BYTES}] "
                        f"(224x224x3 int32): {REMEDY}")
    pixels = np.frombuffer(values[0], "<i4")
    if pixels.min() < 0 or pixels.max() > 255:
        raise DataError(f"image has values from {pixels.min()} to {pixels.max()}, "
                        f"not within 0 to 255: {REMEDY}")
