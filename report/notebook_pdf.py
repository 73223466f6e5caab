"""A notebook as a PDF, without LaTeX, browser or network: pandoc turns Markdown and HTML into Typst, and
Typst sets the pages.

Every Markdown text and every output is first set on its own: what fails is set as its source with a note,
so that any valid notebook becomes a PDF. The fonts are Typst's own and Matplotlib's, so that the same
notebook gives the same bytes; the system's are used only for characters that these lack."""

import argparse
import re
import sys
from base64 import b64encode
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
from traitlets import List

TYPST = Path(__file__).resolve().parent / "typst"
STYLE = (TYPST / "style.typ").read_text("utf-8")
FONTS = [str(Path(matplotlib.get_data_path()) / "fonts" / "ttf")]
# Jupyter's Markdown. Pandoc's own would take "a) ..." for a list and a line of dashes for a table.
MARKDOWN = (
    "markdown_strict+tex_math_dollars+raw_tex+pipe_tables+backtick_code_blocks+fenced_code_blocks"
    "+lists_without_preceding_blankline+space_in_atx_header+startnum+strikeout+footnotes"
    "+intraword_underscores+autolink_bare_uris+shortcut_reference_links+all_symbols_escapable"
    "+raw_attribute"
)
HTML = f"{'~' * 200} {{{{=html}}}}\n{{}}\n{'~' * 200}"  # a block of HTML that no output can end
PREFERENCE = (
    "text/markdown",
    "image/svg+xml",
    "image/png",
    "image/jpeg",
    "image/gif",
    "text/html",
    "text/latex",
    "text/plain",
)


class TypstExporter(Exporter):
    """Exports a notebook to PDF by way of Typst. `warnings` lists what could not be set, a line each."""

    preprocessors = List([CoalesceStreamsPreprocessor])

    def from_notebook_node(self, nb, resources=None, **kwargs):
        """The pages as bytes, and nbconvert's resources."""
        nb, resources = super().from_notebook_node(nb, resources, **kwargs)
        self.images = resources["metadata"].get("path") or "."
        self.begin = STYLE + f"#show: notebook.with({typst_string(title(nb))})\n\n"
        with TemporaryDirectory() as self.document:
            self.typst = typst.Compiler(
                root=self.document, font_paths=FONTS, ignore_system_fonts=True
            )
            cells = [self.cell(cell) for cell in nb.cells]
            # Notes are on the pages already; a text that looks like one is warned of, too.
            self.warnings = [
                f"cell {number}: {message}"
                for number, cell in enumerate(cells, 1)
                for message in re.findall(r'#note\("(.+?)"\)', cell)
            ]
            return self.pages(
                (self.begin + "\n\n".join(cells)).encode("utf-8", "replace")
            ), resources

    def pages(self, source):
        """The PDF. Characters that no bundled font has are set in the system's, or as code points."""
        compiler, inputs = self.typst, {}
        if missing_characters(compiler, source):
            compiler = typst.Compiler(root=self.document, font_paths=FONTS)
        if missing := sorted(missing_characters(compiler, source)):
            inputs["missing"] = "|".join(map(re.escape, missing))
            self.warnings.append(
                "no font has " + " ".join(f"U+{ord(c):04X}" for c in missing)
            )
        return self.render(compiler, source, inputs)

    def render(self, compiler, source, inputs):
        return compiler.compile(source, sys_inputs=inputs)

    def cell(self, cell):
        """A cell and its outputs in Typst."""
        if cell.cell_type == "markdown":
            return self.best({"text/markdown": cell.source}, cell)
        if cell.cell_type == "raw":
            return plain(cell.source)
        number, outputs = cell.execution_count or "none", cell.outputs
        return "\n\n".join(
            [
                f"#code-cell({number}, {typst_string(cell.source)}, {len(outputs)})",
                *map(self.output, outputs, [*outputs[1:], None]),
            ]
        )

    def output(self, output, following):
        """An output in Typst."""
        if output.output_type == "stream":
            return plain(
                backspaces(output.text), output.name, sticky=following is not None
            )
        if output.output_type == "error":
            return plain("\n".join(output.traceback), "stderr")
        # A title, as that of a model's summary, stays with what it is the title of.
        long = (
            following
            and following.get("data", {}).get("text/plain", "").count("\n") > 12
        )
        return self.best(output.data, output, sticky=long)

    def best(self, data, holder, sticky=False):
        """The first of some representations of a cell or an output that can be set, in Typst."""
        notes = ""
        for kind in (kind for kind in PREFERENCE if kind in data):
            try:
                source = self.representation(kind, data, holder, sticky)
                self.typst.compile((self.begin + source).encode("utf-8", "replace"))
                if source.strip() or kind == "text/markdown":
                    return notes + source
            except (
                Exception
            ) as error:  # whatever it is: hours of training must end in a PDF
                notes += note(f"{kind} not set: {error}")
                if kind == "text/markdown":
                    return notes + plain(data[kind])
        return notes or note(f"output not set: {', '.join(data) or 'empty'}")

    def representation(self, kind, data, holder, sticky):
        """One representation in Typst; "" when another one is better."""
        content = data[kind]
        if kind == "text/plain":
            return plain(content, sticky=sticky)
        if kind == "text/html":
            # Of HTML, tables are best; plain text is better than the rest, unless it is "<... object>".
            if "<table" not in content and not data.get("text/plain", "<").startswith(
                "<"
            ):
                return ""
            content = HTML.format(content)
        if kind == "image/svg+xml":
            content = b64encode(content.encode()).decode()
        if kind.startswith("image/"):
            width = get_metadata(holder, "width", kind) or ""
            content = HTML.format(
                f'<img src="data:{kind};base64,{content}" width="{width}">'
            )
        for name, attachment in holder.get("attachments", {}).items():
            for mimetype, base64 in attachment.items():
                for spelling in (name, quote(name)):
                    content = content.replace(
                        f"attachment:{spelling}", f"data:{mimetype};base64,{base64}"
                    )
        return self.pandoc(content)

    def pandoc(self, text):
        """The Typst source of a Markdown text; its images are copied beside the document."""
        text = text.encode("utf-8", "replace").decode()
        source = pypandoc.convert_text(
            text,
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
    """Those that no font of the compiler has: what PDF/A forbids and Typst would set as empty boxes."""
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


def typst_string(text):
    """A text as a string literal of Typst."""
    return '"' + re.sub(r'[\\"]', r"\\\g<0>", text).replace("\n", r"\n") + '"'


def note(message):
    """Says on the page what could not be set; the exporter's warnings repeat it."""
    return f"#note({typst_string(' '.join(message.split())[:300])})\n\n"


def plain(text, kind="result", sticky=False):
    """A text in Typst as a terminal shows it; a short one may stay with the output after it."""
    stays = "true" if sticky and text.count("\n") < 12 else "false"
    return (
        f'#plain-output({typst_string(strip_ansi(text).rstrip())}, "{kind}", {stays})'
    )


def backspaces(text):
    """What a terminal shows of a text that goes back over itself, as Keras's progress bar does."""
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
    arguments = parser.parse_args()
    try:
        nb = nbformat.read(arguments.notebook, as_version=4)
        nbformat.validate(nb, relax_add_props=True)
    except Exception as error:  # nbformat's are of many kinds
        sys.exit(
            f"{arguments.notebook} cannot be read as a notebook: {' '.join(str(error).split())[:200]}"
        )
    exporter = TypstExporter()
    pages, _ = exporter.from_notebook_node(
        nb, {"metadata": {"path": arguments.notebook.parent}}
    )
    arguments.pdf.parent.mkdir(parents=True, exist_ok=True)
    arguments.pdf.write_bytes(pages)
    for message in exporter.warnings:
        print(f"{arguments.notebook}: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
