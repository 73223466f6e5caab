"""The two PDFs: nothing of a notebook is lost or cut off, and the report is one true page."""

import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.figure
import nbformat
import numpy as np
import pandas as pd
import pytest
import typst
from nbformat import v4
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "report"))

import build  # noqa: E402
import notebook_pdf  # noqa: E402


def run(script, *arguments):
    return subprocess.run([sys.executable, ROOT / "report" / script, *arguments],
                          capture_output=True, text=True)


def pages_of(pdf):
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


# ---- the notebook ----

def png(width, height):
    figure = matplotlib.figure.Figure(figsize=(width, height))
    figure.add_subplot().plot([1, 3, 2])
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return content.getvalue()


def shown(**data):
    return v4.new_output("display_data", data={
        kind.replace("_", "/"): content for kind, content in data.items()})


def printed(text, name="stdout"):
    return v4.new_output("stream", name=name, text=text)


def summary_table(width=40):
    """What `model.summary()` prints on a wide console, bold as rich writes it."""
    rows = [("Layer (type)", "Output Shape", "Param #"), ("embedding", "(None, None, 64)", "5,248")]
    lines = ["│".join(f" {cell:<{width - 1}}" for cell in row) for row in rows]
    top, bottom = "┳".join(["━" * width] * 3), "┴".join(["─" * width] * 3)
    return f"┏{top}┓\n┃\x1b[1m{lines[0]}\x1b[0m┃\n│{lines[1]}│\n└{bottom}┘\n"


PROSE = r"""# Coursework *two*
a) An answer with $\gamma \odot \mathbf{h}^{(k-1)} \in \mathbb{R}^{H \times W \times C}$:
- item one, $\beta_c$
- item two: `code_here`
  1. inner $\hat{y}$

\begin{align}
\gamma &= \textrm{Linear}(\mathbf{q}) \\
\beta &= W\,\mathbf{q} + b
\end{align}

$$\textrm{FiLM}(\mathbf{h} | \gamma, \beta)_{h, w, c} = \gamma_c\; \mathbf{h}_{h, w, c} + \beta_c,$$
and $\lvert x \rvert \le \|y\| \!+ 1$.

| method | parameters | note |
|:---|---:|---|
| FiLM | $2 D C'$ | `Dense` |
| concatenation | $k^2 D C'$ | a note, long enough to be broken |
"""

PICTURES = r"""## Pictures
<center><img src="figures/x.png" alt="an image" style="width: 300px;"/></center>

![](figures/x.png)

Inline <b>bold</b>, H<sub>2</sub>O<br>after a break, [a link](#Pictures), 5 < 6 & 50 % of "quotes"
at https://arxiv.org/abs/1709.07871, a@b.c, #hash, *stars*, \*, a_b_c and $5.

---
> A quote
"""

CODE = ("model.summary()  # " + "long comment " * 12 + "end-of-long-line\n"
        "x = '" + "unbroken" * 30 + "'\n"
        "def call(self, h):\n    return f\"{h!r}\\n\"  # ≈ γ·h → β")


def troublesome_notebook():
    frame = pd.DataFrame({"epoch": [0, 1], "val_accuracy": [0.4125, 0.4375]})
    wide = pd.DataFrame({f"a_long_name_{i}": [i / 7] for i in range(12)})
    source = "Source of **FiLM**:\n```python\nself.gamma = Dense(c)\n```\n"
    return v4.new_notebook(cells=[
        v4.new_markdown_cell(PROSE),
        v4.new_markdown_cell(PICTURES),
        v4.new_code_cell("EPOCHS = 20", metadata={"tags": ["injected-parameters"]},
                         execution_count=1),
        v4.new_code_cell(CODE, execution_count=2, outputs=[
            printed("Epoch 1/20\n  1/234\b\b\b\b\b\b\b  2/234\b\b\b\b\b\b\b234/234 - done\n"),
            printed("50%|█▌ |\r100%|███|\n\x1b[31mred\x1b[0m\n" + summary_table()),
            printed("a warning\n", "stderr"),
            v4.new_output("execute_result", execution_count=2,
                          data={"text/plain": "TensorSpec(shape=(None, 224, 224, 3))"}),
            shown(text_html="<pre>rich</pre>", text_plain=summary_table()),
            printed("unbroken" * 40),
        ]),
        v4.new_code_cell("frame", execution_count=3, outputs=[
            shown(text_html=frame._repr_html_(), text_plain="plain frame"),
            shown(text_html=wide._repr_html_(), text_plain="plain wide frame"),
            shown(image_png=base64.b64encode(png(14, 4)).decode(), text_plain="<Figure>"),
            shown(image_png=base64.b64encode(png(4, 14)).decode(), text_plain="<Figure>"),
            shown(text_markdown=source, text_plain="<Markdown>"),
            v4.new_output("error", ename="ValueError", evalue="bad",
                          traceback=["\x1b[31mValueError\x1b[0m: bad"]),
        ]),
        v4.new_code_cell("\n".join(f"line_{i} = {i}" for i in range(120)), execution_count=4),
    ])


@pytest.fixture
def notebook(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "x.png").write_bytes(png(12, 5))
    nbformat.write(troublesome_notebook(), tmp_path / "notebook.ipynb")
    return tmp_path / "notebook.ipynb"


@pytest.fixture
def typst_source(notebook, monkeypatch):
    monkeypatch.setattr(notebook_pdf.typst, "compile", lambda path, **_: path.read_text("utf-8"))
    return notebook_pdf.TypstExporter().from_filename(str(notebook))[0]


def test_notebook_becomes_the_same_pdf_twice(notebook, tmp_path):
    pdfs = [tmp_path / "new" / "folder" / "one.pdf", tmp_path / "two.pdf"]
    for pdf in pdfs:
        done = run("notebook_pdf.py", notebook, pdf)
        assert (done.returncode, done.stderr) == (0, "")
    one, two = (pdf.read_bytes() for pdf in pdfs)
    assert one == two
    assert 4 <= pages_of(one) <= 7
    assert re.search(rb"/Subtype\s*/Image", one)
    assert b"Coursework two" in one  # the title among the properties


def test_every_cell_and_output_is_set(typst_source):
    for expected in (
        "a) An answer", r"$gamma dot.circle upright(bold(h))^", "item one, $beta_c$", "hat(y)",
        'gamma & = upright("Linear")', "enough to be broken", "k^2",
        'image("figures/x.png", width:', "Inline bold, H2O", "after a break", "a link",
        "a\\_b\\_c", "#quote", "EPOCHS = 20", "end-of-long-line", r"return f\"{h!r}\\n\"",
        "≈ γ·h → β", "234/234 - done", "100%|███|", r"\nred\n", "a warning", "TensorSpec",
        "val\\_accuracy", "0.4375", "self.gamma = Dense(c)", "ValueError: bad", "line_119 = 119",
    ):
        assert expected in typst_source, expected
    for gone in ("\b", "\x1b", "1/234234", "50%|", "begin{align}", "plain frame", "<Figure>"):
        assert gone not in typst_source, gone
    assert typst_source.count("Output Shape") == 2
    # The broken lines hold what the one line held.
    unbroken = re.sub(r"\\n *↪ ", "", typst_source)
    assert "unbroken" * 30 in unbroken and "unbroken" * 40 in unbroken


def test_nothing_reaches_into_the_margins(notebook, monkeypatch):
    compile_pdf = typst.compile
    monkeypatch.setattr(notebook_pdf.typst, "compile", lambda path, **options: compile_pdf(
        path, format="png", ppi=72, **options))
    for page in notebook_pdf.TypstExporter().from_filename(str(notebook))[0]:
        pixels = np.asarray(Image.open(io.BytesIO(page)).convert("L"))  # one pixel is a point
        assert pixels.shape == (842, 595)
        assert (pixels[:, -50:] > 250).all()
        assert (pixels[-20:] > 250).all()


@pytest.mark.parametrize("markdown, said", [
    ("![](figures/missing.png)", "figures/missing.png"),
    (r"$$x \tag{1}$$", r"\tag"),
    (r"$a \& b$", r"\&"),
    (r"$\frac{a$", r"\frac{a"),
])
def test_what_cannot_be_set_is_refused_in_one_line(tmp_path, markdown, said):
    path = tmp_path / "notebook.ipynb"
    nbformat.write(v4.new_notebook(cells=[v4.new_markdown_cell(markdown)]), path)
    done = run("notebook_pdf.py", path, tmp_path / "out.pdf")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and said in done.stderr and str(path) in done.stderr
    assert not (tmp_path / "out.pdf").exists()


# ---- the report ----

KINDS = ["yes/no", "count", "color", "shape", "size", "material"]


def evaluation(accuracy=0.52, question_only=0.45, shuffled=0.41, errors=0.003, right_kind=0.99):
    """Like the coursework's size; all differences follow from the accuracies."""
    result = {
        "data": {"description": "CLEVR-like data made by this project, not CLEVR "
                                "(seed 1, 14950 + 3750 images)",
                 "train_images": 14950, "val_images": 3750, "train_pairs": 149500,
                 "val_pairs": 37500, "answers": 28, "vocabulary": 82},
        "run": {"hardware": "NVIDIA H100 80GB HBM3, mixed_bfloat16", "precision": "mixed_bfloat16",
                "training_minutes": 12.5, "median_epoch_minutes": 0.6, "seed": 0, "epochs": 20, "batch_size": 64,
                "learning_rate": 0.0003, "parameters": 990108},
        "sampled_pairs": {"pairs": 3750, "loss": 0.91, "accuracy": accuracy,
                          "standard_error": 0.0082, "majority": 0.21, "majority_by_kind": 0.42,
                          "question_only": question_only + 0.002, "shuffled_images": shuffled},
        "all_pairs": {"pairs": 37500, "accuracy": accuracy, "majority": 0.208,
                      "majority_by_kind": 0.418, "question_only": question_only},
        "right_kind": right_kind,
        "by_kind": [{"kind": kind, "pairs": 6000 + i, "model": accuracy, "error": 0.006,
                     "question_only": question_only + i / 100, "majority": 0.4}
                    for i, kind in enumerate(KINDS)],
        "coordinates": coordinates(0.12, 0.09, 0.01),
    }
    result["differences"] = {
        name: {"gap": accuracy - result["all_pairs"].get(name, shuffled), "error": errors}
        for name in ("question_only", "majority_by_kind", "majority", "shuffled_images")}
    return result


def coordinates(zero, mirrored, mirrored_other, error=0.01, pairs=(1910, 1840)):
    """The test of the trained model that loses so much where a question names a direction."""
    trained = {"spatial": 0.5, "other": 0.54}

    def changed(share, **losses):
        return {**{group: trained[group] - losses[group] for group in trained}, "changed": share,
                "loss": {group: {"gap": gap, "error": error} for group, gap in losses.items()}}

    return {"pairs": dict(zip(trained, pairs)), "as_trained": changed(0.0, spatial=0.0, other=0.0),
            "zero": changed(0.4, spatial=zero, other=0.05),
            "mirrored": changed(0.3, spatial=mirrored, other=mirrored_other)}


def with_differences(**gaps):
    """An evaluation with these differences in place of its own, all of error 0.01."""
    result = evaluation()
    for name, gap in gaps.items():
        result["differences"][name] = {"gap": gap, "error": 0.01}
    return result


def training_log(accuracy=0.53, val_accuracy=0.52, val_loss=(1.0, 0.85)):
    """20 epochs, straight lines; columns as CSVLogger sorts them."""
    ends = {"accuracy": (0.3, accuracy), "loss": (1.4, 0.8),
            "val_accuracy": (0.3, val_accuracy), "val_loss": val_loss}
    log = pd.DataFrame({name: np.linspace(*pair, 20) for name, pair in ends.items()})
    return log.rename_axis("epoch")


def write_run(folder, result, log):
    (folder / "evaluation.json").write_text(json.dumps(result), "utf-8")
    log.to_csv(folder / "training_log.csv")
    return folder


def query(folder, document, label):
    sources = {"main.typ": document, "report.typ": (ROOT / "report" / "report.typ").read_bytes()}
    inputs = build.read(folder)
    return json.loads(typst.query(sources, label, field="value", one=True, sys_inputs=inputs))


def words(folder, part="page-text"):
    """The text of the report or of a part of it, read out of the evaluated document."""
    marks = {"space": " ", "parbreak": " ", "cell": " ", "smartquote": "'"}

    def texts(node):
        if isinstance(node, dict):
            yield marks.get(node.get("func"), "")
            yield node["text"] if isinstance(node.get("text"), str) else ""
            node = list(node.values())
        for inner in node if isinstance(node, list) else []:
            yield from texts(inner)

    document = f'#import "report.typ": {part}\n#metadata({part}) <part>'.encode()
    return re.sub(r"\s+", " ", "".join(texts(query(folder, document, "<part>"))))


def type_size(folder):
    """The body's size in points; tables and references have 0.9 of it, but at least 8.5."""
    return query(folder, (ROOT / "report" / "report.typ").read_bytes(), "<type-size>")


def short_run():
    """Like 160 updates on two cores: below the most frequent answer of the kind."""
    result = evaluation(0.36, 0.336, 0.344, errors=0.013, right_kind=0.887)
    result["data"].update(train_images=512, val_images=128, train_pairs=5120, val_pairs=1280)
    result["run"].update(hardware="a CPU, 2 cores, no GPU, mixed_bfloat16")
    result["sampled_pairs"].update(pairs=128, majority_by_kind=0.484)
    result["all_pairs"].update(pairs=1280)
    result["coordinates"] = coordinates(0.03, 0.02, 0.0, 0.04, (61, 67))
    return result


# what the run gave -> what the report has to say, and what it may not say
VERDICTS = {
    "sees": (evaluation(), training_log(), [
        "clearly better than the network that sees only the question",
        "it is clearly worse, so it uses its picture and gains by it.",
        "It is clearly better than the question alone in every kind of answer.",
        "Under-fitting: in the last epoch the network answers 53.0 % of its training pairs",
        "Validation accuracy does not differ clearly from that. The losses end at 0.800 (training) "
        "and 0.850 (validation), a narrow gap. No over-fitting is seen. Only validation uses averaged",
        "lowest in the last epoch. From the 5 epochs before to the last 5 its median falls by 0.039, and "
        "that of validation accuracy rises by 5.8 points; the highest is 52.0 %, in epoch 20.",
        "4,680 updates are up to about 190 times fewer, on 4.7 times fewer pictures; (b)",
        "The model knows which kind of answer fits (99.0 % of its answers), and it is clearly "
        "better than always giving the most frequent answer of the kind. It uses the picture. In "
        "short, it under-fits: its limit is what it can fit in this budget, not memorising.",
        "not CLEVR (seed 1); scenes by", "questions of its 90 families: 14,950 training and 3,750",
        "trained for 20 epochs in 12.5 minutes (mixed bfloat16, training seed 0) on "
        "NVIDIA H100 80GB HBM3.", "18 to 174 of 224 pixels", "1,622 to 1,298 million",
    ], ["Over-fitting:", "not shown", "wide gap", "14950"]),
    "language only": (evaluation(0.46, 0.457, 0.457), training_log(0.47, 0.46), [
        "not clearly different from the network that sees only the question. Shown another image's "
        "picture, it is not clearly worse, so no use of the picture is shown.",
        "It is not shown to use the picture. In short, it under-fits",
    ], ["uses the picture", "uses its picture"]),
    "worse than language": (evaluation(0.3, 0.45, 0.4), training_log(0.31, 0.3), [
        "clearly worse than the network that sees only the question",
        "it is clearly better, for which we have no explanation.",
        "but it is clearly worse than always giving the most frequent answer of the kind.",
    ], ["uses the picture", "uses its picture", "gains by it"]),
    "short": (short_run(), training_log(0.357, 0.36, (3.2, 1.08)), [
        "mostly knows which kind of answer fits (88.7 % of its answers), but it is clearly worse",
        "1.080 (validation), a wide gap. The accuracies show no over-fitting, but the losses do "
        "not exclude it.", "160 updates are up to about 5,500 times fewer, on 137 times fewer",
        "it under-fits; whether what it fits carries over to new pictures, the losses leave open.",
        "training seed 0) on a CPU, 2 cores, no GPU.", "not shown to rely on the maps",
    ], ["Over-fitting:", "No over-fitting is seen", "uses the picture"]),
    "over-fits a little": (evaluation(), training_log(0.545, 0.52), [
        "Over-fitting: validation accuracy is 2.5 points behind, beyond two standard errors of the "
        "difference, though not by much.", "it under-fits, and part of what it fits does not",
        "since it over-fits",
    ], ["over-fitting is seen", "show no over-fitting", "since capacity grows"]),
    "within both errors": (evaluation(), training_log(0.537, 0.52), [
        "Validation accuracy does not differ clearly",
    ], ["Over-fitting:"]),  # 1.7 points: beyond two errors of validation alone, not of both
    "memorised": (evaluation(0.5, 0.45, 0.3), training_log(0.98, 0.5, (0.9, 1.9)), [
        "The network fits its training pairs: 98.0 % in the last epoch.",
        "Over-fitting: validation accuracy is 48.0 points behind", "a wide gap",
        "lowest in epoch 1 and ends 1.000 above that. From the 5 epochs before to the last 5 its median rises by 0.263",
        "its limit is generalisation: it fits what it was shown, not new pictures as well.",
    ], ["Under-fitting", "it under-fits", "not by much"]),
    "learned": (evaluation(0.97, 0.45, 0.3), training_log(0.968, 0.97, (0.9, 0.81)), [
        "The network fits its training pairs: 96.8 %", "No over-fitting is seen.",
        "In short, it has nearly learned what it was shown.",
    ], ["Under-fitting", "Over-fitting:", "it under-fits", "generalisation:"]),
    "flat": (evaluation(), training_log(0.46, 0.52, (0.81, 0.812)).assign(
        val_accuracy=np.linspace(0.511, 0.52, 20)), [
        "6.0 points ahead, as the training figure is the whole epoch's, without averaged weights", "about the same",
        "lowest in epoch 1 and ends at 0.812. From the 5 epochs before to the last 5 its median stays, "
        "and that of validation accuracy stays (+0.2 points); the highest is 52.0 %, in epoch 20.",
    ], ["rises", "falls by", "gap", "does not exclude"]),
}


def test_one_bad_epoch_is_not_taken_for_progress(tmp_path):
    log = training_log(0.46, 0.52, (0.81, 0.812))
    log.loc[14, "val_loss"] += 0.1  # the last before the last five
    write_run(tmp_path, evaluation(), log)
    assert "From the 5 epochs before to the last 5 its median stays" in words(tmp_path)


@pytest.mark.parametrize("case", VERDICTS)
def test_report_says_what_the_run_shows_on_one_page(tmp_path, case):
    result, log, said, unsaid = VERDICTS[case]
    write_run(tmp_path, result, log)
    text = words(tmp_path)
    for phrase in said:
        assert phrase in text, phrase
    for phrase in unsaid:
        assert phrase not in text, phrase
    assert not re.search(r"\bNone\b|\bnan\b|  |\(\)| [,.;:]", text)
    page = build.report(tmp_path)
    assert page == build.report(tmp_path)
    assert pages_of(page) == 1
    assert type_size(tmp_path) >= 9


def test_only_a_jump_that_is_undone_is_called_one(tmp_path):
    log = training_log(val_loss=(1.0, 1.0))
    log.loc[[4, 12, 13], "val_loss"] = 1.5, 1.6, 1.6  # a single epoch; two, of which neither stands out
    log.loc[9, "val_loss"] = 1.1
    write_run(tmp_path, evaluation(), log)
    said = words(tmp_path, "about-course")
    assert said.count("jumps to") == 1 and "In epoch 5 validation loss jumps to 1.500" in said


def test_tables_hold_the_files_numbers(tmp_path):
    result = evaluation()
    result["by_kind"][3]["model"] = 0.4
    write_run(tmp_path, result, training_log())
    text = words(tmp_path)
    sampled, everything = result["sampled_pairs"], result["all_pairs"]

    def difference(gap, error):
        return f"{100 * gap:+.1f} ± {200 * error:.1f}".replace("-", "−")

    rows = [f"FiLM model {100 * sampled['accuracy']:.1f} {100 * everything['accuracy']:.1f} –"]
    for name, key in (("the same, another image's picture", "shuffled_images"),
                      ("question only, same epochs", "question_only"),
                      ("most frequent answer of the kind", "majority_by_kind"),
                      ("most frequent answer", "majority")):
        second = f"{100 * everything[key]:.1f}" if key in everything else "–"
        rows.append(f"{name} {100 * sampled[key]:.1f} {second} "
                    + difference(**result["differences"][key]))
    for kind in result["by_kind"]:
        rows.append(f"{kind['kind']} {kind['pairs']:,} {100 * kind['model']:.1f} "
                    f"{100 * kind['question_only']:.1f} "
                    f"{difference(kind['model'] - kind['question_only'], kind['error'])} "
                    f"{100 * kind['majority']:.1f}")
    places = result["coordinates"]
    rows.append("directions (1,910) others (1,840) answers changed as trained "
                + " ".join(f"{100 * places['as_trained'][key]:.1f}" for key in places["pairs"]))
    for name, key in (("zero everywhere", "zero"), ("mirrored", "mirrored")):
        rows.append(name + "".join(f" {100 * places[key][column]:.1f}"
                                   for column in ("spatial", "other", "changed")))
    rows.append("loss there 0.910, standard error of the accuracy 0.8 points")
    rows.append("52.0 %, question only 45.2 % (validation)")
    for row in rows:
        assert row in text, row


PICTURE = {
    (1, 1): "clearly better than the network that sees only the question. Shown another image's "
            "picture, it is clearly worse, so it uses its picture and gains by it.",
    (1, 0): "not clearly worse, so that gain is not shown to come from the picture.",
    (0, 1): "not clearly different from the network that sees only the question. Shown another "
            "image's picture, it is clearly worse, so it uses its picture, though no gain over the "
            "question alone is shown.",
    (0, 0): "not clearly worse, so no use of the picture is shown.",
    (-1, 1): "clearly worse, so it uses its picture, though the question alone was learned better "
             "without one.",
    (-1, 0): "not clearly worse, so no use of the picture is shown.",
    (1, -1): "clearly better, for which we have no explanation.",
}


@pytest.mark.parametrize("question, shuffled", PICTURE)
def test_use_of_the_picture_needs_the_shuffled_images(tmp_path, question, shuffled):
    write_run(tmp_path, with_differences(question_only=question * 0.03,
                                         shuffled_images=shuffled * 0.03), training_log())
    assert PICTURE[question, shuffled] in words(tmp_path, "about-picture")
    verdict = ("It uses the picture." if (question, shuffled) == (1, 1)
               else "It uses the picture, without a clear gain by it." if shuffled == 1
               else "It is not shown to use the picture.")
    assert verdict in words(tmp_path, "conclusion")


@pytest.mark.parametrize("right_kind, gap, said", [
    (0.99, 0.03, "knows which kind of answer fits (99.0 % of its answers), and it is clearly better"),
    (0.99, 0.015, "The model knows which kind of answer fits (99.0 % of its answers), but it is not "
                  "clearly better than always giving the most frequent answer of the kind."),
    (0.9, -0.03, "mostly knows which kind of answer fits (90.0 % of its answers), but it is clearly "
                 "worse"),
    (0.6, -0.03, "does not reliably know which kind of answer fits (60.0 % of its answers), and it "
                 "is clearly worse"),
    (0.6, 0.03, "(60.0 % of its answers), but it is clearly better"),
])
def test_kind_of_answer_is_judged_apart_from_accuracy(tmp_path, right_kind, gap, said):
    result = with_differences(majority_by_kind=gap) | {"right_kind": right_kind}
    write_run(tmp_path, result, training_log())
    assert said in words(tmp_path, "conclusion")


@pytest.mark.parametrize("gaps, said", [
    ([0.03] * 6, "It is clearly better than the question alone in every kind of answer."),
    ([0.01] * 6, "In no kind of answer does it differ clearly from the question alone."),
    ([0.03, 0, 0.03, 0, 0, -0.03], "By kind of answer, it is clearly better than the question alone "
                                   "for yes/no and color and worse for material, with no "
                                   "clear difference"),
    ([0, 0, 0, -0.03, 0, 0], "it is clearly worse than the question alone for shape, with no clear "
                             "difference for the rest."),
    ([0.03] * 5 + [-0.03], "for yes/no, count, color, shape and size and worse for material."),
])
def test_kinds_are_named_only_beyond_their_errors(tmp_path, gaps, said):
    result = evaluation()
    for kind, gap in zip(result["by_kind"], gaps):
        kind.update(model=kind["question_only"] + gap, error=0.01)
    write_run(tmp_path, result, training_log())
    assert said in words(tmp_path, "about-kinds")


@pytest.mark.parametrize("places, said", [
    (coordinates(0.1, 0.09, 0.0), "falls clearly, and so it does with mirrored, clearly more than "
                                  "that of the others: the trained model relies on the maps"),
    (coordinates(0.1, 0.06, 0.05), "falls clearly, and so it does with mirrored: the trained model "
                                   "relies on the maps"),
    (coordinates(0.1, 0.01, 0.0), "falls clearly, but not with mirrored: the trained model does "
                                  "worse without the maps, but is not shown to read"),
    (coordinates(0.01, 0.06, 0.05), "does not fall clearly, but with mirrored it does: the trained "
                                    "model uses , though not clearly more for directions than for the rest."),
    (coordinates(0.0, -0.1, 0.0), "does not fall clearly, nor does it with mirrored: the trained "
                                  "model is not shown to rely on the maps for directions, though the "
                                  "others lose clearly (zero 5.0 points)."),
    # The same loss is clear or not by its own error.
    (coordinates(0.0, 0.02, 0.0, 0.009), "but with mirrored it does"),
    (coordinates(0.0, 0.02, 0.0, 0.011), "nor does it with mirrored"),
    # Mirrored, directions lose 3 points more, two errors of which are 2.8.
    (coordinates(0.1, 0.05, 0.02, 0.01), "clearly more than that of the others"),
    (coordinates(0.1, 0.05, 0.025, 0.01), "and so it does with mirrored: the trained"),
])
def test_coordinates_are_judged_by_what_their_change_costs(tmp_path, places, said):
    write_run(tmp_path, evaluation() | {"coordinates": places}, training_log())
    text = re.sub(r"\s*\bx\b\s*", " ", words(tmp_path, "about-places"))
    assert said in text
    assert "which is nothing the network was trained on" in text


@pytest.mark.parametrize("minutes, hardware, description, said", [
    (119.94, "A GPU, mixed_bfloat16", "the files of the course",
     ["The files of the course: 14,950 training", "in 119.9 minutes", "on A GPU."]),
    (200.3, "A GPU, mixed_bfloat16; a CPU, 2 cores, no GPU, mixed_bfloat16; B, float32",
     "CLEVR v1.0", ["CLEVR v1.0: 14,950", "in 3.3 hours",
                    "on A GPU; a CPU, 2 cores, no GPU; B, float32."]),
    (120, "", "#let *x* $ (1 + 2 images)", ["#let *x* $: 14,950", "in 2.0 hours",
                                            "training seed 0)."]),
])
def test_run_is_described_as_it_was(tmp_path, minutes, hardware, description, said):
    result = evaluation()
    result["run"].update(training_minutes=minutes, hardware=hardware)
    result["data"]["description"] = description
    write_run(tmp_path, result, training_log())
    text = words(tmp_path)
    for phrase in said:
        assert phrase in text, phrase
    assert "90 families" not in text and "CLEVR-like" not in text


def extreme_runs():
    yield "perfect, one epoch", evaluation(1.0, 0.0, 0.0, 0.0), training_log(1.0, 1.0).head(1)
    yield "two epochs", evaluation(), training_log().head(2)
    wordy = evaluation(0.46, 0.45, 0.4)
    wordy["run"]["hardware"] = "; ".join(
        f"NVIDIA GeForce RTX 30{i}0 Laptop GPU of some length, float32" for i in range(4))
    wordy["data"]["description"] = "the course's files, described at great length and *stars*, " * 3
    wordy["data"].update(train_images=70000, train_pairs=699989, val_pairs=149991)
    for kind, gap in zip(wordy["by_kind"], (0.1, -0.1, 0.1, -0.1, 0.1, 0.0)):
        kind["model"] = kind["question_only"] + gap
    yield "wordy", wordy, training_log(0.5, 0.46, (0.8, 0.95))
    flat = training_log(0.3, 0.3, (1.4, 1.4))
    yield "nothing learned", evaluation(0.0, 0.2, 0.0), flat.assign(loss=1.4)


@pytest.mark.parametrize("result, log", [pytest.param(*run, id=name)
                                         for name, *run in extreme_runs()])
def test_report_is_one_page_whatever_the_run(tmp_path, result, log):
    write_run(tmp_path, result, log)
    done = run("build.py", tmp_path, tmp_path / "report.pdf")
    assert (done.returncode, done.stderr) == (0, "")
    assert pages_of((tmp_path / "report.pdf").read_bytes()) == 1
    assert type_size(tmp_path) >= 8.5


def write_longer(folder, result, epochs=30):
    """Beside the run, what a copy of it with more epochs gave."""
    result["run"]["epochs"] = epochs
    log = training_log().reindex(range(epochs)).interpolate()
    (folder / build.LONGER).mkdir()
    return write_run(folder / build.LONGER, result, log)


@pytest.mark.parametrize("accuracy, said", [
    (0.56, "clearly better than the question alone after as many epochs (+11.0 ± 0.6)"),
    (0.455, "not clearly different from the question alone after as many epochs (+0.5 ± 0.6)"),
    (0.43, "clearly worse than the question alone after as many epochs (−2.0 ± 0.6)"),
])
def test_a_longer_copy_of_the_run_is_added_and_not_taken_for_the_run(tmp_path, accuracy, said):
    write_run(tmp_path, evaluation(), training_log())
    before, axes, after = re.split("(loss by epoch.*frequent) ", words(tmp_path))
    result = evaluation(accuracy)
    result["sampled_pairs"]["accuracy"] = 0.501
    write_longer(tmp_path, result)
    sentence = (f"Longer: continued to 30 epochs (thin curves), the model reaches {100 * accuracy:.1f} % "
                f"on all pairs (50.1 % on the sampled), {said}. ")
    longer_axes = axes.replace("15101520", "1102030")
    assert longer_axes != axes
    longer_before = before.replace("Hypotheses", sentence + "Hypotheses").replace(
        "fewer pictures;", "fewer pictures (the longer run tests a small part of this);")
    assert words(tmp_path) == longer_before + longer_axes + " " + after
    assert pages_of(build.report(tmp_path)) == 1


def test_only_a_continuation_of_the_run_is_added(tmp_path):
    write_run(tmp_path, evaluation(), training_log().head(10))
    without = words(tmp_path)
    longer = write_longer(tmp_path, evaluation(), epochs=10)
    assert "Longer" not in without and words(tmp_path) == without
    for log, fault in ((training_log(0.6), "longer/ continues another run: remove it"),
                       (None, "longer/training_log.csv is missing")):
        (longer / "training_log.csv").unlink()
        if log is not None:
            log.to_csv(longer / "training_log.csv")
        done = run("build.py", tmp_path, tmp_path / "report.pdf")
        assert done.returncode == 1 and fault in done.stderr


def test_what_the_page_cannot_hold_is_refused_in_one_line(tmp_path):
    result = evaluation()
    result["run"]["hardware"] = "a machine with a very long name and title, " * 60
    write_run(tmp_path, result, training_log())
    done = run("build.py", tmp_path, tmp_path / "report.pdf")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "longer than one page" in done.stderr
    assert not (tmp_path / "report.pdf").exists()


@pytest.mark.parametrize("key", ["right_kind", "differences", "coordinates"])
def test_an_older_evaluation_is_refused_in_one_line(tmp_path, key):
    older = evaluation()
    del older[key]
    write_run(tmp_path, older, training_log())
    done = run("build.py", tmp_path, tmp_path / "report.pdf")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and key in done.stderr
    assert "writes them anew" in done.stderr


def test_unfinished_run_is_refused_in_one_line(tmp_path):
    write_run(tmp_path, evaluation(), training_log())
    incomplete = evaluation()
    del incomplete["sampled_pairs"]["shuffled_images"]
    (tmp_path / "evaluation.json").write_text(json.dumps(incomplete))
    lacks_key = run("build.py", tmp_path, tmp_path / "report.pdf")
    (tmp_path / "evaluation.json").unlink()
    lacks_file = run("build.py", tmp_path, tmp_path / "report.pdf")
    for done, named in ((lacks_key, "shuffled_images"), (lacks_file, "evaluation.json")):
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1 and named in done.stderr
    assert not (tmp_path / "report.pdf").exists()
