"""Measures how fast this machine trains the notebook's model, and feeds it.

Four cases show what two choices of the notebook gain: Keras's own BatchNormalization
or FusedBatchNormalization, each in float32 and in mixed_bfloat16. Each case is a
kernel of its own, which executes a copy of the notebook up to 2f and then a few steps
of `fit`. The cases take turns, so that a slow minute hits all of them; the table gives
medians of three turns. Peak memory is the kernel's, without a GPU's.

Leave the machine alone meanwhile: a kernel takes about a minute on small data, and
several on data of the coursework's size.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import pandas as pd
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).resolve().parents[1]
MEASURE = Path(__file__).with_name("measure.py")
CPUINFO = Path("/proc/cpuinfo")
TURNS = 3


def write_notebook(file):
    """The notebook up to the definition of build_film, then measure.py as a cell."""
    notebook = nbformat.read(ROOT / "coursework2.ipynb", as_version=4)
    sources = [cell.source for cell in notebook.cells]
    (last,) = [i for i, source in enumerate(sources) if "def build_film()" in source]
    notebook.cells = [*notebook.cells[: last + 1], new_code_cell(MEASURE.read_text())]
    nbformat.write(notebook, file)


def measure(data, precision, layer):
    """What measure.py prints in a kernel of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "notebook.ipynb")
        write_notebook(file)
        command = [sys.executable, "-m", "papermill", file, file, "--cwd", ROOT]
        command += ["--kernel", "python3", "-r", "DATA_DIR", data.resolve()]
        command += ["-r", "PRECISION", precision, "-r", "NORMALIZATION", layer]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"error: {done.stderr.strip().splitlines()[-1]}")
        executed = nbformat.read(file, as_version=4)
    outputs = executed.cells[-1].outputs
    (text,) = [output.text for output in outputs if output.get("name") == "stdout"]
    return json.loads(text)


def print_table(results):
    """`results`: a row for each case and turn."""
    table = results.groupby(["precision", "layer"], sort=False).median()
    rate = table["images/s"]
    input_rate = table.pop("input").median()
    table.insert(1, "x float32", rate / rate["float32"])
    table.insert(2, "x Keras's", rate / rate.xs("BatchNormalization", level="layer"))
    print(table.reset_index().round(2).to_string(index=False))
    print(f"Input pipeline alone: {input_rate:,.0f} images/s,", end=" ")
    print(f"{input_rate / rate.max():.0f} times the fastest training")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with train/ and val/")
    data = parser.parse_args().data
    if not any(data.glob("train/[!.]*tfrecord*")):
        sys.exit(f"error: {data}/train holds no TFRecords: name another folder")

    precisions = ["float32", "mixed_bfloat16"]
    cpu_has_bfloat16 = CPUINFO.exists() and "_bf16" in CPUINFO.read_text()
    if not cpu_has_bfloat16 and not shutil.which("nvidia-smi"):
        precisions = ["float32"]
        print("No bfloat16: neither the CPU nor a GPU has it", file=sys.stderr)
    results = []
    for turn in range(1, TURNS + 1):
        for precision in precisions:
            for layer in ("BatchNormalization", "FusedBatchNormalization"):
                print(f"{turn} of {TURNS}: {precision}, {layer}", file=sys.stderr)
                case = {"precision": precision, "layer": layer}
                results.append(case | measure(data, precision, layer))
    print_table(pd.DataFrame(results))


if __name__ == "__main__":
    main()
