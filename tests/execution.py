"""Executes the notebook, or a copy that is cut short and extended."""

import subprocess
import sys

import nbformat
from conftest import ROOT
from nbformat.v4 import new_code_cell

NOTEBOOK = ROOT / "coursework2.ipynb"
FAST = {"BATCH_SIZE": 8, "DEMONSTRATION_EPOCHS": 0, "SQUARES_EPOCHS": 0}


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def copy_until(path, text, *more):
    """Writes the notebook up to the code cell that holds `text`, then cells `more`."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (last,) = [i for i, cell in enumerate(notebook.cells) if text in cell.source]
    notebook.cells = notebook.cells[: last + 1] + [*map(new_code_cell, more)]
    nbformat.write(notebook, path)
    return path


def start(notebook, output, **parameters):
    """Starts papermill; what it and the kernel print goes to a file beside `output`."""
    arguments = []
    for name, value in parameters.items():
        arguments += ["-r" if isinstance(value, str) else "-p", name, str(value)]
    with open(output.with_suffix(".txt"), "w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "papermill", notebook, output, "--cwd", ROOT]
            + ["--kernel", "python3", "--no-progress-bar", *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
