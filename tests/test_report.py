"""The report is one page with a run's own numbers, and concludes only from one run.

What is said of the released run, here, in README and in the notebook, is compared with
its evaluation.json.
"""

import json
import re

import make_report
import nbformat
import pytest
import typst
from conftest import ROOT

RELEASED = ROOT / "checkpoints" / "released" / "evaluation.json"
NOTE = "another run than the released one"
TYPES = ("yes/no", "count", "colour", "shape", "size", "material", "all")
needs_released_run = pytest.mark.skipif(
    not RELEASED.exists(), reason="there is no released run"
)


def make_evaluation(epochs=20, last_epoch=40):
    """The evaluation.json of a run whose numbers are easily told apart."""

    def make_log(first):
        return {
            "accuracy": [first + 0.0123 + 0.001 * i for i in range(last_epoch)],
            "loss": [first + 4.0 / (i + 1) for i in range(last_epoch)],
            "val_accuracy": [first + 0.0011 * i for i in range(last_epoch)],
            "val_loss": [first + 4.4 / (i + 1) for i in range(last_epoch)],
        }

    def by_type(value):
        return {name: value + 0.01 * i for i, name in enumerate(TYPES)}

    return {
        "data": "the course's files (of a long name)",
        "train_images": 54321,
        "train_pairs": 543210,
        "val_images": 4321,
        "epochs": epochs,
        "last_epoch": last_epoch,
        "batch_size": 64,
        "learning_rate": 0.0003,
        "seed": 0,
        "precision": "mixed_bfloat16",
        f"val_loss_{epochs}": 0.98765,
        f"val_accuracy_{epochs}": 0.43219,
        "val_loss": 0.87654,
        "val_accuracy": 0.45678,
        "gap": {
            "val_accuracy": {"mean": -0.02345, "std": 0.01234},
            "val_loss": {"mean": 0.05678, "std": 0.00999},
        },
        "log": make_log(0.4),
        "question_only_log": make_log(0.3),
        "pairs": dict.fromkeys(TYPES, 500),
        "accuracy": {
            "FiLM": by_type(0.51234),
            "question-only": by_type(0.31239),
            "mismatched": by_type(0.22222),
            "majority": dict.fromkeys(TYPES, 0.41111),
        },
        "standard_error": {name: 0.01337 + 0.001 * i for i, name in enumerate(TYPES)},
        "loss": {"FiLM": by_type(0.7), "question-only": by_type(0.8)},
        "accuracy_difference": {
            "question-only": {"mean": 0.04321, "s.e.": 0.00987},
            "mismatched": {"mean": 0.07654, "s.e.": 0.01111},
        },
        "difference_by_type": {
            name: {"mean": 0.03333, "s.e.": 0.01234} for name in TYPES
        },
        "squares": {
            "with": {
                "accuracy": 0.99805,
                "both correct": 0.99,
                "same answer to both": 0.0,
            },
            "without": {
                "accuracy": 0.48633,
                "both correct": 0.11,
                "same answer to both": 0.75,
            },
        },
    }


@pytest.fixture
def write(tmp_path):
    """Writes an evaluation.json and returns its path."""

    def write(evaluation):
        file = tmp_path / "run" / "evaluation.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(evaluation))
        return file

    return write


def text_of(expression, inputs):
    """The text of a Typst expression, from the evaluated document."""
    sources = {path.name: path.read_bytes() for path in (ROOT / "report").glob("*.typ")}
    sources["main.typ"] = f"#metadata({expression}) <text>".encode()
    document = typst.query(
        sources, "<text>", field="value", one=True, sys_inputs=inputs
    )
    found = []

    def collect(node):
        is_quote = node.get("func") == "smartquote"
        text = "'" if is_quote else node.get("text")
        found.append(text if isinstance(text, str) else " ")

    json.loads(document, object_hook=collect)
    return " ".join("".join(found).split())


def report_text(file):
    return text_of('include "report.typ"', make_report.typst_inputs(file))


def conclusions_text(file):
    conclusions = '{ import "conclusions.typ": conclusions; conclusions('
    number = "key => sys.inputs.at(key)"
    return text_of(conclusions + number + ") }", make_report.typst_inputs(file))


@pytest.fixture
def refusal(monkeypatch, tmp_path):
    """Runs make_report.py, which has to fail; returns its message."""

    def refusal(folder):
        pdf = tmp_path / "refused.pdf"
        monkeypatch.setattr("sys.argv", ["make_report.py", str(folder), str(pdf)])
        with pytest.raises(SystemExit) as failure:
            make_report.main()
        message = str(failure.value)
        assert message.startswith("error: ") and "\n" not in message
        assert not pdf.exists()
        return message

    return refusal


def page_of(file):
    """The PDF of a run, which has to be one page."""
    page = make_report.make_page(make_report.typst_inputs(file))
    assert len(re.findall(rb"/Type\s*/Page\b", page)) == 1
    return page


def test_page_has_the_runs_numbers(write):
    text = report_text(write(make_evaluation()))
    for expected in (
        "the course's files: 54,321 training images, 543,210 questions",
        "45.7% on 4,321 validation questions",
        "Question-only 37.2%",
        "batch 64, 40 epochs: 33,960 updates",
        "26 times as many updates",
        "loss is 0.877, the accuracy 45.7%",
        "standard error 1.9 points",
        "after epoch 20 (dotted line), 43.2%",
        "+4.3 points (standard error 1.0, one run each)",
        "right type gives 41.1%",
        "−2.3 ± 1.2 points, +0.057 ± 0.010 in loss",
        "+7.7 points (standard error 1.1)",
        "yes/no 500 51.2% 31.2%",
        "colour 500 53.2% 33.2%",
        "all 500 57.2% 37.2%",
        "99.8% correctly with coordinates and 48.6% without",
    ):
        assert expected in text


def test_what_a_run_leaves_out_is_not_on_the_page(write):
    evaluation = make_evaluation(epochs=20, last_epoch=20) | {"squares": {}}
    text = report_text(write(evaluation))
    assert "dotted line" not in text and "squares" not in text


@pytest.mark.parametrize("last_epoch", [1, 3, 20, 200])
def test_runs_of_any_length_give_one_page(last_epoch, write):
    evaluation = make_evaluation(epochs=1, last_epoch=last_epoch)
    if last_epoch == 1:
        evaluation["gap"]["val_loss"]["std"] = float("nan")
    page_of(write(evaluation))


def test_command_writes_the_page_and_tells_of_another_run(
    write, tmp_path, monkeypatch, capsys
):
    file, pdf = write(make_evaluation()), tmp_path / "new" / "report.pdf"
    monkeypatch.setattr("sys.argv", ["make_report.py", str(file.parent), str(pdf)])
    make_report.main()
    assert pdf.read_bytes() == page_of(file)
    assert f"{pdf} has no conclusions" in capsys.readouterr().out


def test_curves_show_the_logs():
    evaluation = make_evaluation(epochs=20, last_epoch=40)
    curves = make_report.draw_curves(evaluation)
    assert curves == make_report.draw_curves(evaluation)
    shown = [("log", name) for name in evaluation["log"]]
    shown += [("question_only_log", name) for name in ("val_loss", "val_accuracy")]
    for log, name in shown:
        changed = json.loads(json.dumps(evaluation))
        changed[log][name][30] += 0.1
        assert make_report.draw_curves(changed) != curves, (log, name)
    asked = evaluation | {"last_epoch": 20}
    assert make_report.draw_curves(asked) != curves  # without the line at epoch 20


def test_loss_axis_shows_the_later_epochs():
    losses = make_report.pd.DataFrame({"a": [9.0, 5.0, *[1.0, 1.1] * 9]})
    lowest, highest = make_report.limits_of_later_epochs(losses)
    assert 0.9 < lowest < 1.0 and 1.1 < highest < 1.2


def test_conclusions_are_for_the_released_run_only(write, tmp_path, monkeypatch):
    evaluation = make_evaluation()
    file, released = write(evaluation), tmp_path / "released.json"
    monkeypatch.setattr(make_report, "RELEASED", released)
    conclusions = conclusions_text(file)
    assert len(conclusions) > 200

    assert NOTE in report_text(file) and conclusions not in report_text(file)
    released.write_text(json.dumps(evaluation, indent=1, sort_keys=True))
    assert conclusions in report_text(file) and NOTE not in report_text(file)
    released.write_text(json.dumps(evaluation | {"val_accuracy": 0.45679}))
    assert NOTE in report_text(file) and conclusions not in report_text(file)


UNUSED = {"seed", "val_loss_20", "loss", "difference_by_type"}


@pytest.mark.parametrize("key", sorted(make_evaluation().keys() - UNUSED))
def test_missing_key_is_named_with_its_file(key, write, refusal):
    evaluation = make_evaluation()
    del evaluation[key]
    file = write(evaluation)
    assert f"{file} has no key '{key}" in refusal(file.parent)


def test_what_makes_no_page_is_refused(write, tmp_path, refusal):
    file = write(make_evaluation() | {"data": "long " * 2000})
    assert "more than one page" in refusal(file.parent)
    file.write_text('{"data": ')
    assert f"{file} is not JSON" in refusal(file.parent)
    assert f"there is no {tmp_path / 'evaluation.json'}" in refusal(tmp_path)


def quotable(evaluation):
    """The numbers that words may quote: of the logs, the first and the last epochs."""

    def numbers(value):
        if isinstance(value, dict):
            return [number for entry in value.values() for number in numbers(entry)]
        return [value] if isinstance(value, int | float) else []

    found = numbers(evaluation)
    for log in (evaluation["log"], evaluation["question_only_log"]):
        for values in log.values():
            found += [values[0], values[evaluation["epochs"] - 1], *values[-5:]]
    return found


def not_from(evaluation, text):
    """The percentages and decimals of a text that no quotable number rounds to."""
    values = [abs(value) for value in quotable(evaluation)]
    strangers = []
    for figures, decimals, percent in re.findall(r"(\d+(?:\.(\d+))?)(%?)", text):
        if not decimals and not percent:
            continue
        # Differences of accuracies are quoted as points, without "%".
        scales = (100,) if percent else (1, 100)
        rounded = {
            f"{scale * value:.{len(decimals)}f}" for value in values for scale in scales
        }
        if figures not in rounded:
            strangers.append(figures + percent)
    return strangers


def test_numbers_that_are_not_the_runs_are_found():
    text = "45.7% (57.2%, 1.9 points) after 40 epochs, loss 0.877; 45.8%, 0.9, 12%"
    assert not_from(make_evaluation(), text) == ["45.8%", "12%"]


@needs_released_run
def test_words_about_the_released_run_quote_its_numbers():
    evaluation = json.loads(RELEASED.read_text())
    readme = (ROOT / "README.md").read_text()
    rows = [line for line in readme.splitlines() if re.match(r"\|.*\d%", line)]
    notebook = nbformat.read(ROOT / "coursework2.ipynb", as_version=4)
    results = [
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "markdown" and cell.source.startswith("**Results")
    ]
    assert rows and results
    for text in [*rows, *results, conclusions_text(RELEASED)]:
        assert not not_from(evaluation, text), text


@needs_released_run
def test_committed_report_is_of_the_released_run():
    assert page_of(RELEASED) == (ROOT / "report.pdf").read_bytes()
    words = re.findall(r"\S*\w\S*", report_text(RELEASED))
    assert len(words) <= 600
