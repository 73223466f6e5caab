"""The command line: python -m clevr prepare | generate | convert | check."""

import argparse
import os
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from .layout import SPLITS, DataError
from .prepare import SIZES, prepare
from .workers import default_workers

# What --help says after the options.
EPILOGS = {
    "": """\
examples:
  python -m clevr prepare data      all in one: makes a small set if DATA is empty

  python -m clevr generate build/clevr --train 2000 --val 500 --seed 1
  python -m clevr convert build/clevr data
  python -m clevr check data

  python -m clevr convert CLEVR_v1.0 data      the official images, unpacked

"python -m clevr COMMAND --help" explains a command.""",
    "prepare": """\
example: python -m clevr prepare data --size coursework

If DATA holds no TFRecords, makes ours (generate, convert, check). If ours are
incomplete or damaged, completes them. Data that you brought are only checked.
The images stay in build/clevr-SIZE.""",
    "generate": """\
example: python -m clevr generate build/clevr --train 2000 --val 500 --seed 1

The same seed makes the same set, whatever the number of workers. An interrupted
run resumes when the same command is given again. A folder that holds anything
else is left alone.""",
    "convert": """\
example: python -m clevr convert ~/Downloads/CLEVR_v1.0 data --limit 3750

SRC has images/{train,val}/*.png and questions/CLEVR_{train,val}_questions.json.
Each image takes 0.6 MB: all of CLEVR v1.0 needs 51 GB. An interrupted run
resumes when the same command is given again. Files that this command did not
write are left alone.""",
    "check": """\
example: python -m clevr check data

Counts what is in DATA/train and DATA/val: uncompressed files with "tfrecord" in
their names. Ends at the first error with exit status 1, and names the file, the
record (counted from 1) and the remedy.""",
}


def main():
    """Runs the command; returns the exit status."""
    args = vars(parser().parse_args())
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")      # no notices
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"               # nothing here needs a GPU
    try:
        COMMANDS[args.pop("command")](**args)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenProcessPool:
        print("error: a worker process was killed (out of memory?): give the same command again, "
              "or generate with fewer --workers", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command resumes from here", file=sys.stderr)
        return 130
    return 0


def parser():
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        "python -m clevr", description="Makes CLEVR-like data, and TFRecords from CLEVR or from it.",
        epilog=EPILOGS[""], formatter_class=raw)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add_command(name, description):
        return commands.add_parser(name, help=description, description=description, epilog=EPILOGS[name],
                                   formatter_class=raw)

    def add_workers(command, what):
        command.add_argument("--workers", type=positive, default=default_workers(), metavar="K",
                             help=f"{what} at work (%(default)s: what CPUs and memory allow)")

    command = add_command("prepare", "makes, completes or only checks a data folder, as it needs")
    command.add_argument("data", metavar="DATA", help="folder with train/ and val/ TFRecords, or empty")
    command.add_argument("--size", choices=SIZES, help="of our own data: " + ", ".join(
        f"{size} ({images['train']:,} + {images['val']:,} images)" for size, images in SIZES.items()))
    command.add_argument("--state", type=Path, metavar="FILE",
                         help="notes which files were found whole; they are not read again")

    command = add_command("generate", "makes scenes, images and questions in the layout of CLEVR v1.0")
    command.add_argument("out", metavar="OUT", help="folder to make")
    command.add_argument("--train", type=positive, required=True, metavar="N", help="training images")
    command.add_argument("--val", type=positive, required=True, metavar="M", help="validation images")
    command.add_argument("--seed", type=natural, required=True, metavar="S", help="0, 1, ...: which set")
    add_workers(command, "processes")

    command = add_command("convert", "writes the coursework's TFRecords from the layout of CLEVR v1.0")
    command.add_argument("src", metavar="SRC", help="folder in the layout of CLEVR v1.0")
    command.add_argument("out", metavar="OUT", help="folder for train/ and val/ *.tfrecords")
    command.add_argument("--limit", type=positive, metavar="N", help="only the first N images of each split")
    add_workers(command, "threads")

    command = add_command("check", "reads all TFRecords, counts what they hold, and names the first error")
    command.add_argument("data", metavar="DATA", help="folder with train/ and val/ TFRecords")
    return top


def natural(text):
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number")
    return int(text)


def positive(text):
    if natural(text) == 0:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def report(tallies):
    """Prints what `tfrecords.check` counted."""
    for split in SPLITS:
        tally = tallies[split]
        print(f"{split}: {tally.images:,} images with {tally.questions:,} questions, files: {tally.files:,}")
    train = tallies["train"]
    print(f"vocabulary of training: {len(train.words)} words, "
          f"{len(train.words) + 2} tokens with padding and unknown")
    print(f"answers of training: {len(train.answers)}")
    for name, answers in train.answers_by_type().items():
        (answer, number), = answers.most_common(1)
        print(f"  {name:10}{answers.total():9,} pairs {answers.total() / train.questions:6.1%}, "
              f"most frequent: {answer} ({number / answers.total():.1%})")


# Each command imports what it needs when it runs: --help and generate do without TensorFlow.

def run_prepare(data, size, state):
    if tallies := prepare(data, size, state):
        report(tallies)


def run_generate(out, train, val, seed, workers):
    from .generate import generate
    generate(out, {"train": train, "val": val}, seed, workers)


def run_convert(src, out, limit, workers):
    from .tfrecords import convert
    convert(src, out, limit, workers)


def run_check(data):
    from .tfrecords import check
    report(check(data))


COMMANDS = {"prepare": run_prepare, "generate": run_generate, "convert": run_convert, "check": run_check}

if __name__ == "__main__":
    sys.exit(main())
