"""A notebook as a PDF, without LaTeX, browser or network: pandoc turns Markdown and HTML into Typst, and
Typst sets the pages.

Every Markdown text and every output is first set on its own: what fails is set as its source with a note,
so that any valid notebook becomes a PDF. The fonts are Typst's own and Matplotlib's, so that the same
notebook gives the same bytes; the system's are used only for characters that these lack."""

import argparse
import base64
import re
import subprocess
import sys
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import matplotlib
import nbformat
import pypandoc
import typst
from nbconvert.exporters import Exporter
from nbconvert.filters import strip_ansi
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from traitlets import List

TYPST = Path(__file__).resolve().parent / "typst"
FONTS = [str(Path(matplotlib.get_data_path()) / "fonts" / "ttf")]
# Jupyter's Markdown. Pandoc's own would take "a) ..." for a list and a line of dashes for a table.
MARKDOWN = ("markdown_strict+tex_math_dollars+raw_tex+pipe_tables+backtick_code_blocks+fenced_code_blocks"
            "+lists_without_preceding_blankline+space_in_atx_header+startnum+strikeout+footnotes"
            "+intraword_underscores+autolink_bare_uris+shortcut_reference_links+all_symbols_escapable")
PREFERENCE = ("text/markdown", "image/svg+xml", "image/png", "image/jpeg", "image/gif", "text/html",
              "text/latex", "text/plain")
BEGIN = '#import "style.typ": *\n#show: notebook.with({})\n\n'
TYPST_ESCAPES = str.maketrans({"\\": r"\\", '"': r'\"', "\n": r"\n", "\r": r"\r", "\t": r"\t"})


class TypstExporter(Exporter):
    """Exports a notebook to PDF by way of Typst. `warnings` lists what could not be set, a line each.

    Images in Markdown are looked for relative to `resources["metadata"]["path"]`, as nbconvert's
    `from_filename` sets it."""

    preprocessors = List([CoalesceStreamsPreprocessor])

    def from_notebook_node(self, nb, resources=None, **kwargs):
        """The pages as bytes, and nbconvert's resources."""
        nb, resources = super().from_notebook_node(nb, resources, **kwargs)
        self.warnings = []
        self.numbers = count()
        self.images = Path(resources["metadata"].get("path") or ".")
        with TemporaryDirectory() as folder:
            self.document = Path(folder)
            (self.document / "style.typ").write_bytes((TYPST / "style.typ").read_bytes())
            self.typst = self.compiler(include_system_fonts=False)
            parts = [BEGIN.format(typst_string(title(nb)))]
            for number, cell in enumerate(nb.cells, 1):
                self.place = f"cell {number}: "
                parts.append(self.cell(cell))
            self.place = ""
            return self.pages("\n\n".join(parts).encode("utf-8", "replace")), resources

    def compiler(self, include_system_fonts):
        fonts = typst.Fonts(include_system_fonts=include_system_fonts, font_paths=FONTS)
        return typst.Compiler(root=self.document, font_paths=fonts)

    def pages(self, source):
        """The PDF. Characters that no bundled font has are set in the system's, or as code points."""
        compiler, inputs, missing = self.typst, {}, set()
        if missing_characters(compiler, source, inputs):
            compiler = self.compiler(include_system_fonts=True)
        while new := missing_characters(compiler, source, inputs) - missing:
            missing |= new
            inputs = {"missing": "[" + "".join(rf"\u{{{ord(c):x}}}" for c in sorted(missing)) + "]"}
        if missing:
            self.warn("no font has " + " ".join(f"U+{ord(c):04X}" for c in sorted(missing)))
        return self.render(compiler, source, inputs)

    def render(self, compiler, source, inputs):
        return compiler.compile(source, sys_inputs=inputs)

    def warn(self, message):
        """A line for the terminal, and a note for the page."""
        message = " ".join(message.split())[:300]
        self.warnings.append(self.place + message)
        return f"#note({typst_string(message)})\n\n"

    def attempt(self, convert, *arguments):
        """The Typst source that `convert` makes, set once to see that it can be, or None."""
        try:
            source = convert(*arguments)
            self.typst.compile((BEGIN.format('""') + source).encode("utf-8", "replace"))
            return source
        except Exception as error:  # whatever it is: hours of training must end in a PDF
            self.failure = str(error) or type(error).__name__

    def markdown(self, text, attachments):
        """A Markdown text in Typst; when that fails, as its source."""
        whole = text
        for name, content in attachments.items():
            for mimetype, data in content.items():
                for spelling in (name, quote(name)):
                    whole = whole.replace(f"attachment:{spelling}", f"data:{mimetype};base64,{data}")
        source = self.attempt(self.pandoc, whole)
        return self.warn(f"set as its source: {self.failure}") + plain(text) if source is None else source

    def cell(self, cell):
        """A cell and its outputs in Typst."""
        if cell.cell_type == "markdown":
            return self.markdown(cell.source, cell.get("attachments", {}))
        if cell.cell_type == "raw":
            return plain(cell.source)
        source, number = typst_string(cell.source), cell.execution_count or "none"
        return "\n\n".join([f"#code-cell({number}, {source}, outputs: {str(bool(cell.outputs)).lower()})",
                            *map(self.output, cell.outputs, [*cell.outputs[1:], None])])

    def output(self, output, following):
        """An output in Typst, by the first of its representations that can be set."""
        if output.output_type == "stream":
            return plain(backspaces(output.text), output.name, sticky=following is not None)
        if output.output_type == "error":
            return plain("\n".join(output.traceback), "stderr")
        data, notes = output.data, ""
        for mimetype in (kind for kind in PREFERENCE if kind in data):
            if mimetype in ("text/markdown", "text/latex"):
                return notes + self.markdown(data[mimetype], {})
            source = self.attempt(self.representation, mimetype, output, following)
            if source:
                return notes + source
            if source is None:
                notes += self.warn(f"{mimetype} not set: {self.failure}")
        return notes or self.warn(f"output not set: {', '.join(data) or 'empty'}")

    def representation(self, mimetype, output, following):
        """One representation of an output in Typst; "" when another one is better."""
        content = output.data[mimetype]
        if mimetype == "text/plain":
            # A title, as that of a model's summary, stays with what it is the title of.
            return plain(content, sticky=following and following.get("data", {}).get(
                "text/plain", "").count("\n") > 12)
        if mimetype == "text/html":
            # Of HTML, tables are best; plain text is better than the rest, unless it is "<... object>".
            if "<table" not in content and not output.data.get("text/plain", "<").startswith("<"):
                return ""
            # Pandoc would fetch the page of a frame; as an image it is left out with a note.
            return self.pandoc(content.replace("<iframe", "<img"), "html").strip()
        name = f"output-{next(self.numbers)}.{re.split('[/+]', mimetype)[1]}"
        content = content.encode() if mimetype == "image/svg+xml" else base64.b64decode(content)
        (self.document / name).write_bytes(content)
        width = output.metadata.get(mimetype, {}).get("width")
        size = f", width: {width * 0.75}pt" if isinstance(width, (int, float)) else ""
        return f"#image-output({typst_string(name)}{size})"

    def pandoc(self, text, kind=MARKDOWN):
        """The Typst source of a text; its images are copied beside the document."""
        done = subprocess.run(
            [pypandoc.get_pandoc_path(), "--from", kind, "--to", "typst", "--columns=1000",
             f"--lua-filter={TYPST / 'markdown.lua'}", f"--resource-path={self.images}",
             f"--extract-media={self.document}"],
            input=text.encode("utf-8", "replace"), capture_output=True)
        messages = done.stderr.decode("utf-8", "replace")
        if done.returncode:
            raise RuntimeError(messages)
        for message in re.findall("^NOTE (.*)", messages, re.MULTILINE):
            self.warn(message)
        return done.stdout.decode("utf-8").replace(f"{self.document}/", "")


def missing_characters(compiler, source, inputs):
    """Those that no font of the compiler has: what PDF/A forbids and Typst would set as empty boxes."""
    try:
        compiler.compile(source, sys_inputs=inputs, pdf_standards=["a-2b"])
    except typst.TypstError as error:
        found = "".join(re.findall(r'the text `"(.+?)"` could not be displayed', error.diagnostic))
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
    return f'"{text.translate(TYPST_ESCAPES)}"'


def plain(text, kind="result", sticky=False):
    """A text in Typst as a terminal shows it; a short one may stay with the output after it."""
    stays = ", sticky: true" if sticky and text.count("\n") < 12 else ""
    return f"#plain-output({typst_string(strip_ansi(text).rstrip())}, kind: {typst_string(kind)}{stays})"


def backspaces(text):
    """What a terminal shows of a text that goes back over itself, as Keras's progress bar does."""
    while "\b" in text:
        text = re.sub(r"[^\n\x08]\x08|^\x08+", "", text, flags=re.MULTILINE)
    return text


def main():
    parser = argparse.ArgumentParser(description="Writes an executed notebook as a PDF.")
    parser.add_argument("notebook", type=Path, help="an .ipynb file; its images lie relative to it")
    parser.add_argument("pdf", type=Path, help="where to write the pages")
    arguments = parser.parse_args()
    try:
        nb = nbformat.read(arguments.notebook, as_version=4, capture_validation_error={})
        nbformat.validate(nb, relax_add_props=True)
    except Exception as error:  # nbformat's are of many kinds
        sys.exit(f"{arguments.notebook} cannot be read as a notebook: {' '.join(str(error).split())[:200]}")
    exporter = TypstExporter()
    pages, _ = exporter.from_notebook_node(nb, {"metadata": {"path": arguments.notebook.parent}})
    arguments.pdf.parent.mkdir(parents=True, exist_ok=True)
    arguments.pdf.write_bytes(pages)
    for message in exporter.warnings:
        print(f"{arguments.notebook}: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
