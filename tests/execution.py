"""Executes the notebook, or a copy that is cut short and extended; kills it; compares
the runs that are left."""

import os
import signal
import subprocess
import sys
import time

import keras
import nbformat
import numpy as np
from conftest import ROOT
from nbformat.v4 import new_code_cell

import film_layers  # noqa: F401  (registers the layers)

NOTEBOOK = ROOT / "coursework2.ipynb"
SHORT = {"BATCH_SIZE": 8, "DEMONSTRATION_EPOCHS": 0, "SQUARES_EPOCHS": 0}


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


def state(checkpoint):
    model = keras.models.load_model(checkpoint)
    assert len(model.optimizer.variables) > len(model.trainable_weights)
    return [weight.numpy() for weight in model.weights + model.optimizer.variables]


def assert_equal_bit_for_bit(run, other, epochs):
    for number in range(1, epochs + 1):
        name = f"epoch_{number:02d}.keras"
        assert all(map(np.array_equal, state(run / name), state(other / name)))
    rows = (other / "training_log.csv").read_text().splitlines()[: epochs + 1]
    assert (run / "training_log.csv").read_text().splitlines() == rows


def kernel_of(papermill):
    """The process of the kernel that papermill has started, or None."""
    children = open(f"/proc/{papermill.pid}/task/{papermill.pid}/children").read()
    return int(children.split()[0]) if children else None


def kill_when(papermill, is_time):
    """Kills the kernel as soon as is_time() is true; False if it ended before."""
    while papermill.poll() is None:
        if is_time():
            os.kill(kernel_of(papermill), signal.SIGKILL)
            papermill.wait()
            return True
        time.sleep(0.002)
    return False
