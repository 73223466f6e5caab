"""Executes the notebook, or a copy that is cut short and extended."""

import subprocess
import sys

import nbformat
from conftest import ROOT
from nbformat.v4 import new_code_cell

NOTEBOOK = ROOT / "coursework2.ipynb"


def copy_until(path, text, *names):
    """Writes the notebook up to the code cell that holds `text`, then cells of these
    names in tests/cells."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (last,) = [i for i, cell in enumerate(notebook.cells) if text in cell.source]
    notebook.cells = notebook.cells[: last + 1]
    for name in names:
        source = (ROOT / "tests" / "cells" / f"{name}.py").read_text()
        notebook.cells.append(new_code_cell(source))
    nbformat.write(notebook, path)
    return path


def start(notebook, output, **parameters):
    """Starts papermill in the background; what it prints goes to a file by `output`."""
    arguments = []
    for name, value in parameters.items():
        arguments += ["-p", name, str(value)]
    with open(output.with_suffix(".txt"), "w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "papermill", notebook, output, "--cwd", ROOT]
            + ["--kernel", "python3", "--no-progress-bar", *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def execute(notebook, output, **parameters):
    """The executed notebook. An error in a cell fails the test with its message."""
    process = start(notebook, output, **parameters)
    log = output.with_suffix(".txt")
    assert process.wait() == 0, log.read_text()[-3000:]
    return nbformat.read(output, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell):
    texts = [output.text for output in cell.outputs if output.output_type == "stream"]
    return "".join(texts)
