"""Sets the one-page report: report.typ with the numbers of a run and the conclusions about it."""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import typst

HERE = Path(__file__).resolve().parent
FILES = ("evaluation.json", "curves.svg", "training_log.csv")


def checksum(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def build(run):
    """The PDF's bytes, and whether conclusions.typ is about this run.

    Raises:
        FileNotFoundError: if the folder `run` lacks one of FILES.
        RuntimeError: if evaluation.json lacks a number, or the text does not fit on one page.
    """
    inputs = {name: (run / name).read_text("utf-8") for name in FILES}
    inputs["checksum"] = checksum(inputs["training_log.csv"])  # which no evaluation rewrites
    page = typst.compile(HERE / "report.typ", ignore_system_fonts=True, sys_inputs=inputs)
    about = json.loads(typst.query(HERE / "report.typ", "<about-this-run>", field="value", one=True,
                                   ignore_system_fonts=True, sys_inputs=inputs))
    return page, about or inputs["checksum"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the run's folder, with " + " and ".join(FILES))
    parser.add_argument("pdf", type=Path, help="the page to write, for example build/report.pdf")
    arguments = parser.parse_args()
    try:
        page, about = build(arguments.run)
    except FileNotFoundError as error:
        sys.exit(f"error: {error.filename} is missing: run the notebook to its end, which writes it")
    except RuntimeError as error:
        sys.exit(f"error: {arguments.run} makes no report: {' '.join(str(error).split())}")
    arguments.pdf.parent.mkdir(parents=True, exist_ok=True)
    arguments.pdf.write_bytes(page)
    if about is not True:
        print(f"{arguments.pdf}: the conclusions about this run are yours to write, in "
              f'{HERE.name}/conclusions.typ; then set its checksum to "{about}"')


if __name__ == "__main__":
    main()
