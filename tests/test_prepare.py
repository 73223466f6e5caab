"""What a data folder needs: prepare makes, completes, mends, or leaves alone."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, TINY, TINY_SEED, contents, snapshot

from clevr import prepare, tfrecords
from clevr.layout import DataError, description


@pytest.fixture
def data(tiny_layout, tmp_path, monkeypatch):
    """Where our small data go; their images are those of the tiny set, in three shards of training."""
    monkeypatch.setattr(prepare, "SEED", TINY_SEED)
    monkeypatch.setattr(
        prepare, "SIZES", {"small": TINY, "coursework": {"train": 50, "val": 9}}
    )
    monkeypatch.setattr(tfrecords, "SHARD_IMAGES", 16)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_layout, tmp_path / "build" / "clevr-small")
    return tmp_path / "my data: [1]"


def test_makes_our_data_and_reads_them_once(data, monkeypatch):
    state = data.parent / "build" / "a state"
    assert prepare.prepare(data, state=state)["train"].images == TINY["train"]
    before = snapshot(data.parent)
    with monkeypatch.context() as patch:
        patch.setattr(tfrecords, "check", None)  # must not be called
        assert prepare.prepare(data, "small", state) is None
    assert snapshot(data.parent) == before
    shard = data / "val" / "val-00000-of-00001.tfrecords"
    os.utime(shard, (1, 1))
    assert prepare.prepare(
        data, state=state
    ) and state.read_bytes() == prepare.list_files(data)
    with pytest.raises(DataError, match="my data.* holds other data .* empty it"):
        prepare.prepare(data, "coursework", state)
    shard.rename(data / "val" / "theirs.tfrecord")
    with pytest.raises(DataError, match="theirs.tfrecord is not of"):
        prepare.prepare(data)


def test_completes_and_mends_our_data_only_if_proved_ours(data):
    prepare.prepare(data)
    whole = contents(data)
    first, second, third = sorted((data / "train").iterdir())
    first.write_bytes(first.read_bytes()[:999])
    second.write_bytes(b"")
    third.unlink()
    prepare.prepare(data)
    assert contents(data) == whole
    first.write_bytes(b"")
    (data / "convert.json").unlink()
    before = snapshot(data)
    for size in (None, "small"):
        with pytest.raises(DataError, match="train-00000-of-00003.tfrecords: empty"):
            prepare.prepare(data, size)
    assert snapshot(data) == before


@pytest.mark.parametrize(
    "source", ["CLEVR v1.0", None, description(TINY_SEED, {"train": 49, "val": 8})]
)
def test_only_checks_the_data_of_others(data, tiny_data, source):
    shutil.copytree(tiny_data, data)
    (data / "source.txt").write_text(source) if source else (
        data / "source.txt"
    ).unlink()
    before = snapshot(data)
    assert prepare.prepare(data)["val"].images == TINY["val"]
    with pytest.raises(DataError, match="empty it"):
        prepare.prepare(data, "small")
    assert snapshot(data) == before
    (data / "train").rename(data / "training")
    shutil.rmtree(data / "val")
    with pytest.raises(DataError, match="training.* is neither in"):
        prepare.prepare(data)
    shutil.rmtree(
        data / "training"
    )  # what is left, of other data, does not get into the way
    prepare.prepare(data, "small")
    assert (data / "source.txt").read_text() == (tiny_data / "source.txt").read_text()


def test_does_without_tensorflow_if_nothing_changed(tiny_data, tmp_path):
    (tmp_path / "state").write_bytes(prepare.list_files(tiny_data))
    code = "import sys; from clevr.__main__ import main; sys.exit(main() or 'tensorflow' in sys.modules)"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "prepare",
            tiny_data,
            "--state",
            tmp_path / "state",
        ],
        cwd=ROOT,
        capture_output=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
