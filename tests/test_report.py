"""The report is one page with the run's own numbers, and says nothing about runs that it does not know."""

import json
import re
import sys

import pytest
import typst
from conftest import ROOT

sys.path.insert(0, str(ROOT / "report"))
import build  # noqa: E402

RUN = ROOT / "checkpoints"
EVALUATION = json.loads((RUN / "evaluation.json").read_text())
BASELINES = (
    "FiLM",
    "FiLM, mismatched images",
    "question-only network",
    "answer-type majority",
    "most frequent answer",
)


@pytest.fixture
def other_run(tmp_path):
    """The folder of a run of long numbers, which conclusions.typ is not about."""
    changes = {
        "gap": -12.34,
        "minutes": 12345.6,
        "device": "A GPU of a long name; " * 6,
        "epochs": 200,
        "data": "the course's files",
        "train_images": 54321,
        "precision": "float32",
    }
    (tmp_path / "evaluation.json").write_text(json.dumps(EVALUATION | changes))
    (tmp_path / "curves.svg").write_bytes((RUN / "curves.svg").read_bytes())
    (tmp_path / "training_log.csv").write_text(
        "epoch,accuracy,loss,val_accuracy,val_loss\n"
    )
    return tmp_path


def text_of(folder):
    """All text of the report, from the evaluated document."""
    inputs = {name: (folder / name).read_text() for name in build.FILES}
    inputs["checksum"] = build.checksum(inputs["training_log.csv"])
    sources = {path.name: path.read_bytes() for path in (ROOT / "report").glob("*.typ")}
    sources["main.typ"] = (
        b'#import "report.typ": page-text\n#metadata(page-text) <text>'
    )
    document = typst.query(
        sources, "<text>", field="value", one=True, sys_inputs=inputs
    )
    found = []
    json.loads(
        document,
        object_hook=lambda node: found.append(
            node["text"] if isinstance(node.get("text"), str) else " "
        ),
    )
    return re.sub(r"\s+", " ", "".join(found))


def pages_of(pdf):
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


def test_report_holds_the_evaluations_numbers():
    text = text_of(RUN)
    for name in BASELINES:
        assert f"{EVALUATION[f'{name}, sampled']:.1%}" in text, name
    side = "below" if EVALUATION["gap"] < 0 else "above"
    assert re.search(
        f"{abs(EVALUATION['gap']):.1f} ± {EVALUATION['gap_error']:.1f} .*? {side}", text
    )
    assert f"{EVALUATION['val_loss']:.3f}" in text


def test_readme_holds_the_evaluations_numbers():
    readme = (ROOT / "README.md").read_text()
    rows = re.findall(
        r"^\| (.+?) \| ([\d.]+%) \| +([\d.]+%)? *\|$", readme, re.MULTILINE
    )
    table = {name.strip("*"): values for name, *values in rows}
    for name in BASELINES:
        sampled, everything = table[name]
        assert sampled == f"{EVALUATION[f'{name}, sampled']:.1%}"
        assert everything == (
            f"{EVALUATION[f'{name}, all']:.1%}" if f"{name}, all" in EVALUATION else ""
        )


def test_committed_report_is_of_the_committed_run():
    page, about = build.build(RUN)
    assert about is True
    assert pages_of(page) == 1 and page == (ROOT / "report.pdf").read_bytes()


def test_other_runs_get_their_numbers_on_one_page_without_these_conclusions(other_run):
    page, about = build.build(other_run)
    assert pages_of(page) == 1 and about is not True
    text, conclusion = (
        text_of(other_run),
        text_of(RUN).partition("Conclusion")[2].partition("Comparison")[0],
    )
    assert re.search("12.3 ± .*? below", text) and "54,321 images" in text
    assert len(conclusion) > 200 and conclusion not in text


@pytest.mark.parametrize(
    "harm",
    [
        lambda run: (run / "curves.svg").unlink(),
        lambda run: (run / "evaluation.json").write_text("{}"),
        lambda run: (run / "evaluation.json").write_text(
            json.dumps(EVALUATION | {"device": "x " * 9000})
        ),
    ],
)
def test_what_makes_no_page_is_refused_in_one_line(harm, other_run, monkeypatch):
    harm(other_run)
    pdf = other_run / "report.pdf"
    monkeypatch.setattr(sys, "argv", ["build.py", str(other_run), str(pdf)])
    with pytest.raises(SystemExit, match="error: .*") as refusal:
        build.main()
    assert "\n" not in str(refusal.value) and not pdf.exists()
