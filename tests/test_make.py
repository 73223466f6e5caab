"""What the Makefile decides about data: whether they are ours, whole, and the same as last time."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INSTALLED = [f".venv/requirements-{kind}.txt" for kind in ("cpu", "gpu")]


@pytest.fixture
def project(tmp_path, tiny_data):
    """A copy of what `make` needs for data, with this environment and the tiny set."""
    for name in ("Makefile", "clevr", *(path.name for path in ROOT.glob("requirements*.txt"))):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    shutil.copytree(tiny_data, tmp_path / "data")
    return tmp_path


def make(project, *arguments):
    """Runs make without a look at whether the environment is installed, as if no other make ran the tests."""
    old = [option for path in INSTALLED for option in ("-o", path)]
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *old, *arguments], cwd=project, env=outside, capture_output=True, text=True)


def test_data_are_checked_once_and_again_when_they_change(project):
    stamp = project / "build/data"
    first = make(project, "build/data")
    assert first.returncode == 0 and "answer classes" in first.stdout, first.stderr
    os.utime(stamp, (1, 1))
    second = make(project, "build/data")
    assert (second.returncode, second.stdout, stamp.stat().st_mtime) == (0, "", 1)
    shard = next((project / "data/val").glob("*tfrecords"))
    shutil.copy(shard, shard.with_name("more.tfrecords"))
    third = make(project, "build/data")
    assert "answer classes" in third.stdout and stamp.stat().st_mtime > 1
    with open(shard, "ab") as file:
        file.write(b"torn")
    fourth = make(project, "build/data")
    assert fourth.returncode != 0 and shard.name in fourth.stderr


def test_other_data_are_not_taken_for_those_asked_for(project):
    before = {path: path.stat().st_mtime_ns for path in (project / "data").rglob("*")}
    refused = make(project, "build/data", "DATA_SIZE=coursework")
    assert refused.returncode != 0 and "data holds other data: empty it" in refused.stdout
    assert before == {path: path.stat().st_mtime_ns for path in (project / "data").rglob("*")}


def test_knows_its_own_data_by_what_generate_writes(project, tmp_path):
    """Renamed to those of the small size, the fixture's numbers pass for the Makefile's own."""
    source = project / "data/source.txt"
    assert "(seed 3, 48 + 8 images)" in source.read_text()
    source.write_text(source.read_text().replace("seed 3, 48 + 8", "seed 2, 512 + 128"))
    assert make(project, "build/data", "DATA_SIZE=small").returncode == 0
