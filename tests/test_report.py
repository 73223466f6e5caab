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

def evaluation(accuracy=0.52, question_only=0.45, shuffled=0.41):
    kinds = ["yes/no", "count", "color", "shape", "size", "material"]
    return {
        "data": {"description": "CLEVR-like data made by this project", "train_images": 14950,
                 "val_images": 3750, "train_pairs": 149500, "val_pairs": 37500, "answers": 28,
                 "vocabulary": 82},
        "run": {"hardware": "NVIDIA H100 80GB HBM3", "precision": "mixed_bfloat16",
                "training_minutes": 12.5, "seed": 0, "epochs": 20, "batch_size": 64,
                "learning_rate": 0.0003, "parameters": 990108},
        "sampled_pairs": {"pairs": 3750, "loss": 0.91, "accuracy": accuracy,
                          "standard_error": 0.0082, "majority": 0.21, "majority_by_kind": 0.42,
                          "question_only": question_only, "shuffled_images": shuffled},
        "all_pairs": {"pairs": 37500, "accuracy": accuracy, "majority": 0.208,
                      "majority_by_kind": 0.418, "question_only": question_only},
        "by_kind": [{"kind": kind, "pairs": 6000 + i, "model": accuracy,
                     "question_only": question_only + i / 100, "majority": 0.4}
                    for i, kind in enumerate(kinds)],
        "coordinates": {"epochs": 5, "with": {"spatial": 0.47, "other": 0.49},
                        "without": {"spatial": 0.44, "other": 0.49},
                        "pairs": {"spatial": 20000, "other": 17500}},
    }


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


def words(folder):
    """The text of the report, read out of the evaluated document."""
    def texts(node):
        if isinstance(node, dict):
            yield " " if node.get("func") == "space" else ""
            yield node["text"] if isinstance(node.get("text"), str) else ""
            node = list(node.values())
        for part in node if isinstance(node, list) else []:
            yield from texts(part)

    sources = {"main.typ": b'#import "report.typ": page-text\n#metadata(page-text) <page>',
               "report.typ": (ROOT / "report" / "report.typ").read_bytes()}
    inputs = {name: (folder / name).read_text("utf-8")
              for name in ("evaluation.json", "training_log.csv")}
    page = typst.query(sources, "<page>", field="value", one=True, sys_inputs=inputs)
    return re.sub(r"\s+", " ", "".join(texts(json.loads(page))))


def short_run():
    """Like 160 updates on two cores: below the most frequent answer of the kind."""
    result = evaluation(0.36, 0.336, 0.344)
    result["data"].update(train_images=512, val_images=128, train_pairs=5120, val_pairs=1280)
    result["run"].update(hardware="a CPU, 2 cores, no GPU, mixed_bfloat16")
    result["sampled_pairs"].update(pairs=128, majority_by_kind=0.484)
    result["all_pairs"].update(pairs=1280)
    result["coordinates"] = {"epochs": 5, "with": {"spatial": 0.225, "other": 0.167},
                             "without": {"spatial": 0.043, "other": 0.049},
                             "pairs": {"spatial": 627, "other": 653}}
    return result


# what the run gave -> what the report has to say, and what it may not say
VERDICTS = {
    "sees": (evaluation(), training_log(), [
        "accuracy 52.0 %", "7.0 points above the network that sees only the question",
        "so it does look", "Under-fitting", "no over-fitting is seen", "in the last epoch (0.850)",
        "training loss is then 0.800, the validation loss 0.850: 0.050 more (6 %)",
        "from epoch 15 to 20 it falls: 0.889 to 0.850",
        "(20,000 pairs: with 47.0 %, without 44.0 %, a gain)",
        "(17,500 pairs: with 49.0 %, without 49.0 %, no difference beyond two standard errors)",
        "The picture is used", "still rises", "4,680 updates are up to about 190 times fewer",
        "14,950 training", "from 2.0 points (material) to 7.0 points (yes/no)",
        "18 to 174 of 224 pixels", "1,622 to 1,298 million", "questions of its 90 families",
        "NVIDIA H100 80GB HBM3 (mixed bfloat16, training seed 0)", "4.7 times fewer",
    ], ["Over-fitting:", "not shown to have learned", "hardly", "moving averages", "inconclusive"]),
    "language only": (evaluation(0.46, 0.455, 0.452), training_log(0.47, 0.46), [
        "0.5 points from the network", "does not show that the picture helps",
        "a difference within two standard errors", "language, but hardly the picture",
    ], ["picture is used", "does look", "not shown to have learned"]),
    "worse than language": (evaluation(0.3, 0.45, 0.4), training_log(0.31, 0.3), [
        "15.0 points below", "more than with its own", "beats it by 12.0 points",
    ], ["picture is used", "does look", "has learned the language"]),
    "short": (short_run(), training_log(0.357, 0.36, (3.2, 1.08)), [
        "beats it by 12.4 points", "0.280 more (35 %), a clear gap", "losses do not exclude it",
        "so this is inconclusive", "with 19.5 % and without 4.6 %",
        "160 updates are up to about 5,500 times fewer", "137 times fewer",
        "initial values still weigh 20 %", "the losses leave open",
        "a CPU, 2 cores, no GPU (mixed bfloat16, training seed 0)",
    ], ["has learned the language", "a gain", "no over-fitting is seen", "picture is used"]),
    "memorised": (evaluation(0.5, 0.45, 0.3), training_log(0.98, 0.5, (0.9, 1.9)), [
        "fits its training pairs (98.0 %)",
        "Over-fitting: validation accuracy is 48.0 points behind", "a clear gap",
        "in epoch 1 (0.900, at the end 1.900)", "it rises", "Its limit is generalisation",
        "since it over-fits",
    ], ["Under-fitting", "since capacity grows", "moving averages"]),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_report_says_what_the_run_shows_on_one_page(tmp_path, case):
    result, log, said, unsaid = VERDICTS[case]
    write_run(tmp_path, result, log)
    text = words(tmp_path)
    for phrase in said:
        assert phrase in text, phrase
    for phrase in unsaid:
        assert phrase not in text, phrase
    page = build.report(tmp_path)
    assert page == build.report(tmp_path)
    assert pages_of(page) == 1


def extreme_runs():
    perfect = evaluation(1.0, 0.0, 0.0)
    perfect["coordinates"] = None
    yield "perfect, one epoch, no coordinates", perfect, training_log(1.0, 1.0).head(1)
    wordy = evaluation()
    wordy["run"]["hardware"] = "two cores of a machine with a very long name and title, " * 12
    wordy["data"]["description"] = "the course's files, described at great length and *stars*, " * 8
    wordy["data"].update(train_images=70000, train_pairs=699989, val_pairs=149991)
    yield "wordy", wordy, training_log()
    flat = training_log(0.3, 0.3, (1.4, 1.4))
    yield "nothing learned", evaluation(0.0, 0.2, 0.0), flat.assign(loss=1.4)


@pytest.mark.parametrize("result, log", [pytest.param(*run, id=name)
                                         for name, *run in extreme_runs()])
def test_report_is_one_page_whatever_the_run(tmp_path, result, log):
    write_run(tmp_path, result, log)
    done = run("build.py", tmp_path, tmp_path / "report.pdf")
    assert (done.returncode, done.stderr) == (0, "")
    assert pages_of((tmp_path / "report.pdf").read_bytes()) == 1


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
