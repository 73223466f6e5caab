"""Makes the report of Question 4, one page, for a run of the notebook.

The run's numbers are formatted here and passed to report.typ as strings, by the keys
of evaluation.json: FiLM's accuracy on colours is "accuracy/FiLM/color", that on the
validation pairs after epoch 20 is "log/val_accuracy/20".
"""

import argparse
import io
import json
import math
import sys
from pathlib import Path

import matplotlib
import pandas as pd
import typst
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

HERE = Path(__file__).resolve().parent
RELEASED = HERE.parent / "checkpoints" / "released" / "evaluation.json"
PAPER_UPDATES = 80 * 699_989 / 64  # at most 80 epochs over all questions of CLEVR
POINTS = (  # of 100
    "gap/val_accuracy/",
    "standard_error/",
    "accuracy_difference/",
    "difference_by_type/",
)
STYLE = {"svg.hashsalt": "report", "font.family": "STIXGeneral", "font.size": 9}

EXAMPLE = """\
For example, after the notebook was run to its end in Jupyter:

    python report/make_report.py checkpoints report.pdf

The words of report.typ hold for every run, its numbers are RUN's. What follows from
them stands in conclusions.typ and is printed for one run only, the one whose
evaluation.json is in checkpoints/released/. To conclude from your own run, write your
sentences in conclusions.typ, then copy RUN's evaluation.json there.
"""


def flatten(value, key=""):
    """Yields (key, number or text); the positions in a list are the epochs 1, 2, ..."""
    if isinstance(value, list):
        value = dict(enumerate(value, start=1))
    if not isinstance(value, dict):
        yield key, value
        return
    for name, entry in value.items():
        yield from flatten(entry, f"{key}/{name}" if key else name)


def as_text(key, value):
    """An entry of evaluation.json as the report prints it."""
    if isinstance(value, str):
        return value.replace("_", " ")
    if math.isnan(value):  # the deviation of a single epoch
        return "n/a"
    sign = "+" if key.endswith("/mean") else ""  # of a difference
    if key == "learning_rate":
        text = f"{value:g}"
    elif key.startswith(POINTS):
        text = f"{100 * value:{sign}.1f}"
    elif "loss" in key:
        text = f"{value:{sign}.3f}"
    elif "accuracy" in key or key.startswith("squares/"):
        text = f"{value:.1%}"
    else:
        text = f"{value:,.0f}"
    return text.replace("-", "\N{MINUS SIGN}")


def format_numbers(evaluation):
    """All entries of an evaluation as texts, with some that follow from them."""
    numbers = {key: as_text(key, value) for key, value in flatten(evaluation)}
    epochs = evaluation["last_epoch"]
    batches = math.ceil(evaluation["train_images"] / evaluation["batch_size"])
    numbers["data"] = evaluation["data"].partition(" (")[0]  # sizes have their own keys
    numbers["updates"] = f"{epochs * batches:,}"
    numbers["paper_updates_ratio"] = f"{PAPER_UPDATES / (epochs * batches):,.0f}"
    numbers["gap_epochs"] = str(min(epochs, 5))
    numbers["squares"] = "shown" if evaluation["squares"] else "left out"
    numbers["answer_types"] = ",".join(evaluation["accuracy"]["FiLM"])
    return numbers


def limits_of_later_epochs(curves):
    """Limits of an axis that shows all epochs but the first tenth of a longer run.

    The first epochs change most; with them, the later ones would look flat.
    """
    first = math.ceil(len(curves) / 10) if len(curves) >= 5 else 0
    values = curves.iloc[first:]
    lowest, highest = values.min(axis=None), values.max(axis=None)
    margin = 0.08 * (highest - lowest) or 0.1
    return lowest - margin, highest + margin


@matplotlib.rc_context(STYLE)
def draw_curves(evaluation):
    """Loss and accuracy over the epochs, as SVG."""
    log, question_only = evaluation["log"], evaluation["question_only_log"]
    figure = Figure(figsize=(4.7, 2.3), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, name in zip(panels, ("loss", "accuracy"), strict=True):
        curves = pd.DataFrame(
            {
                "FiLM, training": log[name],
                "FiLM, validation": log[f"val_{name}"],
                "question-only, validation": question_only[f"val_{name}"],
            }
        )
        curves.index += 1
        curves.plot(
            ax=axes,
            legend=False,
            style=["-", "-", "--"],
            color=["0.6", "C0", "C1"],
            marker=".",
            markersize=3,
            linewidth=1,
        )
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(
            MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
        )
        axes.set_xlim(0, len(curves) + 1)
        if evaluation["last_epoch"] > evaluation["epochs"]:
            epochs = evaluation["epochs"]
            axes.axvline(epochs, color="black", ls=":", lw=0.8, label=f"epoch {epochs}")
        axes.set_ylim(limits_of_later_epochs(curves))
    panels[0].set_ylabel("cross-entropy (nats)")
    panels[1].set_ylabel("accuracy")
    panels[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    lines, names = panels[0].get_legend_handles_labels()
    figure.legend(lines, names, ncols=2, loc="outside lower center", frameon=False)
    svg = io.StringIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    return svg.getvalue()


def same(evaluation, other):
    first, second = (json.dumps(each, sort_keys=True) for each in (evaluation, other))
    return first == second


def typst_inputs(file):
    """What report.typ needs to know, from an evaluation.json. KeyError names a key."""
    evaluation = json.loads(file.read_text("utf-8"))
    released = RELEASED.exists() and same(
        evaluation, json.loads(RELEASED.read_text("utf-8"))
    )
    return {
        **format_numbers(evaluation),
        "curves": draw_curves(evaluation),
        "file": str(file),
        "run": "released" if released else "another",
    }


def make_page(inputs):
    """The report as a PDF. TypstError for a missing key and for a second page."""
    source = HERE / "report.typ"
    return typst.Compiler(source, ignore_system_fonts=True).compile(sys_inputs=inputs)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="the run's folder, with evaluation.json"
    )
    parser.add_argument(
        "pdf", type=Path, metavar="OUT.pdf", help="the file to write the page to"
    )
    arguments = parser.parse_args()
    file = arguments.run / "evaluation.json"
    try:
        inputs = typst_inputs(file)
        page = make_page(inputs)
    except FileNotFoundError:
        sys.exit(f"error: there is no {file}: run the notebook to its end")
    except json.JSONDecodeError as error:
        sys.exit(f"error: {file} is not JSON ({error}): run the notebook's last cell")
    except KeyError as error:
        sys.exit(f"error: {file} has no key {error}: run the notebook's last cell")
    except typst.TypstError as error:
        sys.exit(f"error: {error}")
    arguments.pdf.parent.mkdir(parents=True, exist_ok=True)
    arguments.pdf.write_bytes(page)
    if inputs["run"] == "another":
        print(f"{arguments.pdf} has no conclusions, as this is not the released run;")
        print("see python report/make_report.py --help")


if __name__ == "__main__":
    main()
