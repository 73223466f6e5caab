"""Reads TFRecords through, counts what they hold, and names the first error."""

import re
from collections import Counter
from dataclasses import dataclass, field

from tqdm import tqdm

from .attributes import VALUES
from .files import DataError
from .layout import record_files
from .quiet_tensorflow import tf
from .record import parse_record, words_of

FRAME_BYTES = 16  # around each record: length and checksums
ANSWER_TYPES = {
    "yes/no": ("yes", "no"),
    "count": tuple(str(count) for count in range(11)),
    **VALUES,
}
TYPE_OF = {answer: name for name, answers in ANSWER_TYPES.items() for answer in answers}

# What else may lie under a record file's name, by its first bytes.
OTHER_KINDS = (
    (b"version https://git-lfs", "a Git LFS pointer: fetch the data with git lfs pull"),
    (b"/annex/objects/", "a git-annex pointer: fetch the data with git annex get"),
    (b"<", "a web page: open its address in a browser, sign in, and download the file"),
    (b"\x89PNG", "a PNG image: make records of images with clevr convert"),
    (b"\xff\xd8\xff", "a JPEG image: make records of images with clevr convert"),
    (b"PK\x03\x04", "a zip archive: unzip it"),
    (b"\x1f\x8b", "compressed (gzip): gunzip it"),
    (b"\x78\x9c", "compressed (zlib): decompress it"),
)


@dataclass
class Tally:
    """What the records of a split hold; `words` in lower case, without punctuation."""

    files: int = 0
    images: int = 0
    questions: int = 0
    words: set = field(default_factory=set)
    answers: Counter = field(default_factory=Counter)

    def answers_by_type(self):
        """How often each answer was given, for each type that occurs:
        {"count": Counter, ...}; "other" holds those that are not CLEVR's."""
        counts = {name: Counter() for name in (*ANSWER_TYPES, "other")}
        for answer, count in self.answers.items():
            counts[TYPE_OF.get(answer, "other")][answer] = count
        return {name: counter for name, counter in counts.items() if counter}


def check(data):
    """Reads all records of `data`/{train,val}: {"train": Tally, "val": Tally}.

    Raises DataError at the first error, with the file and the record's number, counted
    from 1."""
    if not data.is_dir():
        raise DataError(f"{data} is not a folder: is its name right?")
    train = check_split(data, "train")
    return {"train": train, "val": check_split(data, "val", known=train.answers)}


def check_split(data, split, known=None):
    """The Tally of a split. Its answers must be among `known`, if that is given."""
    files = record_files(data, split)
    if not files:
        raise DataError(f"{data / split} holds no .tfrecords files: see data/README.md")
    refuse_missing_shards(files)
    tally = Tally(files=len(files))
    for path in tqdm(files, f"checking {split}", unit="file"):
        for number, record in enumerate(read_records(path), 1):
            try:
                questions, answers = parse_record(record)
            except ValueError as error:
                raise DataError(
                    f"{path}: record {number}: {error}: "
                    "fetch or convert the file again, or leave the record out"
                ) from None
            for answer in answers:
                if known is not None and answer not in known:
                    raise DataError(
                        f'{path}: record {number}: answer "{answer}" does not occur in '
                        "training: bring more training records, or leave this one out"
                    )
            tally.images += 1
            tally.questions += len(questions)
            tally.answers.update(answers)
            for question in questions:
                tally.words.update(words_of(question))
    return tally


def refuse_missing_shards(files):
    """Raises DataError if files are named like x-00000-of-00003, whatever stands before
    and behind the numbers, and one of them is missing."""
    groups = {}
    for path in files:
        match = re.fullmatch(r"(.*?)(\d+)([-_]of[-_]0*)(\d+)(.*)", path.name)
        if match:
            before, index, of, count, behind = match.groups()
            group = groups.setdefault((before, len(index), of, count, behind), set())
            group.add(int(index))
    for (before, width, of, count, behind), found in groups.items():
        start = 1 if int(count) in found else 0  # some count from 1
        for index in range(start, start + int(count)):
            if index not in found:
                name = f"{before}{index:0{width}}{of}{count}{behind}"
                raise DataError(
                    f"{files[0].with_name(name)} is missing, one of {count} files: "
                    "fetch or convert it, or rename the others if they are all"
                )


def read_records(path):
    """Yields the records of a file, as bytes. Raises DataError if it is damaged, empty,
    or no TFRecord file."""
    with open(path, "rb") as file:
        head = file.read(64)
    count = 0
    size = 0
    try:
        # A thread reads ahead.
        records = tf.data.TFRecordDataset(str(path)).prefetch(4)
        for record in records.as_numpy_iterator():
            count += 1
            size += len(record) + FRAME_BYTES
            yield record
    except tf.errors.DataLossError:
        size = None
    if count == 0:
        raise DataError(f"{path} {what_else(head)}")
    # TensorFlow takes a truncated frame for the end of the file.
    if size != path.stat().st_size:
        raise DataError(
            f"{path}: record {count + 1} is corrupt or truncated: "
            "fetch or convert the file again"
        )


def what_else(head):
    """What a file is that begins with the bytes `head` and no record; the remedy."""
    if not head:
        return "is empty: fetch or convert it again"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for start, kind in OTHER_KINDS:
        if head.startswith(start) or text.startswith(start):
            return f"is {kind}"
    return (
        "has no readable record 1 (corrupt, truncated or of another kind): "
        "fetch or convert it again"
    )
