"""Runs code of coursework2.ipynb without Jupyter, with parameters of the caller's choice."""

import ast
import linecache
import os
import sys
import zlib
from pathlib import Path

import nbformat
from IPython.core.interactiveshell import InteractiveShell

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "coursework2.ipynb"
PARAMETERS = {"DATA_DIR", "CHECKPOINT_DIR", "EPOCHS", "BATCH_SIZE", "LEARNING_RATE", "SEED"}


def names_bound(statement):
    """The names that a statement at the top level of a cell defines or assigns."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, ast.Assign):
        return {node.id for target in statement.targets for node in ast.walk(target)
                if isinstance(node, ast.Name)}
    return set()


def code_cells(parameters):
    """The statements of each code cell, as a list; the tagged cell's with these values instead."""
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        statements = ast.parse(cell.source).body
        if "parameters" in cell.metadata.get("tags", []):
            given = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
            yield [*statements, *ast.parse(given).body]
        else:  # set-up silences this very process's stderr, where pytest and tracebacks write
            yield [each for each in statements if "dup2" not in ast.unparse(each)]


def execute(statements, namespace):
    """Executes statements as Jupyter does: with a shell for `display`, no window for figures, and
    a source that AutoGraph and tracebacks can look up."""
    InteractiveShell.instance().history_manager.enabled = False
    os.environ["MPLBACKEND"] = "Agg"
    source = "\n".join(map(ast.unparse, statements))
    name = f"<{NOTEBOOK.name}, {zlib.crc32(source.encode()):08x}>"
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    exec(compile(source, name, "exec"), namespace)


def define(*names, **parameters):
    """The namespace with the notebook's imports, its parameters, and what it binds to `names`."""
    namespace = {"__name__": "notebook"}
    wanted = {*names} | PARAMETERS
    for cell in code_cells(parameters):
        execute([each for each in cell if isinstance(each, (ast.Import, ast.ImportFrom))
                 or names_bound(each) & wanted], namespace)
    missing = {*names} - {*namespace}
    assert not missing, f"{NOTEBOOK.name} defines no {missing}"
    return namespace


def run_up_to(name, **parameters):
    """The namespace after all cells up to the one that binds `name`."""
    namespace = {"__name__": "notebook"}
    for cell in code_cells(parameters):
        execute(cell, namespace)
        if any(name in names_bound(each) for each in cell):
            return namespace
    raise AssertionError(f"{NOTEBOOK.name} defines no {name}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    data, folder, epochs, batch_size = sys.argv[1:]
    cells = run_up_to("run", DATA_DIR=data, EPOCHS=int(epochs), BATCH_SIZE=int(batch_size))
    cells["run"](Path(folder), cells["build_model"], cells["train"], cells["val"], int(epochs))
