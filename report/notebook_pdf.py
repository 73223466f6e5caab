"""A notebook as a PDF, without LaTeX, browser or network.

Pandoc turns Markdown and HTML into Typst, and Typst sets the pages. Each text and each
output is first set on its own: what fails is set as its source with a note, so that any
valid notebook becomes a PDF. The fonts are Typst's own and Matplotlib's: the same
notebook gives the same bytes. The system's serve only for characters that these lack.
"""

import argparse
import re
import sys
from base64 import b64encode
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import matplotlib
import nbformat
import pypandoc
import typst
from nbconvert.exporters import Exporter
from nbconvert.filters import get_metadata, strip_ansi
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from traitlets import List, Unicode

TYPST = Path(__file__).resolve().parent / "typst"
STYLE = (TYPST / "style.typ").read_text("utf-8")
# Its Last Resort font would hide that a character has no glyph.
FONTS = [
    str(path)
    for path in sorted(Path(matplotlib.get_data_path(), "fonts/ttf").glob("*.ttf"))
    if not path.name.startswith("LastResort")
]
# Jupyter's Markdown. Pandoc's own would take "a) ..." for a list and a line of dashes
# for a table.
MARKDOWN = (
    "markdown_strict+tex_math_dollars+raw_tex+pipe_tables+backtick_code_blocks"
    "+fenced_code_blocks+lists_without_preceding_blankline+space_in_atx_header+startnum"
    "+strikeout+footnotes+intraword_underscores+autolink_bare_uris"
    "+shortcut_reference_links+all_symbols_escapable+raw_attribute"
)
# A block of HTML that no output can end
HTML = f"{'~' * 200} {{{{=html}}}}\n{{}}\n{'~' * 200}"
PREFERENCE = (
    "text/markdown",
    "image/svg+xml",
    "application/pdf",
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "text/html",
    "text/latex",
    "text/plain",
)
# Colab adds it to every table.
REDUNDANT = {"application/vnd.google.colaboratory.intrinsic+json"}
# More than these of a text would take gigabytes to set, and nobody reads it on paper.
MAX_LINES = 400
MAX_CHARACTERS = 50_000


class TypstExporter(Exporter):
    """Exports a notebook to PDF. `warnings` lists what could not be set."""

    preprocessors = List([CoalesceStreamsPreprocessor])
    subtitle = Unicode(help="A line to print under the title").tag(config=True)

    def from_notebook_node(self, nb, resources=None, **kwargs):
        """The pages as bytes, and nbconvert's resources."""
        nb, resources = super().from_notebook_node(nb, resources, **kwargs)
        self.images = resources["metadata"].get("path") or "."
        heading, subtitle = typst_string(title(nb)), typst_string(self.subtitle)
        self.begin = STYLE + f"#show: notebook.with({heading}, {subtitle})\n\n"
        with TemporaryDirectory() as self.document:
            self.typst = typst.Compiler(
                root=self.document, font_paths=FONTS, ignore_system_fonts=True
            )
            cells = [self.cell(cell) for cell in nb.cells]
            for i, (cell, following) in enumerate(pairwise(nb.cells)):
                if (cell.cell_type, following.cell_type) == ("markdown", "code"):
                    cells[i] = f"#introduction[\n{cells[i]}\n]"
            # The notes are on the pages, too; a text that looks like one counts.
            self.warnings = [
                f"cell {number}: {message}"
                for number, cell in enumerate(cells, 1)
                for message in re.findall(r'#note\("(.+?)"\)', cell)
            ]
            return self.pages(encoded(self.begin + "\n\n".join(cells))), resources

    def pages(self, source):
        """The PDF. The system's fonts or code points serve for missing characters."""
        compiler, inputs = self.typst, {}
        if missing_characters(compiler, source):
            compiler = typst.Compiler(root=self.document, font_paths=FONTS)
        if missing := sorted(missing_characters(compiler, source)):
            inputs["missing"] = "|".join(map(re.escape, missing))
            code_points = " ".join(f"U+{ord(character):04X}" for character in missing)
            self.warnings.append(f"no font has {code_points}")
        return self.render(compiler, source, inputs)

    def render(self, compiler, source, inputs):
        return compiler.compile(source, sys_inputs=inputs)

    def cell(self, cell):
        """A cell and its outputs in Typst."""
        if cell.cell_type == "markdown":
            return self.best({"text/markdown": cell.source}, cell)
        if cell.cell_type == "raw":
            return plain(cell.source)
        source, cut = shortened(cell.source)
        outputs = [self.output(output) for output in cell.outputs]
        blocks = "".join(f"[\n{output}\n]" for output in outputs if output.strip())
        count = cell.execution_count or "none"
        return f"#code-cell({count}, {typst_string(source)}){blocks}\n\n{cut}"

    def output(self, output):
        """An output in Typst."""
        if output.output_type == "stream":
            return plain(backspaces(output.text), output.name)
        if output.output_type == "error":
            return plain("\n".join(output.traceback), "stderr")
        if is_listing(output.data):
            source, cut = shortened(output.data["text/plain"])
            return f"#listing({typst_string(source)})\n\n{cut}"
        return self.best(output.data, output)

    def best(self, data, holder):
        """The best representation of a cell or an output that can be set, in Typst."""
        notes = ""
        for kind in kinds_to_try(data):
            try:
                source = self.representation(kind, data[kind], holder)
                self.typst.compile(encoded(self.begin + source))
            # Whatever it is: hours of training must end in a PDF.
            except Exception as error:
                notes += note(f"{kind} not set: {error}")
                if kind == "text/markdown":
                    return notes + plain(data[kind])
                continue
            if kind == "text/plain":
                notes += "".join(
                    note(f"{other} not set")
                    for other in data.keys() - set(PREFERENCE) - REDUNDANT
                )
            if source.strip() or kind in ("text/markdown", "text/plain"):
                return notes + source
            notes += note(f"{kind} not set")
        return notes or note(f"output not set: {', '.join(data) or 'empty'}")

    def representation(self, kind, content, holder):
        """One representation in Typst."""
        cut = ""
        if kind == "text/plain":
            return plain(content)
        if kind == "image/svg+xml":
            content = b64encode(content.encode()).decode()
        if not kind.startswith("text/"):
            width = get_metadata(holder, "width", kind) or ""
            source = f"data:{kind};base64,{content}"
            content = HTML.format(f'<img src="{source}" width="{width}">')
        elif kind == "text/html":
            content, cut = shortened(content, "<tr")
            content = HTML.format(content)
        else:
            content, cut = shortened(content)
        return self.pandoc(with_attachments(content, holder)) + cut

    def pandoc(self, text):
        """A Markdown text in Typst; its images are copied beside the document."""
        source = pypandoc.convert_text(
            encoded(text),
            "typst",
            MARKDOWN,
            verify_format=False,
            extra_args=[
                "--columns=1000",
                "--quiet",
                f"--lua-filter={TYPST / 'markdown.lua'}",
                f"--resource-path={self.images}",
                f"--extract-media={self.document}",
            ],
        )
        return source.replace(f"{self.document}/", "")


def missing_characters(compiler, source):
    """Those that no font of the compiler has and Typst would set as empty boxes.

    PDF/A forbids them."""
    try:
        compiler.compile(source, pdf_standards=["a-2b"])
    except typst.TypstError as error:
        found = "".join(
            re.findall(r'the text `"(.+?)"` could not be displayed', error.diagnostic)
        )
        found = re.sub(r"\\u\{(\w+)\}", lambda code: chr(int(code[1], 16)), found)
        return set(found) - {"\u200b"}  # style.typ's own, invisible
    return set()


def title(nb):
    """The first heading of a notebook, without its marks."""
    text = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    heading = re.search(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return re.sub(r"[*_`$]", "", heading[1]) if heading else "Notebook"


def kinds_to_try(data):
    """The kinds of an output that may be set, best first."""
    html, text = data.get("text/html", ""), data.get("text/plain", "")
    kinds = [kind for kind in PREFERENCE if kind in data]
    # Of HTML, tables and images are best. Of the rest, and of what runs scripts, plain
    # text says more, unless it is "<... object>".
    drawn = re.search("<(table|img|svg|iframe|video|audio|canvas)", html)
    html_is_best = 'class="dataframe"' in html or (drawn and "<script" not in html)
    if html and text and not text.startswith("<") and not html_is_best:
        kinds.remove("text/html")
    return kinds


def is_listing(data):
    """Whether an output is one of IPython.display.Code."""
    latex, html = data.get("text/latex", ""), data.get("text/html", "")
    return (
        "text/plain" in data
        and latex.startswith(r"\begin{Verbatim}")
        and '<div class="highlight">' in html
    )


def with_attachments(text, cell):
    """A cell's Markdown with the images that were pasted into it."""
    for name, attachment in cell.get("attachments", {}).items():
        for kind, content in attachment.items():
            for spelling in (name, quote(name)):
                text = text.replace(
                    f"attachment:{spelling}", f"data:{kind};base64,{content}"
                )
    return text


def shortened(text, separator="\n"):
    """A text, without its middle if it is too long, and then a note in Typst."""
    without_images = re.sub(r"data:[\w/+.;=-]+,[\w+/=%]+", "", text)
    lines = without_images.split(separator)
    total = len(without_images)
    if len(lines) <= MAX_LINES and total <= MAX_CHARACTERS:
        return text, ""
    gap = "\n[...]\n"
    kept = min(MAX_LINES, MAX_CHARACTERS * len(lines) // total)
    if kept > 1:
        lines[kept // 2 : -(kept // 2)] = [gap]
    left = separator.join(lines)
    if len(left) > MAX_CHARACTERS:
        left = left[: MAX_CHARACTERS // 2] + gap + left[-MAX_CHARACTERS // 2 :]
    return left, note(f"{total - len(left):,} characters of this are too many to print")


def typst_string(text):
    """A text as a string literal of Typst."""
    return '"' + re.sub(r'[\\"]', r"\\\g<0>", text).replace("\n", r"\n") + '"'


def encoded(text):
    return text.encode("utf-8", "replace")


def note(message):
    """Says on the page what could not be set; the exporter's warnings repeat it."""
    return f"\n\n#note({typst_string(' '.join(message.split())[:300])})\n\n"


def plain(text, kind="result"):
    """A text in Typst as a terminal shows it; "" if that is nothing."""
    text, cut = shortened(strip_ansi(text).rstrip())
    if not text:
        return ""
    return f'#plain-output({typst_string(text)}, "{kind}")\n\n{cut}'


def backspaces(text):
    """What a terminal shows of a text with backspaces, as of Keras's progress bar."""
    while "\b" in text:
        text = re.sub(r"[^\n\x08]\x08|^\x08+", "", text, flags=re.MULTILINE)
    return text


def main():
    parser = argparse.ArgumentParser(
        description="Writes an executed notebook as a PDF."
    )
    parser.add_argument(
        "notebook", type=Path, help="an .ipynb file; its images lie relative to it"
    )
    parser.add_argument("pdf", type=Path, help="where to write the pages")
    parser.add_argument(
        "--note", metavar="TEXT", default="", help="a line to print under the title"
    )
    arguments = parser.parse_args()
    try:
        nb = nbformat.read(arguments.notebook, as_version=4)
        nbformat.validate(nb, relax_add_props=True)
    except Exception as error:  # nbformat's are of many kinds
        reason = " ".join(str(error).split())[:200]
        sys.exit(f"{arguments.notebook} cannot be read as a notebook: {reason}")
    exporter = TypstExporter(subtitle=arguments.note)
    pages, _ = exporter.from_notebook_node(
        nb, {"metadata": {"path": arguments.notebook.parent}}
    )
    arguments.pdf.parent.mkdir(parents=True, exist_ok=True)
    arguments.pdf.write_bytes(pages)
    for message in exporter.warnings:
        print(f"{arguments.notebook}: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
