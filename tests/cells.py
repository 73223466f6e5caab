"""Executes tagged cells of coursework2.ipynb without Jupyter, with parameters of the caller's choice."""

import linecache
import sys
from pathlib import Path

import nbformat
from IPython.core.interactiveshell import InteractiveShell

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "coursework2.ipynb"


def run_cells(*tags, **parameters):
    """The namespace after the cells with these tags, in the notebook's order.

    Tags: imports, data (reads DATA_DIR), model (the builders), training (settings, resume, train_model).
    """
    sys.path.insert(0, str(ROOT))
    InteractiveShell.instance().history_manager.enabled = False
    namespace = {"__name__": "__main__"}  # as in Jupyter
    for number, cell in enumerate(nbformat.read(NOTEBOOK, as_version=4).cells):
        if {"parameters", *tags} & set(cell.metadata.get("tags", [])):
            lines = [
                "" if line.startswith("%") else line
                for line in cell.source.splitlines()
            ]
            name, source = f"{NOTEBOOK.name}, cell {number}", "\n".join(lines) + "\n"
            # tf.data transforms functions by their source, which has to be found as in Jupyter.
            linecache.cache[name] = (
                len(source),
                None,
                source.splitlines(keepends=True),
                name,
            )
            exec(compile(source, name, "exec"), namespace)
            if "parameters" in cell.metadata.tags:
                namespace.update(parameters)
    return namespace
