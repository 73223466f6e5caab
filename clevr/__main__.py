"""The command line: python -m clevr prepare | generate | convert | check."""

import argparse
import os
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from .layout import SPLITS, DataError
from .prepare import SIZES, prepare
from .workers import default_workers

EXAMPLES = """\
examples:
  python -m clevr prepare data          all in one: makes a small set if DATA is empty

  python -m clevr generate build/clevr --train 2000 --val 500 --seed 1
  python -m clevr convert build/clevr data
  python -m clevr check data

  python -m clevr convert CLEVR_v1.0 data --limit 3750          the official images, unpacked"""


def main():
    """Runs the command; returns what `sys.exit` takes: None, an error to print, or a status."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no notices
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # nothing here needs a GPU
    try:
        run(**vars(parse_arguments()))
    except (DataError, OSError) as error:
        return f"error: {error}"
    except BrokenProcessPool:
        return (
            "error: a worker process was killed (out of memory?): give the same command again, "
            "or generate with fewer --workers"
        )
    except KeyboardInterrupt:
        print("interrupted: the same command resumes from here", file=sys.stderr)
        return 130


def run(command, **arguments):
    """Imports only what the command needs: --help and generate do without TensorFlow."""
    if command == "generate":
        from .generate import generate

        images = {split: arguments.pop(split) for split in SPLITS}
        return generate(images=images, **arguments)
    if command == "prepare":
        tallies = prepare(**arguments)
    else:
        from . import tfrecords

        tallies = getattr(tfrecords, command)(**arguments)
    if tallies:
        report(tallies)


def parse_arguments():
    parser = argparse.ArgumentParser(
        "python -m clevr",
        description="Makes CLEVR-like data, and TFRecords from CLEVR or from it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add_command(name, summary, details, **folders):
        command = commands.add_parser(
            name, help=summary, description=f"{name} {summary}. {details}"
        )
        for folder, what in folders.items():
            command.add_argument(folder, type=Path, metavar=folder.upper(), help=what)
        return command

    workers = {
        "type": at_least(1),
        "default": default_workers(),
        "metavar": "K",
        "help": "parallel workers (%(default)s: what CPUs and memory allow)",
    }

    command = add_command(
        "prepare",
        "makes, completes or only checks a data folder, as it needs",
        "Data that you brought are only checked. Our images stay in build/clevr-SIZE.",
        data="folder with train/ and val/ TFRecords, or empty",
    )
    command.add_argument(
        "--size",
        choices=SIZES,
        help="of our own data: "
        + ", ".join(
            f"{size} ({images['train']:,} + {images['val']:,} images)"
            for size, images in SIZES.items()
        ),
    )
    command.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="notes which files were found whole; they are not read again",
    )

    command = add_command(
        "generate",
        "makes scenes, images and questions in the layout of CLEVR v1.0",
        "The same seed makes the same set. The same command resumes an interrupted run.",
        out="folder to make",
    )
    command.add_argument(
        "--train", type=at_least(1), required=True, metavar="N", help="training images"
    )
    command.add_argument(
        "--val", type=at_least(1), required=True, metavar="M", help="validation images"
    )
    command.add_argument(
        "--seed",
        type=at_least(0),
        required=True,
        metavar="S",
        help="0, 1, ...: which set",
    )
    command.add_argument("--workers", **workers)

    command = add_command(
        "convert",
        "writes the coursework's TFRecords from the layout of CLEVR v1.0",
        "An image takes 0.6 MB. The same command resumes an interrupted run.",
        src="folder with images/{train,val}/*.png and "
        "questions/CLEVR_{train,val}_questions.json",
        out="folder for train/ and val/ *.tfrecords",
    )
    command.add_argument(
        "--limit", type=at_least(1), metavar="N", help="only N images of each split"
    )
    command.add_argument("--workers", **workers)

    add_command(
        "check",
        "reads all TFRecords and counts what they hold",
        "Ends at the first error, which names the file, the record and the remedy.",
        data="folder with train/ and val/ TFRecords",
    )
    return parser.parse_args()


def at_least(least):
    def number(text):
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"{text} is not a whole number from {least}"
            )
        return int(text)

    return number


def report(tallies):
    """Prints what `tfrecords.check` counted."""
    for split, tally in tallies.items():
        print(
            f"{split}: {tally.images:,} images with {tally.questions:,} questions, files: {tally.files:,}"
        )
    train = tallies["train"]
    print(
        f"vocabulary of training: {len(train.words)} words, "
        f"{len(train.words) + 2} tokens with padding and unknown"
    )
    print(f"answers of training: {len(train.answers)}")
    for name, answers in train.answers_by_type().items():
        ((answer, number),) = answers.most_common(1)
        print(
            f"  {name:10}{answers.total():9,} pairs {answers.total() / train.questions:6.1%}, "
            f"most frequent: {answer} ({number / answers.total():.1%})"
        )


if __name__ == "__main__":
    sys.exit(main())
