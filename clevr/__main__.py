"""The command line: python -m clevr prepare | generate | convert | check."""

import argparse
import errno
import os
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from .files import DataError
from .prepare import SIZES, prepare
from .workers import default_workers

EXAMPLES = """\
examples:
  python -m clevr prepare data       all in one: makes a small set if data/ is empty

  python -m clevr generate build/clevr --train 2000 --val 500 --seed 1
  python -m clevr convert build/clevr data
  python -m clevr check data

  the official images, unpacked, as many as the coursework has:
  python -m clevr convert CLEVR_v1.0 data --train 14950 --val 3750"""


def main():
    """Runs the command; returns what `sys.exit` takes: None, an error to print, or an
    exit status."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no notices
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # nothing here needs a GPU
    arguments = parse_arguments()
    try:
        arguments.run(arguments)
    except DataError as error:
        return f"error: {error}"
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"error: {error}: make room, then give the same command again"
        return f"error: {error}"
    except BrokenProcessPool:
        return (
            "error: a worker process was killed (out of memory?): give the same "
            "command again, or generate with fewer --workers"
        )
    except KeyboardInterrupt:
        print("interrupted: the same command resumes from here", file=sys.stderr)
        return 130


# Each imports only what it needs: --help and generate do without TensorFlow.


def run_prepare(arguments):
    tallies = prepare(arguments.data, arguments.size, arguments.state)
    if tallies:
        report(tallies)


def run_generate(arguments):
    from .generate import generate

    images = {"train": arguments.train, "val": arguments.val}
    generate(arguments.out, images, arguments.seed, arguments.workers)


def run_convert(arguments):
    from .convert import convert

    images = {"train": arguments.train, "val": arguments.val}
    convert(arguments.src, arguments.out, images, arguments.workers)


def run_check(arguments):
    from .check import check

    report(check(arguments.data))


def parse_arguments():
    parser = argparse.ArgumentParser(
        "python -m clevr",
        description="Makes CLEVR-like data, and TFRecords from CLEVR or from it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_prepare(commands)
    add_generate(commands)
    add_convert(commands)
    add_check(commands)
    return parser.parse_args()


def add_prepare(commands):
    sizes = []
    for name, images in SIZES.items():
        sizes.append(f"{name} ({images['train']:,} + {images['val']:,} images)")
    command = commands.add_parser(
        "prepare",
        help="fills an empty data folder with generated data, or checks what it holds",
        description="If DATA is empty, makes a set in build/ and moves it there. "
        "Files that are there are only checked, never changed. DATA must exist, except "
        "for the default, data.",
    )
    command.set_defaults(run=run_prepare)
    command.add_argument(
        "data",
        type=path,
        metavar="DATA",
        help="folder with train/ and val/ TFRecords, or empty",
    )
    command.add_argument(
        "--size",
        choices=SIZES,
        help=f"{' or '.join(sizes)}; other data are an error",
    )
    command.add_argument(
        "--state",
        type=path,
        metavar="FILE",
        help="notes which files were found whole; they are not read again",
    )


def add_generate(commands):
    command = commands.add_parser(
        "generate",
        help="makes scenes, images and questions in the layout of CLEVR v1.0",
        description="The same seed makes the same set. The same command resumes an "
        "interrupted one.",
    )
    command.set_defaults(run=run_generate)
    command.add_argument("out", type=path, metavar="OUT", help="folder to make")
    command.add_argument(
        "--train", type=positive, required=True, metavar="N", help="training images"
    )
    command.add_argument(
        "--val", type=positive, required=True, metavar="M", help="validation images"
    )
    command.add_argument(
        "--seed", type=natural, required=True, metavar="S", help="0, 1, ...: which set"
    )
    add_workers(command)


def add_convert(commands):
    command = commands.add_parser(
        "convert",
        help="writes the coursework's TFRecords from the layout of CLEVR v1.0",
        description="An image takes 0.6 MB. The same command resumes an interrupted "
        "one.",
    )
    command.set_defaults(run=run_convert)
    command.add_argument(
        "src",
        type=path,
        metavar="SRC",
        help="folder with images/{train,val}/*.png and "
        "questions/CLEVR_{train,val}_questions.json",
    )
    command.add_argument(
        "out", type=path, metavar="OUT", help="folder for train/ and val/ *.tfrecords"
    )
    command.add_argument(
        "--train", type=positive, metavar="N", help="only the first N training images"
    )
    command.add_argument(
        "--val", type=positive, metavar="M", help="only the first M validation images"
    )
    add_workers(command)


def add_check(commands):
    command = commands.add_parser(
        "check",
        help="reads all TFRecords and counts what they hold",
        description="Ends at the first error, which names the file, the record and the "
        "remedy.",
    )
    command.set_defaults(run=run_check)
    command.add_argument(
        "data",
        type=path,
        metavar="DATA",
        help="folder with train/ and val/ TFRecords",
    )


def add_workers(command):
    command.add_argument(
        "--workers",
        type=positive,
        default=default_workers(),
        metavar="K",
        help="parallel workers (%(default)s, as many as CPUs)",
    )


def path(text):
    # A shell leaves ~ as it is in quotes and in make DATA_DIR=~/data.
    return Path(os.path.expanduser(text))


def natural(text):
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0")
    return int(text)


def positive(text):
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return int(text)


def report(tallies):
    """Prints what `check` counted."""
    for split, tally in tallies.items():
        print(
            f"{split}: {tally.images:,} images with {tally.questions:,} questions, "
            f"files: {tally.files:,}"
        )
    train = tallies["train"]
    print(
        f"vocabulary of training: {len(train.words)} words, "
        f"{len(train.words) + 2} tokens with padding and unknown"
    )
    print(f"answers of training: {len(train.answers)}")
    for name, answers in train.answers_by_type().items():
        total = answers.total()
        answer, most = answers.most_common(1)[0]
        print(
            f"  {name:10}{total:9,} pairs {total / train.questions:6.1%}, "
            f"most frequent: {answer} ({most / total:.1%})"
        )


if __name__ == "__main__":
    sys.exit(main())
