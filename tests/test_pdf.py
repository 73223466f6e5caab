"""The notebook's PDF: all of it is set, nothing is cut off, and whatever it holds, there is a PDF."""

import base64
import io
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from nbformat import v4
from PIL import Image

sys.path.insert(0, str(ROOT / "report"))
import notebook_pdf  # noqa: E402


def png(width, height):
    """A black image of so many inches."""
    content = io.BytesIO()
    Image.new("L", (150 * width, 150 * height)).save(content, "png", dpi=(150, 150))
    return base64.b64encode(content.getvalue()).decode()


def shown(**data):
    """An output, its MIME types written with "_" for "/"."""
    return v4.new_output(
        "display_data", data={k.replace("_", "/"): value for k, value in data.items()}
    )


def printed(text, name="stdout"):
    return v4.new_output("stream", name=name, text=text)


def write(folder, *cells):
    """A notebook of cells, or of what they hold: Markdown (a text), code's outputs (a list)."""
    makers = {
        str: v4.new_markdown_cell,
        list: lambda outputs: v4.new_code_cell("run()", outputs=outputs),
    }
    cells = [makers.get(type(cell), lambda cell: cell)(cell) for cell in cells]
    nbformat.write(v4.new_notebook(cells=cells), folder / "notebook.ipynb")
    return folder / "notebook.ipynb"


class Pages(notebook_pdf.TypstExporter):
    """The pages as arrays, 72 pixels an inch; `source` is their Typst source."""

    def render(self, compiler, source, inputs):
        self.source = source.decode()
        pages = compiler.compile(source, sys_inputs=inputs, format="png", ppi=72)
        return [
            np.asarray(Image.open(io.BytesIO(page)).convert("L"))
            for page in ([pages] if isinstance(pages, bytes) else pages)
        ]


def export(folder, *cells):
    exporter = Pages()
    pages, _ = exporter.from_filename(str(write(folder, *cells)))
    return exporter.source, exporter.warnings, pages


def run(*arguments):
    return subprocess.run(
        [sys.executable, notebook_pdf.__file__, *arguments],
        capture_output=True,
        text=True,
    )


PROSE = (
    r"""# Coursework *two*
a) An answer with $\gamma \odot \mathbf{h}^{(k-1)} \in \mathbb{R}^{H \times W \times C}$:
- item one, $\beta_c$

\begin{align}
\gamma &= \textrm{Linear}(\mathbf{q}) \\ \beta &= W\,\mathbf{q} + b
\end{align}

| method | parameters | note |
|:---|---:|---|
| FiLM | $2 D C'$ | a note, long enough to be broken |

<center><img src="x.png" alt="an image" style="width: 300px;"/></center>

Inline <b>bold</b>, H<sub>2</sub>O<br>after a break, [a link](#Pictures), 5 < 6 & 50 % of "quotes"
at https://arxiv.org/abs/1709.07871, #hash, \*, a_b_c and $5. """
    + "unbroken" * 60
)
CODE = (
    "model.summary()  # " + "long comment " * 12 + "end-of-long-line\n"
    "x = '" + "unbroken" * 30 + '\'\nreturn f"{h!r}\\n"  # ≈ γ·h → β ✓ 😀'
)


@pytest.fixture
def cells(tmp_path):
    """What a notebook commonly holds, some of it too long or too wide."""
    (tmp_path / "x.png").write_bytes(base64.b64decode(png(12, 5)))
    frame = pd.DataFrame(
        {"epoch": [0, 1], "val_accuracy": [0.4125, 0.4375], "of": ["a", "b"]}
    )
    wide = pd.DataFrame({f"a_long_name_{i}": [i / 7] for i in range(20)})
    pasted = v4.new_markdown_cell("![a](attachment:a%20b.png)")
    pasted.attachments = {"a b.png": {"image/png": png(2, 1)}}
    return [
        PROSE,
        pasted,
        v4.new_raw_cell("raw cell"),
        v4.new_code_cell(
            CODE,
            execution_count=2,
            outputs=[
                printed(
                    "1/234\b\b\b\b\b234/234 - done\n50%|█▌ |\r100%|███|\n\x1b[31mred\x1b[0m\n"
                    + "unbroken" * 40
                ),
                printed("a warning\n", "stderr"),
                shown(text_html="<pre>rich</pre>", text_plain="┏" + "━" * 98 + "┓"),
                *(
                    shown(text_html=table._repr_html_(), text_plain="plain frame")
                    for table in (frame, wide)
                ),
                *(
                    shown(image_png=png(*size), text_plain="<Figure>")
                    for size in ((14, 4), (4, 14))
                ),
                shown(text_html="only <b>HTML</b>"),
                shown(text_html="<b>more</b>", text_plain="<HTML object>"),
                shown(text_html="<div>messy</div>", text_plain="Estimator()"),
                shown(text_markdown="Source:\n```python\nself.gamma = Dense(c)\n```\n"),
                v4.new_output(
                    "error",
                    ename="E",
                    evalue="",
                    traceback=["\x1b[31mValueError\x1b[0m: bad"],
                ),
            ],
        ),
        v4.new_code_cell(
            "\n".join(f"line_{i} = {i}" for i in range(120)), execution_count=104
        ),
    ]


def test_every_cell_and_output_is_set_and_nothing_reaches_into_the_margins(
    cells, tmp_path
):
    source, warnings, pages = export(tmp_path, *cells)
    assert warnings == []
    for expected in (
        r"$gamma dot.circle upright(bold(h))^",
        "item one, $beta_c$",
        'gamma & = upright("Linear")',
        "0.4375",
        "long enough to be broken",
        'image("x.png", width:',
        "\\#hash",
        "Inline bold, H2O",
        "after a break",
        "a link",
        "a\\_b\\_c",
        "end-of-long-line",
        r" f\"{h!r}\\n\"",
        "≈ γ·h → β",
        "234/234 - done",
        "┏━━━",
        "100%|███|",
        r"\nred\n",
        "a warning",
        "raw cell",
        "right,right,auto",
        "self.gamma = Dense(c)",
        "ValueError: bad",
        "line_119 = 119",
        "only #strong[HTML]",
        "#strong[more]",
        '"Estimator()"',
    ):
        assert expected in source, expected
    for gone in (
        "\b",
        "\x1b",
        "1/234234",
        "50%|",
        "begin{align}",
        "plain frame",
        "<Figure>",
    ):
        assert gone not in source, gone
    for page in pages:
        assert page.shape == (842, 595)  # A4, a pixel is a point
        assert (
            (page[:, -50:] > 250).all()
            and (page[-20:] > 250).all()
            and (page[:, :20] > 250).all()
        )


def test_figures_have_their_own_size_and_100_columns_fit(tmp_path):
    _, _, (page,) = export(tmp_path, [shown(image_png=png(6, 2))])
    dark = np.flatnonzero((page[80:] < 50).any(axis=0))
    assert dark[-1] - dark[0] + 1 == pytest.approx(6 * 72, abs=2)
    bottoms = [
        np.flatnonzero(
            (export(tmp_path, [printed("━" * columns)])[2][0][:400] < 200).any(axis=1)
        )[-1]
        for columns in (1, 100, 101)
    ]
    assert bottoms[0] == bottoms[1] < bottoms[2]


TROUBLES = [
    ("![](missing.png)", "not available: missing.png"),
    ("![](corrupt.png)", '"![](corrupt.png)"'),
    (
        "![](https://host.invalid/badge.svg)",
        "not available: https://host.invalid/badge.svg",
    ),
    ("$$x \\tag{1}$$", "`x \\tag{1}`"),
    ([shown(text_latex=r"$\frac{a$")], r"`\frac{a`"),
    (
        [shown(text_html="<iframe src='https://host.invalid/'></iframe>")],
        "not available: https",
    ),
    (
        [shown(text_html="<div id=a><script>plot()</script></div>")],
        "output not set: text/html",
    ),
    ([shown(application_json={"a": 1})], "output not set: application/json"),
    ([shown(image_png="AAAA", text_plain="<Figure>")], "<Figure>"),
]


@pytest.mark.parametrize("cell, set_as", TROUBLES)
def test_what_cannot_be_set_is_noted_in_its_place(tmp_path, cell, set_as):
    (tmp_path / "corrupt.png").write_bytes(b"no image")
    source, warnings, _ = export(tmp_path, "before", cell, "after")
    assert (
        source.index("before") < source.index("#note(") < source.index("after")
        and set_as in source
    )
    assert len(warnings) == 1 and warnings[0].startswith("cell 2: ")


def test_character_without_a_font_is_set_as_its_code_point(tmp_path):
    text = "Name {0}, **{0}**, `{0}`, $x$"
    _, warnings, (page,) = export(
        tmp_path, text.format("\U0010fffd"), [printed("\U0010fffd")]
    )
    _, _, (expected,) = export(
        tmp_path, text.format("[U+10FFFD]"), [printed("[U+10FFFD]")]
    )
    assert warnings == ["no font has U+10FFFD"] and (page == expected).all()


def test_notebook_full_of_troubles_becomes_the_same_pdf_twice(cells, tmp_path):
    (tmp_path / "corrupt.png").write_bytes(b"no image")
    cells += [
        *(cell for cell, _ in TROUBLES),
        "# 你好 👩‍🔬",
        [printed("\x07 \U0010fffd")],
    ]
    path = write(tmp_path, *cells)
    for pdf in (
        pdfs := [tmp_path / "new" / "folder" / "one.pdf", tmp_path / "two.pdf"]
    ):
        done = run(path, pdf)
        lines = done.stderr.splitlines()
        assert done.returncode == 0 and all(
            line.startswith(f"{path}: ") for line in lines
        )
        assert len(lines) == len(TROUBLES) + 1  # the last is about missing characters
    one, two = (pdf.read_bytes() for pdf in pdfs)
    assert one == two and b"Coursework two" in one  # the title among the properties


def test_what_is_no_notebook_is_refused_in_one_line(tmp_path):
    path = tmp_path / "notebook.ipynb"
    path.write_text('{"nbformat": 4')
    done = run(path, tmp_path / "out.pdf")
    assert (
        done.returncode == 1
        and done.stderr.count("\n") == 1
        and str(path) in done.stderr
    )
    assert not (tmp_path / "out.pdf").exists()
