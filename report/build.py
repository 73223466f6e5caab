"""Sets the one-page report: report.typ with the numbers of a run and the conclusions about it."""

import argparse
import hashlib
import sys
from pathlib import Path

import typst

HERE = Path(__file__).resolve().parent
FILES = ("evaluation.json", "curves.svg", "training_log.csv")


def checksum(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def build(run):
    """The PDF's bytes, and True if conclusions.typ is about this run, else the run's checksum.

    Raises OSError without one of FILES, RuntimeError without a number or if the text takes two pages."""
    inputs = {name: (run / name).read_text("utf-8") for name in FILES}
    inputs["checksum"] = checksum(
        inputs["training_log.csv"]
    )  # which no evaluation rewrites
    report = typst.Compiler(
        HERE / "report.typ", ignore_system_fonts=True, sys_inputs=inputs
    )
    about = report.query("<about-this-run>", field="value", one=True) == "true"
    return report.compile(), about or inputs["checksum"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "run", type=Path, help="the run's folder, with " + " and ".join(FILES)
    )
    parser.add_argument(
        "pdf", type=Path, help="the page to write, for example build/report.pdf"
    )
    arguments = parser.parse_args()
    try:
        page, about = build(arguments.run)
    except (OSError, RuntimeError) as error:
        sys.exit(
            f"error: {arguments.run} makes no report (run the notebook to its end first): "
            + " ".join(str(error).split())
        )
    arguments.pdf.parent.mkdir(parents=True, exist_ok=True)
    arguments.pdf.write_bytes(page)
    if about is not True:
        print(
            f"{arguments.pdf}: the conclusions about this run are yours to write, in "
            f'{HERE.name}/conclusions.typ; then set its checksum to "{about}"'
        )


if __name__ == "__main__":
    main()
