"""The report as one page: report.typ, filled with what a run's folder holds."""

import argparse
import sys
from pathlib import Path

import typst

SOURCE = Path(__file__).resolve().parent / "report.typ"
FILES = ("evaluation.json", "training_log.csv")
LONGER = "longer"  # folder, inside the run's, of a copy of the run that was given more epochs


def read(run):
    """The texts of FILES, by name, and of those in LONGER where there is such a folder.

    Raises:
        FileNotFoundError: when evaluation.json or training_log.csv is missing.
    """
    names = [*FILES, *(f"{LONGER}/{name}" for name in FILES if (run / LONGER).exists())]
    return {name: (run / name).read_text("utf-8") for name in names}


def report(run):
    """The page, as the bytes of a PDF; report.typ itself picks and compares the numbers.

    Raises:
        FileNotFoundError: when evaluation.json or training_log.csv is missing.
        RuntimeError: when one of them lacks something, or when the text does not fit the page.
    """
    return typst.compile(SOURCE, ignore_system_fonts=True, sys_inputs=read(run))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path,
                        help=f"folder with {' and '.join(FILES)}, as the notebook leaves it")
    parser.add_argument("pdf", type=Path,
                        help="where to write the page, for example build/report.pdf")
    arguments = parser.parse_args()
    try:
        page = report(arguments.run)
    except FileNotFoundError as error:
        sys.exit(f"{error.filename} is missing: run the notebook to its end, which writes it")
    except (RuntimeError, UnicodeDecodeError) as error:
        sys.exit(f"{arguments.run}: its files make no report; the notebook writes them anew. "
                 + " ".join(str(error).split()))
    arguments.pdf.parent.mkdir(parents=True, exist_ok=True)
    arguments.pdf.write_bytes(page)


if __name__ == "__main__":
    main()
