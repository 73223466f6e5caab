"""The notebook's PDF: all is set, whole, within the margins, or there is a note."""

import base64
import io
import json
import random
import subprocess
import sys
from pathlib import Path

import nbformat
import notebook_pdf
import numpy as np
import pandas as pd
import pytest
import typst
from IPython.core.formatters import DisplayFormatter
from IPython.display import Code
from nbconvert import HTMLExporter
from nbformat import v4
from PIL import Image


def image(width, height, kind="png"):
    """A black image of so many inches."""
    content = io.BytesIO()
    black = Image.new("L", (int(150 * width), int(150 * height)))
    black.save(content, kind, dpi=(150, 150), resolution=150)
    return base64.b64encode(content.getvalue()).decode()


def shown(**data):
    """An output, its MIME types written with "_" for "/"."""
    return v4.new_output(
        "display_data", data={k.replace("_", "/"): value for k, value in data.items()}
    )


def printed(text, name="stdout"):
    return v4.new_output("stream", name=name, text=text)


def write(folder, *cells):
    """A notebook of cells, or of Markdown (a text) and the outputs of code (a list)."""
    makers = {
        str: v4.new_markdown_cell,
        list: lambda outputs: v4.new_code_cell("run()", outputs=outputs),
    }
    cells = [makers.get(type(cell), lambda cell: cell)(cell) for cell in cells]
    nbformat.write(v4.new_notebook(cells=cells), folder / "notebook.ipynb")
    return folder / "notebook.ipynb"


def listing(code):
    """The output of IPython.display.Code."""
    data, _ = DisplayFormatter().format(Code(data=code, language="python"))
    return v4.new_output("display_data", data=data)


# Typst itself says where it sets the words of this pattern, and the images.
MARKS = r"""
#show regex("[a-z]+\d+mark"): it => [#it#metadata(it.text)<mark>]
"""
PLACES = """
#let place-of(name, found) = (name, found.page(), found.position().y.pt())
#context [#metadata(
  query(<mark>).map(mark => place-of(mark.value, mark.location()))
    + query(image).map(image => place-of("image", image.location()))
)<places>]
"""


class Pages(notebook_pdf.TypstExporter):
    """The pages as arrays, 72 pixels an inch; `source` is their Typst source.

    `places` has the page and the height of each marked word."""

    def render(self, compiler, source, inputs):
        self.source = source.decode()
        places = typst.query(
            (MARKS + self.source + PLACES).encode(),
            "<places>",
            field="value",
            one=True,
            root=self.document,
            font_paths=notebook_pdf.FONTS,
            sys_inputs=inputs,
        )
        found = json.loads(places)
        self.places = {name: (page, height) for name, page, height in found}
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
a) An answer with $\gamma \odot \mathbf{h}^{(k-1)} \in \mathbb{R}^{H \times W}$:
- item one, $\beta_c$

\begin{align}
\gamma &= \textrm{Linear}(\mathbf{q}) \\ \beta &= W\,\mathbf{q} + b
\end{align}

| method | parameters | note |
|:---|---:|---|
| FiLM | $2 D C'$ | a note, long enough to be broken |

<center><img src="x.png" alt="an image" style="width: 300px;"/></center>

Inline <b>bold</b>, H<sub>2</sub>O<br>after a break, [a link](#Pictures),
5 < 6 & 50 % of "quotes" at https://arxiv.org/abs/1709.07871,
#hash, \*, a_b_c and $5. """
    + "unbroken" * 60
)
CODE = (
    "model.summary()  # " + "long comment " * 12 + "end-of-long-line\n"
    "x = '" + "unbroken" * 30 + '\'\nreturn f"{h!r}\\n"  # ≈ γ·h → β ✓ 😀'
)


@pytest.fixture
def cells(tmp_path):
    """What a notebook commonly holds, some of it too long or too wide."""
    (tmp_path / "x.png").write_bytes(base64.b64decode(image(12, 5)))
    frame = pd.DataFrame(
        {"epoch": [0, 1], "val_accuracy": [0.4125, 0.4375], "of": ["a", "b"]}
    )
    wide = pd.DataFrame({f"a_long_name_{i}": [i / 7] for i in range(20)})
    pasted = v4.new_markdown_cell("![a](attachment:a%20b.png)")
    pasted.attachments = {"a b.png": {"image/png": image(2, 1)}}
    return [
        PROSE,
        pasted,
        v4.new_raw_cell("raw cell"),
        v4.new_code_cell(
            CODE,
            execution_count=2,
            outputs=[
                printed(
                    "1/234\b\b\b\b\b234/234 - done\n50%|█▌ |\r100%|███|\n"
                    "\x1b[31mred\x1b[0m\n" + "unbroken" * 40
                ),
                printed("a warning\n", "stderr"),
                shown(text_html="<pre>rich</pre>", text_plain="┏" + "━" * 98 + "┓"),
                *(
                    shown(text_html=table._repr_html_(), text_plain="plain frame")
                    for table in (frame, wide)
                ),
                *(
                    shown(image_png=image(*size), text_plain="<Figure>")
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
    _, _, (page,) = export(tmp_path, [shown(image_png=image(6, 2))])
    dark = np.flatnonzero((page[80:] < 50).any(axis=0))
    assert dark[-1] - dark[0] + 1 == pytest.approx(6 * 72, abs=2)
    bottoms = [
        np.flatnonzero(
            (export(tmp_path, [printed("━" * columns)])[2][0][:400] < 200).any(axis=1)
        )[-1]
        for columns in (1, 100, 101)
    ]
    assert bottoms[0] == bottoms[1] < bottoms[2]


def page_of(folder, *cells):
    """The page of each marked word, and the pages."""
    exporter = Pages()
    pages, _ = exporter.from_filename(str(write(folder, *cells)))
    return {name: page for name, (page, _) in exporter.places.items()}, pages


def lines(number, count):
    """So many lines, the first and the last of them marked."""
    middle = "\n".join(f"x{i} = {i}" for i in range(count - 2))
    return f"begin{number}mark = 0\n{middle}\nend{number}mark = 0"


def frame(number, count):
    names = [f"begin{number}mark", *["x"] * (count - 2), f"end{number}mark"]
    return pd.DataFrame({"name": names, "value": range(count)})


KINDS = {
    "code": lambda *size: v4.new_code_cell(lines(*size)),
    "output": lambda *size: [printed(lines(*size))],
    "listing": lambda *size: [listing(lines(*size))],
    "frame": lambda *size: [shown(text_html=frame(*size).to_html(), text_plain="x")],
    "table": lambda *size: "\n".join(
        ["|name|value|", "|---|---|", *(f"|{n}|{v}|" for n, v in frame(*size).values)]
    ),
    "fenced": lambda *size: f"```python\n{lines(*size)}\n```",
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_fits_on_a_page_is_whole_and_headings_stay_with_it(tmp_path, kind):
    sizes = random.Random(0).choices(range(3, 50), k=20)
    cells = [
        part
        for number, size in enumerate(sizes)
        for part in (f"## head{number}mark", KINDS[kind](number, size))
    ]
    page, pages = page_of(tmp_path, "# A title for the head of the pages", *cells)
    assert len(pages) > 5
    for number in range(len(sizes)):
        pages_of_item = {
            page[f"{name}{number}mark"] for name in ("head", "begin", "end")
        }
        assert len(pages_of_item) == 1, number


def test_short_text_stays_with_the_code_below_it(tmp_path):
    sizes = random.Random(0).choices(range(3, 50), k=20)
    cells = [
        part
        for number, size in enumerate(sizes)
        for part in (f"head{number}mark " + "word " * 40, KINDS["code"](number, size))
    ]
    page, _ = page_of(tmp_path, *cells)
    for number in range(len(sizes)):
        assert page[f"head{number}mark"] == page[f"begin{number}mark"], number


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_longer_than_a_page_goes_on_and_ends(tmp_path, kind):
    page, pages = page_of(tmp_path, "text\n\n" * 20, KINDS[kind](0, 150))
    assert page["begin0mark"] == 1 and page["end0mark"] == len(pages) >= 3


def code_with_figure(code_lines, inches):
    outputs = [shown(image_png=image(6, inches))]
    return v4.new_code_cell(lines(0, code_lines), outputs=outputs)


@pytest.mark.parametrize("size", [(10, 2), (20, 3), (5, 8)])
def test_code_stays_with_its_figure_where_this_leaves_no_half_page(tmp_path, size):
    page, _ = page_of(tmp_path, *["text"] * 30, code_with_figure(*size))
    assert page["begin0mark"] == page["image"]


@pytest.mark.parametrize(
    "cells",
    [
        [code_with_figure(3 + number % 7, 2) for number in range(12)],
        ["text"] * 20 + [[shown(image_png=image(6, 2.9))] * 12],
        ["text"] * 22 + [code_with_figure(20, 3.8)],
    ],
    ids=["short cells", "figures of one cell", "long code"],
)
def test_no_page_is_a_third_empty_before_what_could_fill_it(tmp_path, cells):
    _, _, pages = export(tmp_path, *cells)
    assert len(pages) > 1
    for page in pages[:-1]:
        last = np.flatnonzero((page[:800] < 250).any(axis=1))[-1]
        assert last > 842 * 2 / 3


def test_summary_of_a_model_is_whole(tmp_path):
    table = "┃ begin0mark\n" + "│ layer\n" * 20 + "└ end0mark"
    parts = ["Model: title0mark", table, "Total: total0mark", "Other: other0mark"]
    summary = [shown(text_html=f"<pre>{p}</pre>", text_plain=p) for p in parts]
    for above in range(20, 60):
        page, _ = page_of(tmp_path, [printed("text\n" * above)], summary)
        assert len(set(page.values())) == 1


def test_code_output_is_a_framed_listing_in_colours(tmp_path):
    code = "def f(x):\n    # " + "long comment " * 20 + "end0mark\n    return x\n"
    source, warnings, (page,) = export(tmp_path, [listing(code)])
    assert warnings == [] and "PY{" not in source
    _, _, (plain,) = export(tmp_path, [printed(code)])
    frame_of = (page[:, 50:53] < 230).any(axis=1)
    frame_of_plain = (plain[:, 50:53] < 230).any(axis=1)
    assert frame_of.sum() > frame_of_plain.sum() + 40
    assert (page[:, -50:] > 250).all()


def test_note_stands_under_the_title(tmp_path):
    for title in ("# title0mark", "title0mark\n=========", "<h1>title0mark</h1>"):
        path = write(tmp_path, f"{title}\n\ntext0mark\n\n# title1mark")
        exporter = Pages(subtitle='Not the "released" run: note0mark')
        exporter.from_filename(str(path))
        order = ["title0mark", "note0mark", "text0mark", "title1mark"]
        assert sorted(exporter.places, key=exporter.places.get) == order
    exporter.from_filename(str(write(tmp_path, "text0mark")))
    assert exporter.places["note0mark"] < exporter.places["text0mark"]
    done = run(path, tmp_path / "out.pdf", "--note", "a line")
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize("kind", ["image/jpeg", "image/webp", "application/pdf"])
def test_figures_of_other_kinds_are_set(tmp_path, kind):
    data = {kind: image(6, 2, kind.split("/")[1]), "text/plain": "<Figure>"}
    output = v4.new_output("display_data", data=data)
    _, warnings, (page,) = export(tmp_path, [output])
    dark = np.flatnonzero((page[80:] < 50).any(axis=0))
    assert warnings == [] and dark[-1] - dark[0] >= 6 * 72 - 2


LONG = " ".join(map(str, range(600_000)))
TABLE = pd.DataFrame(np.arange(40_000).reshape(5_000, 8))
MARKDOWN_TABLE = "|a|b|\n|---|---|\n" + "|1|2|\n" * 5_000
HUGE = {
    "frame and line": [shown(text_html=TABLE.to_html(), text_plain="x"), printed(LONG)],
    "code": v4.new_code_cell(LONG),
    "text": LONG,
    "Markdown table": MARKDOWN_TABLE,
    "word": [shown(text_plain="x" * 4_000_000)],
    "HTML": [shown(text_html=f"<pre>{LONG}</pre>", text_plain="<X>")],
    "listing": [listing("x = 1\n" * 5_000)],
}
MEASURED = """
import resource as r, notebook_pdf
notebook_pdf.main()
print(max(r.getrusage(who).ru_maxrss for who in (r.RUSAGE_SELF, r.RUSAGE_CHILDREN)))
"""


@pytest.mark.parametrize("kind", HUGE)
def test_what_is_too_long_is_cut_with_a_note_in_little_memory(tmp_path, kind):
    path = write(tmp_path, "before", HUGE[kind], "after")
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, path, tmp_path / "out.pdf"],
        cwd=Path(notebook_pdf.__file__).parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and int(done.stdout) < 1_500_000  # kB
    warnings = done.stderr.splitlines()
    assert len(warnings) == (2 if kind == "frame and line" else 1)
    assert all("cell 2: " in line and "too many to print" in line for line in warnings)


def test_images_do_not_count_as_long_text(tmp_path):
    noise = np.random.default_rng(0).integers(256, size=(600, 600), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "png")
    uri = "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
    _, warnings, _ = export(
        tmp_path, f"![]({uri})", [shown(text_html=f"<img src={uri}>")]
    )
    assert warnings == []


def test_html_export_by_the_command_of_the_readme_is_whole(tmp_path):
    (tmp_path / "x.png").write_bytes(base64.b64decode(image(2, 1)))
    exporter = HTMLExporter(template_name="classic", embed_images=True)
    html, _ = exporter.from_filename(
        str(write(tmp_path, "![](x.png)", [listing("x = 1")]))
    )
    assert "x.png" not in html and 'src="data:image/png' in html
    # The default template sets code among the outputs in a proportional font.
    assert "jp-OutputArea" not in html and '<div class="highlight"><pre>' in html


SVG = """<svg xmlns="http://www.w3.org/2000/svg" width="90" height="30">
<rect width="80" height="20"/><foreignObject width="80" height="20">
<div xmlns="http://www.w3.org/1999/xhtml"><p>Embed<b>ding</b></p></div>
</foreignObject></svg>"""
LABELS = "HTML in this image not set: Embed ding"
IFRAME = "<iframe src='https://host.invalid/'></iframe>"
SCRIPT = "<div id=a><script>plot()</script></div>"
TROUBLES = [
    ("![](missing.png)", "not available: missing.png"),
    ("![](corrupt.png)", '"![](corrupt.png)"'),
    ("![](https://host.invalid/a.svg)", "not available: https://host.invalid/a.svg"),
    ("![](mermaid.svg)", LABELS),
    (SVG, "not available: svg"),
    ("<video src='a.mp4'></video>", "not available: a.mp4"),
    ("$$x \\tag{1}$$", "`x \\tag{1}`"),
    ([shown(**{"image_svg+xml": SVG})], LABELS),
    ([shown(text_html=SVG, text_plain="<SVG>")], LABELS),
    ([shown(text_latex=r"$\frac{a$")], r"`\frac{a`"),
    ([shown(text_html=IFRAME)], "not available: https"),
    ([shown(text_html=SCRIPT)], "text/html not set"),
    ([shown(text_html=SCRIPT, text_plain="<HTML>")], "text/html not set"),
    ([shown(text_html="<canvas></canvas>")], "not available: canvas"),
    ([shown(application_json={"a": 1})], "output not set: application/json"),
    ([shown(application_json={"a": 1}, text_plain="x")], "application/json not set"),
    ([shown(image_avif="AAAA", text_plain="<Figure>")], "image/avif not set"),
    ([shown(image_png="AAAA", text_plain="<Figure>")], "<Figure>"),
]


@pytest.mark.parametrize("cell, set_as", TROUBLES)
def test_what_cannot_be_set_is_noted_in_its_place(tmp_path, cell, set_as):
    (tmp_path / "corrupt.png").write_bytes(b"no image")
    (tmp_path / "mermaid.svg").write_text(SVG)
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
    (tmp_path / "mermaid.svg").write_text(SVG)
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
