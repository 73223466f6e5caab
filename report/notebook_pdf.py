"""A notebook as a PDF, without LaTeX, browser or network.

nbconvert's template in `typst/` writes Typst source, pandoc turns Markdown and HTML into Typst, and
Typst sets the pages. Every Markdown text and every output is converted and set on its own first: what
fails is set as its source with a note, so that any valid notebook becomes a PDF. The fonts are Typst's
own and Matplotlib's, so that the same notebook gives the same bytes; the system's fonts are used only
for a notebook with characters that these lack.
"""

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
from nbconvert.exporters import TemplateExporter
from nbconvert.filters import strip_ansi
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from traitlets import List, Unicode

HERE = Path(__file__).resolve().parent
FONTS = [str(Path(matplotlib.get_data_path()) / "fonts" / "ttf")]
# Jupyter's Markdown. Pandoc's own would take "a) ..." for a list and a line of dashes for a table.
MARKDOWN = ("markdown_strict+tex_math_dollars+raw_tex+pipe_tables+backtick_code_blocks+fenced_code_blocks"
            "+lists_without_preceding_blankline+space_in_atx_header+startnum+strikeout+footnotes"
            "+intraword_underscores+autolink_bare_uris+shortcut_reference_links+all_symbols_escapable")
PREFERENCE = ("text/markdown", "image/svg+xml", "image/png", "image/jpeg", "image/gif", "text/html",
              "text/latex", "text/plain")
ALONE = b'#import "style.typ": *\n#show: notebook.with("")\n'
TYPST_ESCAPES = str.maketrans({"\\": r"\\", '"': r'\"', "\n": r"\n", "\r": r"\r", "\t": r"\t"})


class TypstExporter(TemplateExporter):
    """Exports a notebook to PDF by way of Typst.

    Images in Markdown are looked for relative to `resources["metadata"]["path"]`, as nbconvert's
    `from_filename` sets it. `warnings` lists what could not be set, a line each.
    """

    export_from_notebook = "PDF via Typst"
    output_mimetype = "application/pdf"
    file_extension = Unicode(".pdf")
    template_extension = Unicode(".typ.j2")
    template_name = Unicode("typst")
    extra_template_basedirs = List([str(HERE)])
    preprocessors = List([CoalesceStreamsPreprocessor])

    def default_filters(self):
        yield from super().default_filters()
        yield "title", title
        yield "typst_string", typst_string
        yield "plain", plain
        yield "begin_cell", self.begin_cell
        yield "markdown_cell", self.markdown_cell
        yield "output", self.output

    def from_notebook_node(self, nb, resources=None, **kwargs):
        """The pages as bytes, and nbconvert's resources."""
        self.warnings = []
        self.numbers = count()
        self.images = Path((resources or {}).get("metadata", {}).get("path") or ".")
        with TemporaryDirectory() as folder:
            self.document = Path(folder)
            (self.document / "style.typ").write_bytes((HERE / "typst" / "style.typ").read_bytes())
            self.typst = self.compiler(include_system_fonts=False)
            source, resources = super().from_notebook_node(nb, resources, **kwargs)
            return self.pages(source.encode("utf-8", "replace")), resources

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
            self.place = ""
            self.warn("no font has " + " ".join(f"U+{ord(c):04X}" for c in sorted(missing)))
        return self.render(compiler, source, inputs)

    def render(self, compiler, source, inputs):
        return compiler.compile(source, sys_inputs=inputs)

    def begin_cell(self, number):
        self.place = f"cell {number}: "
        return ""

    def warn(self, message):
        """A line for the terminal, and a note for the page."""
        message = " ".join(message.split())[:300]
        self.warnings.append(self.place + message)
        return f"#note({typst_string(message)})\n\n"

    def attempt(self, convert, *arguments):
        """The Typst source that `convert` makes, set once to see that it can be, or None."""
        try:
            source = convert(*arguments)
            self.typst.compile(ALONE + source.encode("utf-8", "replace"))
            return source
        except Exception as error:  # whatever it is: hours of training must end in a PDF
            self.failure = str(error) or type(error).__name__

    def markdown_cell(self, cell):
        """A Markdown cell in Typst; when that fails, as its source."""
        source = self.attempt(self.with_attachments, cell)
        return self.as_code(cell.source) if source is None else source

    def with_attachments(self, cell):
        text = cell.source
        for name, content in cell.get("attachments", {}).items():
            mimetype, data = next(iter(content.items()))
            for spelling in (name, quote(name)):
                text = text.replace(f"attachment:{spelling}", f"data:{mimetype};base64,{data}")
        return self.pandoc(text)

    def as_code(self, text):
        """A Markdown text that could not be set, as its source."""
        return self.warn(f"set as its source: {self.failure}") + plain(text)

    def output(self, output, last):
        """An output in Typst, by the first of its representations that can be set."""
        if output.output_type == "stream":
            return plain(backspaces(output.text), output.name, sticky=not last)
        if output.output_type == "error":
            return plain("\n".join(output.traceback), "stderr")
        data, notes = output.data, ""
        for mimetype in (kind for kind in PREFERENCE if kind in data):
            source = self.attempt(self.representation, mimetype, output)
            if source:
                return notes + source
            if source is None and mimetype in ("text/markdown", "text/latex"):
                return self.as_code(data[mimetype])
            if source is None:
                notes += self.warn(f"{mimetype} not set: {self.failure}")
        return notes or self.warn(f"output not set: {', '.join(data) or 'empty'}")

    def representation(self, mimetype, output):
        """One representation of an output in Typst; "" when another one is better."""
        content = output.data[mimetype]
        if mimetype == "text/plain":
            return plain(content)
        if mimetype in ("text/markdown", "text/latex"):
            return self.pandoc(content) or "\n"
        if mimetype == "text/html":
            # Of HTML, tables are best; plain text is better than the rest, unless it is "<... object>".
            if "<table" not in content and not output.data.get("text/plain", "<").startswith("<"):
                return ""
            # Pandoc would fetch the page of a frame; as an image it is left out with a note.
            return self.pandoc(content.replace("<iframe", '<img class="iframe"'), "html").strip()
        name = f"output-{next(self.numbers)}.{re.split('[/+]', mimetype)[1]}"
        svg = mimetype == "image/svg+xml"
        (self.document / name).write_bytes(content.encode() if svg else base64.b64decode(content))
        width = output.metadata.get(mimetype, {}).get("width")
        size = f", width: {width * 0.75}pt" if isinstance(width, (int, float)) else ""
        return f"#image-output({typst_string(name)}{size})"

    def pandoc(self, text, kind=MARKDOWN):
        """The Typst source of a text; its images are copied beside the document."""
        done = subprocess.run(
            [pypandoc.get_pandoc_path(), "--from", kind, "--to", "typst", "--columns=1000",
             f"--lua-filter={HERE / 'typst' / 'markdown.lua'}", f"--resource-path={self.images}",
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
    for cell in nb.cells:
        heading = re.search(r"^#+ +(.+?) *$", cell.source, re.MULTILINE)
        if cell.cell_type == "markdown" and heading:
            return re.sub(r"[*_`$]", "", heading[1])
    return "Notebook"


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
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebook", type=Path,
                        help="an executed .ipynb file; its images lie relative to it")
    parser.add_argument("pdf", type=Path,
                        help="where to write the pages, for example build/coursework2.pdf")
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
