"""The benchmark's reading of oneDNN's report, and its examples."""

import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import throughput  # noqa: E402

LINE = "onednn_verbose,v1,primitive,exec,cpu,{},brgconv:avx512_core_bf16,{},src:bf16::f0,,alg:direct,{},{}\n"
SHAPE = "mb64_ic128oc128_ih56oh56kh3sh1dh0ph1_iw56ow56kw3sw1dw0pw1"


def test_a_convolution_is_divided_by_direction_and_its_operations_counted():
    layer, direction, milliseconds = throughput.primitive(
        LINE.format("convolution", "backward_weights", SHAPE, "100.5"))
    assert (direction, milliseconds) == ("to the weights", 100.5)
    row = throughput.profile_row(layer, {"to the weights": 100.0, "forward": 50.0}, 1.5)
    operations = 2 * 64 * 56 * 56 * 3 * 3 * 128 * 128  # a product and a sum for each weight and position
    assert row.what.strip() == "convolution 3x3, 128 to 128 maps"
    assert row.note.startswith("10%: ")
    assert f"forward 50 ms ({operations / 0.05 / 1e9:.0f} GFLOP/s)" in row.note
    assert f"to the weights 100 ms ({operations / 0.1 / 1e9:.0f} GFLOP/s)" in row.note


@pytest.mark.parametrize("kind, said", [("matmul", "products of the GRUs and dense layers"),
                                        ("batch_normalization", "batch normalisation"), ("sum", "sum")])
def test_other_primitives_are_called_what_they_are(kind, said):
    layer, direction, _ = throughput.primitive(LINE.format(kind, "forward_training", "64x128:128x128", "2"))
    assert (layer.strip(), direction) == (said, "")


def test_rows_of_the_examples_exist():
    examples = [shlex.split(line.split("throughput.py")[1]) for line in throughput.__doc__.splitlines()
                if "--rows" in line]
    assert examples
    for example in examples:
        rows = example[example.index("--rows") + 1:]
        assert rows and set(rows) <= set(throughput.MEASUREMENTS)
