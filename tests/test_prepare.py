"""prepare fills an empty data folder, and never changes a file that is there."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, TINY, TINY_SEED, clevr, contents, snapshot

from clevr import convert, generate
from clevr.files import DataError
from clevr.prepare import prepare

COURSEWORK = {"train": 50, "val": 9}


@pytest.fixture
def data(tiny_layout, tmp_path, monkeypatch):
    """An empty data folder. The images of the small size are those of the tiny set."""
    sizes = {"small": TINY, "coursework": COURSEWORK}
    monkeypatch.setattr("clevr.prepare.SEED", TINY_SEED)
    monkeypatch.setattr("clevr.prepare.SIZES", sizes)
    monkeypatch.setattr(convert, "SHARD_IMAGES", 16)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_layout, tmp_path / "build" / "clevr-small")
    folder = tmp_path / "my data: [1]"
    folder.mkdir()
    (folder / "README.md").write_text("As in a clone.")
    return folder


@pytest.fixture
def theirs(tiny_data, tmp_path):
    """Data of somebody else, with our own names beside our source.txt."""
    folder = tmp_path / "theirs"
    for split in TINY:
        (folder / split).mkdir(parents=True)
        for i in range(2):
            path = folder / split / f"{split}-0000{i}-of-00002.tfrecords"
            shutil.copy(next((tiny_data / split).iterdir()), path)
    shutil.copy(tiny_data / "source.txt", folder)
    return folder


def test_fills_an_empty_folder(data, tiny_data):
    assert prepare(data)["train"].images == TINY["train"]
    names = sorted(str(path.relative_to(data)) for path in data.rglob("*.*"))
    assert names == [
        "README.md",
        "source.txt",
        "train/train-00000-of-00003.tfrecords",
        "train/train-00001-of-00003.tfrecords",
        "train/train-00002-of-00003.tfrecords",
        "val/val-00000-of-00001.tfrecords",
    ]
    source = (data / "source.txt").read_text()
    assert source == (tiny_data / "source.txt").read_text()


def test_resumes_in_build_and_fills_the_folder_only_when_whole(data, monkeypatch):
    image = data.parent / "build/clevr-small/images/val/CLEVR_val_000003.png"
    content = image.read_bytes()
    image.write_bytes(b"damaged")
    with pytest.raises(DataError, match=image.name):
        prepare(data)
    assert contents(data).keys() == {"README.md"}
    made = snapshot(data.parent / "build/data-small/train")
    assert len(made) == 3
    image.write_bytes(content)
    prepare(data)
    assert snapshot(data / "train") == made


def test_a_move_to_another_disk_resumes(data, monkeypatch):
    """A hidden folder is left of a copy that was interrupted."""
    (data / ".train").mkdir()
    (data / ".train" / "half.tfrecords").write_text("half")
    assert prepare(data)["train"].files == 3


def test_makes_the_default_folder_but_no_other(data, monkeypatch):
    with pytest.raises(DataError, match="mistyped is not a folder"):
        prepare(data.parent / "mistyped")
    assert not (data.parent / "mistyped").exists()
    default = data.parent / "data"
    prepare(default)
    assert len(list((default / "val").iterdir())) == 1


def test_the_command_line_expands_a_tilde_and_makes_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    refused = clevr("prepare", "~/cw/data", status=1)
    assert f"{tmp_path}/cw/data is not a folder" in refused.stderr
    assert not (ROOT / "~").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["training/a.tfrecords", "train/images.zip", "train/.gitkeep", "a.tfrecord"]
)
def test_a_folder_with_other_files_is_not_empty(data, name, monkeypatch):
    monkeypatch.setattr(generate, "generate", None)  # must not be called
    path = data / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("theirs")
    before = snapshot(data)
    with pytest.raises(DataError, match=f"{data.name[:7]}.* holds {name[:5]}"):
        prepare(data)
    assert snapshot(data) == before


def test_data_that_are_there_are_used_as_they_are(data, theirs):
    before = snapshot(theirs)
    assert prepare(theirs)["val"].images == 2 * TINY["val"]
    assert snapshot(theirs) == before


def test_damage_is_named_and_stays(data, theirs):
    damaged = theirs / "val" / "val-00001-of-00002.tfrecords"
    damaged.write_bytes(damaged.read_bytes()[:999])
    before = snapshot(theirs)
    for size in (None, "small"):
        with pytest.raises(DataError, match=damaged.name):
            prepare(theirs, size)
    damaged.unlink()
    with pytest.raises(DataError, match=f"{damaged.name} is missing"):
        prepare(theirs)
    del before[f"val/{damaged.name}"]
    assert snapshot(theirs) == before


def test_another_size_is_an_error(data, tiny_data):
    """Whoever made them, and whatever their source.txt says."""
    assert prepare(tiny_data, "small")["train"].images == TINY["train"]
    before = snapshot(tiny_data)
    with pytest.raises(DataError, match="holds 48 . 8 images, not those of size cour"):
        prepare(tiny_data, "coursework")
    assert snapshot(tiny_data) == before


def test_files_that_were_found_whole_are_not_read_again(data, monkeypatch):
    state = data.parent / "build" / "a state"
    state.write_text("of another edition")
    assert prepare(data, state=state)
    before = snapshot(data.parent)
    with monkeypatch.context() as patch:
        patch.setattr("clevr.check.check", None)  # must not be called
        assert prepare(data, "small", state) is None
        with pytest.raises(DataError, match="not those of size coursework"):
            prepare(data, "coursework", state)
    assert snapshot(data.parent) == before
    os.utime(data / "val" / "val-00000-of-00001.tfrecords", (1, 1))
    assert prepare(data, state=state)
    assert snapshot(data.parent)["build/a state"] != before["build/a state"]


def test_does_without_tensorflow_if_nothing_changed(tiny_data, tmp_path):
    state = tmp_path / "state"
    prepare(tiny_data, state=state)
    code = (
        "import sys; from clevr.__main__ import main; "
        "sys.exit(main() or 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "prepare", tiny_data, "--state", state],
        cwd=ROOT,
        capture_output=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
