"""What several tests share: the command line, and one small set of data that it made."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TINY = {"train": 48, "val": 8}
TINY_SEED = 3          # with it, training has all the answers of validation


@pytest.fixture(scope="session")
def clevr():
    """Runs `python -m clevr` with the given arguments; returns the finished process, with the
    output as text. An exit status other than `status` fails the test."""

    def run(*args, status=0):
        done = subprocess.run([sys.executable, "-m", "clevr", *map(str, args)], cwd=ROOT,
                              capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def tiny_layout(clevr, tmp_path_factory):
    """A small set in the layout of CLEVR v1.0, made by two workers. Not to be written to."""
    out = tmp_path_factory.mktemp("tiny") / "layout"
    clevr("generate", out, "--train", TINY["train"], "--val", TINY["val"], "--seed", TINY_SEED,
          "--workers", 2)
    return out


@pytest.fixture(scope="session")
def tiny_data(clevr, tiny_layout):
    """The same set as TFRecords. Not to be written to."""
    out = tiny_layout.parent / "data"
    clevr("convert", tiny_layout, out)
    return out


def snapshot(folder):
    """All files of a folder: {relative path: (content, time of change)}."""
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in folder.rglob("*") if path.is_file()}


def contents(folder):
    return {name: content for name, (content, _) in snapshot(folder).items()}
