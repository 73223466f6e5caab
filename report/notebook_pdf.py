"""A notebook as a PDF, without LaTeX, browser or network.

nbconvert's template in `typst/` writes Typst source, pandoc turns Markdown and math into Typst, and
Typst sets the pages with the fonts that it carries, so that the same notebook gives the same bytes.
"""

import argparse
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import pypandoc
import typst
from nbconvert.exporters import TemplateExporter
from traitlets import default
from traitlets.config import Config

HERE = Path(__file__).resolve().parent
# Jupyter's Markdown. Pandoc's own would take "a) ..." for a list and a line of dashes for a table.
MARKDOWN = "markdown_strict" + "".join(f"+{extension}" for extension in (
    "tex_math_dollars", "raw_tex", "pipe_tables", "backtick_code_blocks", "fenced_code_blocks",
    "lists_without_preceding_blankline", "space_in_atx_header", "startnum", "strikeout",
    "intraword_underscores", "autolink_bare_uris", "shortcut_reference_links",
    "all_symbols_escapable", "footnotes",
))
TYPST_ESCAPES = str.maketrans({"\\": r"\\", '"': r'\"', "\n": r"\n", "\r": r"\r", "\t": r"\t"})


class TypstExporter(TemplateExporter):
    """Exports a notebook to PDF by way of Typst.

    Images in Markdown are looked for relative to `resources["metadata"]["path"]`, as nbconvert's
    `from_filename` sets it.

    Raises:
        RuntimeError: when pandoc or Typst refuses a cell; an image that is missing is such a case.
    """

    export_from_notebook = "PDF via Typst"
    output_mimetype = "application/pdf"

    @default("file_extension")
    def _file_extension_default(self):
        return ".pdf"

    @default("template_extension")
    def _template_extension_default(self):
        return ".typ.j2"

    @default("template_name")
    def _template_name_default(self):
        return "typst"

    @default("extra_template_basedirs")
    def _extra_template_basedirs_default(self):
        return [str(HERE)]

    @property
    def default_config(self):
        config = Config({
            "NbConvertBase": {"display_data_priority": [
                "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/html",
                "text/latex", "text/plain",
            ]},
            "CoalesceStreamsPreprocessor": {"enabled": True},
            "ExtractOutputPreprocessor": {"enabled": True},
        })
        inherited = super().default_config.copy()
        inherited.merge(config)
        return inherited

    def default_filters(self):
        yield from super().default_filters()
        yield "title", title
        yield "typst_string", typst_string
        yield "wrap_lines", wrap_lines
        yield "backspaces", backspaces
        yield "html2typst", html2typst
        yield "markdown2typst", self.markdown2typst

    def markdown2typst(self, source):
        """The Typst source of a Markdown text; its images are copied beside the document."""
        return pypandoc.convert_text(source, "typst", format=MARKDOWN, extra_args=[
            f"--lua-filter={HERE / 'typst' / 'markdown.lua'}", f"--resource-path={self.images}",
            f"--extract-media={self.document}", "--fail-if-warnings", "--columns=1000",
        ]).replace(f"{self.document}/", "")

    def from_notebook_node(self, nb, resources=None, **kwargs):
        """The pages as bytes, and nbconvert's resources."""
        self.images = Path((resources or {}).get("metadata", {}).get("path") or ".")
        with TemporaryDirectory() as folder:
            self.document = Path(folder)
            source, resources = super().from_notebook_node(nb, resources, **kwargs)
            for name, content in resources.pop("outputs").items():
                (self.document / name).write_bytes(content)
            style = (HERE / "typst" / "style.typ").read_text("utf-8")
            (self.document / "style.typ").write_text(style, "utf-8")
            (self.document / "notebook.typ").write_text(source, "utf-8")
            pages = typst.compile(self.document / "notebook.typ", root=self.document,
                                  ignore_system_fonts=True)
        return pages, resources


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


def wrap_lines(text, columns):
    """Breaks lines longer than `columns`, at a space where there is one near the end."""
    return "\n".join(_wrapped(line, columns) for line in text.split("\n"))


def _wrapped(line, columns):
    pieces = []
    margin = " " * min(len(line) - len(line.lstrip()) + 2, columns // 2) + "↪ "
    while len(line) > columns:
        space = line.rfind(" ", columns // 2 + len(margin), columns)
        end = space + 1 if space >= 0 else columns
        pieces.append(line[:end])
        line = margin + line[end:]
    return "\n".join([*pieces, line])


def backspaces(text):
    """What a terminal shows of a text that goes back over itself, as Keras's progress bar does."""
    while "\b" in text:
        text = re.sub(r"[^\n\x08]\x08|^\x08+", "", text, flags=re.MULTILINE)
    return text


def html2typst(source):
    """The Typst source of an HTML table."""
    return pypandoc.convert_text(source, "typst", format="html")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebook", type=Path,
                        help="an executed .ipynb file; its images lie relative to it")
    parser.add_argument("pdf", type=Path,
                        help="where to write the pages, for example build/coursework2.pdf")
    arguments = parser.parse_args()
    try:
        pages, _ = TypstExporter().from_filename(str(arguments.notebook))
    except (OSError, RuntimeError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        sys.exit(f"{arguments.notebook}: {' '.join(str(error).split())}")
    arguments.pdf.parent.mkdir(parents=True, exist_ok=True)
    arguments.pdf.write_bytes(pages)


if __name__ == "__main__":
    main()
