"""The command line: python -m clevr generate | convert | check."""

import argparse
import os
import sys
from concurrent.futures.process import BrokenProcessPool

from .official import SPLITS, DataError

EXAMPLES = {
    "": """\
The road from nothing to training data:
  python -m clevr generate build/clevr --train 2000 --val 500 --seed 1
  python -m clevr convert build/clevr data
  python -m clevr check data

The official pictures take the same road: unpack CLEVR_v1.0.zip, then
  python -m clevr convert CLEVR_v1.0 data

"python -m clevr COMMAND --help" explains a command.""",
    "generate": """\
examples:
  python -m clevr generate build/clevr --train 2000 --val 500 --seed 1
  python -m clevr generate build/big --train 14950 --val 3750 --seed 1 --workers 8

The same seed makes the same set, whatever the number of workers. A run that was
stopped, by Ctrl-C or a power cut, goes on when the same command is given again.
A folder that holds anything else is left alone.""",
    "convert": """\
examples:
  python -m clevr convert build/clevr data
  python -m clevr convert ~/Downloads/CLEVR_v1.0 data --limit 3750

SRC has images/{train,val}/*.png and questions/CLEVR_{train,val}_questions.json.
Each image takes 0.6 MB: the whole of CLEVR v1.0 needs 51 GB. A run that was
stopped goes on when the same command is given again; files that this command
did not write are left alone.""",
    "check": """\
example:
  python -m clevr check data

Prints what DATA/train/*.tfrecords and DATA/val/*.tfrecords hold. Ends at the
first fault with exit status 1, and names the file, the record (counted from 1)
and the remedy.""",
}


def main():
    """Runs the command; returns the exit status."""
    args = parser().parse_args()
    try:
        COMMANDS[args.command](args)
    except (DataError, OSError) as fault:
        return fail(fault)
    except BrokenProcessPool:
        return fail("a worker process was killed (out of memory?): give the same command again, "
                    "with fewer --workers")
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def fail(fault):
    print(f"error: {fault}", file=sys.stderr)
    return 1


def parser():
    top = argparse.ArgumentParser(
        "python -m clevr", description="Makes CLEVR-like data, and TFRecords from CLEVR or from it.",
        epilog=EXAMPLES[""], formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, description):
        return commands.add_parser(name, help=description, description=description,
                                   epilog=EXAMPLES[name],
                                   formatter_class=argparse.RawDescriptionHelpFormatter)

    def add_workers(to, what):
        to.add_argument("--workers", type=positive, default=os.cpu_count(), metavar="K",
                        help=f"{what} at work (%(default)s, one a core)")

    made = command("generate", "makes scenes, pictures and questions in the layout of CLEVR v1.0")
    made.add_argument("out", metavar="OUT", help="folder to make")
    made.add_argument("--train", type=positive, required=True, metavar="N", help="training images")
    made.add_argument("--val", type=positive, required=True, metavar="M", help="validation images")
    made.add_argument("--seed", type=natural, required=True, metavar="S",
                      help="0, 1, ...: which set is made")
    add_workers(made, "processes")

    converted = command("convert", "writes the coursework's TFRecords from the layout of CLEVR v1.0")
    converted.add_argument("src", metavar="SRC", help="folder in the layout of CLEVR v1.0")
    converted.add_argument("out", metavar="OUT", help="folder for train/ and val/ *.tfrecords")
    converted.add_argument("--limit", type=positive, metavar="N",
                           help="only the first N images of each split")
    add_workers(converted, "threads")

    checked = command("check", "reads TFRecords through, counts, and names the first fault")
    checked.add_argument("data", metavar="DATA", help="folder with train/ and val/ *.tfrecords")
    return top


def natural(text):
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number")
    return int(text)


def positive(text):
    if natural(text) == 0:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


# Each command imports what it needs when it runs: --help and generate do without TensorFlow.

def generate(args):
    from .generate import generate
    generate(args.out, {"train": args.train, "val": args.val}, args.seed, args.workers)


def tfrecords():
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS="0")   # no notices
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"       # nothing here is worth a GPU's memory
    from . import tfrecords
    return tfrecords


def convert(args):
    tfrecords().convert(args.src, args.out, args.limit, args.workers)


def check(args):
    tallies = tfrecords().check(args.data)
    for split in SPLITS:
        tally = tallies[split]
        print(f"{split}: {tally.images:,} images with {tally.questions:,} questions, "
              f"files: {tally.files:,}")
    words, answers = (len(found) for found in (tallies["train"].words, tallies["train"].answers))
    print(f"vocabulary of training: {words} words, {words + 2} tokens with padding and unknown")
    print(f"answer classes: {answers}: {' '.join(sorted(tallies['train'].answers))}")


COMMANDS = {"generate": generate, "convert": convert, "check": check}

if __name__ == "__main__":
    sys.exit(main())
