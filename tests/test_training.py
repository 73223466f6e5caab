"""A run is interrupted, damaged and misused; it ends as the uninterrupted one, or an error says why not."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from cells import run_cells
from conftest import ROOT, snapshot
from keras import layers

LAST = "epoch_04.keras"


def state(checkpoint):
    """The bytes of a model's weights and of its optimizer's."""
    model = keras.models.load_model(checkpoint)
    assert len(model.optimizer.variables) > len(model.trainable_weights)
    return [
        weight.numpy().tobytes()
        for weight in (*model.weights, *model.optimizer.variables)
    ]


def assert_equal_bit_for_bit(folder, uninterrupted, last=LAST):
    import film_layers  # noqa: F401  (registers the layers; not before ROOT is on the path)

    log = (folder / "training_log.csv").read_bytes()
    assert log == (uninterrupted / "training_log.csv").read_bytes()
    assert state(folder / last) == state(uninterrupted / last)
    assert {path.name for path in folder.iterdir()} == {
        path.name for path in uninterrupted.iterdir()
    }
    epochs = [
        int(row.split(",")[0])
        for row in (folder / "timing.csv").read_text().splitlines()
    ]
    assert epochs == list(range(1, log.count(b"\n")))


def cells_over(data, folder):
    return run_cells(
        "imports",
        "data",
        "model",
        "training",
        DATA_DIR=str(data),
        CHECKPOINT_DIR=str(folder),
        BATCH_SIZE=8,
    )


# ---- a small network in place of the brief's, since the folder is what is tested ----


@pytest.fixture(scope="module")
def cells(tiny_data, tmp_path_factory, keep_policy):
    return cells_over(tiny_data, tmp_path_factory.mktemp("none") / "run")


def build_small():
    question = keras.Input((None,), dtype="int32", name="question")
    words = layers.GlobalAveragePooling1D()(layers.Embedding(99, 8)(question))
    x = layers.BatchNormalization()(words)
    return keras.Model({"question": question}, layers.Dense(99, "softmax")(x))


@pytest.fixture(scope="module")
def run(cells):
    return lambda folder, epochs=4, build=build_small: cells["train_model"](
        build, folder, cells["train"].take(24), cells["val"], epochs
    )


@pytest.fixture(scope="module")
def uninterrupted(run, tmp_path_factory):
    run(folder := tmp_path_factory.mktemp("runs") / "uninterrupted")
    return folder


@pytest.fixture
def folder(uninterrupted, tmp_path):
    """A copy of the uninterrupted run, to be damaged."""
    return shutil.copytree(uninterrupted, tmp_path / "run")


def keep(folder, checkpoints, rows, text=""):
    """Keeps that many checkpoints and rows of the log (-1: no header, either); appends `text` to it."""
    for path in sorted(folder.glob("*.keras"))[checkpoints:]:
        path.unlink()
    log = folder / "training_log.csv"
    log.write_bytes(
        b"".join(log.read_bytes().splitlines(keepends=True)[: 1 + rows]) + text.encode()
    )


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


DAMAGES = {  # damage -> what it does, epochs that are not trained again
    "half a row": (lambda run: keep(run, 3, 3, "3,0.27"), 3),
    "checkpoint without row": (lambda run: keep(run, 4, 3), 3),
    "wrong checksum": (
        lambda run: (run / LAST).write_bytes(
            (run / LAST).read_bytes().replace(b'"units"', b'"Units"')
        ),
        3,
    ),
    "two truncated": (
        lambda run: (truncate(run / LAST), truncate(run / "epoch_03.keras")),
        2,
    ),
    "killed in the first save": (
        lambda run: (keep(run, 1, 0), truncate(run / "epoch_01.keras")),
        0,
    ),
    "killed in the first row": (lambda run: keep(run, 1, -1, "epoch,acc"), 0),
    "killed before training": (
        lambda run: (
            [file.unlink() for file in run.glob("*.*")],
            (run / "settings.json").touch(),
        ),
        0,
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_run_ends_as_the_uninterrupted_one(damage, folder, uninterrupted, run):
    do, complete = DAMAGES[damage]
    do(folder)
    before = snapshot(folder)
    run(folder)
    assert_equal_bit_for_bit(folder, uninterrupted)
    after = snapshot(folder)
    assert complete == sum(
        before.get(name) == after[name] for name in after if name.endswith(".keras")
    )


def refused(run, folder, error=ValueError, **options):
    """Raises an error of one line that names the folder, and writes nothing; returns the line."""
    before = snapshot(folder)
    with pytest.raises(error) as refusal:
        run(folder, **options)
    assert snapshot(folder) == before
    assert str(folder) in str(refusal.value) and "\n" not in str(refusal.value)
    return str(refusal.value)


ERASURES = {
    "only checkpoint truncated": lambda run: (
        keep(run, 2, 2),
        (run / "epoch_01.keras").unlink(),
        truncate(run / "epoch_02.keras"),
    ),
    "log emptied": lambda run: keep(run, 4, -1),
    "checkpoints deleted": lambda run: keep(run, 0, 2),
    "one checkpoint left": lambda run: [
        path.unlink()
        for path in run.iterdir()
        if path.name not in ("settings.json", LAST)
    ],
    "settings missing": lambda run: (run / "settings.json").unlink(),
}


@pytest.mark.parametrize("erasure", ERASURES)
def test_a_run_that_cannot_be_resumed_is_not_erased(erasure, folder, run):
    ERASURES[erasure](folder)
    refused(run, folder)


@pytest.mark.parametrize(
    "name",
    [
        "SEED",
        "LEARNING_RATE",
        "BATCH_SIZE",
        "VOCABULARY",
        "ANSWERS",
        "train_pairs",
        "train_mean",
        "val_pairs",
    ],
)
def test_folder_of_another_run_or_model_is_refused(
    name, folder, run, cells, monkeypatch
):
    assert "model " in refused(run, folder, build=lambda: pytest.fail("built"))
    value = cells[name]
    monkeypatch.setitem(
        cells, name, value[::-1] if isinstance(value, list) else value + 1
    )
    assert re.sub("_pairs|_mean", "", name.lower()) + " " in refused(run, folder)


def test_whole_checkpoint_that_cannot_be_loaded_raises_the_real_error(
    folder, run, capsys
):
    with zipfile.ZipFile(folder / LAST, "w") as archive:
        archive.writestr("notes.txt", "no model")
    before = snapshot(folder)
    with pytest.raises(KeyError, match="no item named"):
        run(folder)
    assert snapshot(folder) == before
    (folder / LAST).unlink()
    (folder / LAST).mkdir()
    refused(run, folder, OSError)
    assert "damaged" not in capsys.readouterr().out


def test_finished_run_is_not_touched_and_goes_on_in_float32_where_bfloat16_is_emulated(
    tmp_path, run
):
    uninterrupted, folder = tmp_path / "uninterrupted", tmp_path / "run"
    keras.config.set_dtype_policy("mixed_bfloat16")
    run(uninterrupted, 3)
    run(folder, 2)
    (folder / "epoch_best.keras").touch()  # somebody's own file
    before = snapshot(folder)
    run(folder, 2)
    run(folder, 1)
    assert snapshot(folder) == before
    keras.config.set_dtype_policy("float32")
    run(folder, 3)
    model = keras.models.load_model(folder / "epoch_03.keras")
    assert {layer.compute_dtype for layer in model._flatten_layers()} == {"float32"}
    assert model.optimizer.iterations == 3 * 3
    losses = [
        np.loadtxt(path / "training_log.csv", delimiter=",", skiprows=1)[:, [2, 4]]
        for path in (folder, uninterrupted)
    ]
    np.testing.assert_allclose(*losses, rtol=0.01)


def train_elsewhere(data, folder):
    folder.parent.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, __file__, data, folder], stdout=subprocess.DEVNULL, cwd=ROOT
    )


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_killed_run_ends_as_the_uninterrupted_one(kills, tiny_data, tmp_path):
    """Kills in the middle of a save and at random moments in turn; if a run ends, another one begins."""
    twin, rng = (
        train_elsewhere(tiny_data, tmp_path / "twin" / "run"),
        np.random.default_rng(kills),
    )
    hit = in_save = runs = 0
    while hit < kills:
        folder, status = tmp_path / f"{(runs := runs + 1)}" / "run", None
        while status != 0:
            process, begin, start = (
                train_elsewhere(tiny_data, folder),
                time.time(),
                folder.parent / "started",
            )
            save, seconds = 1 + hit // 2 % 3, rng.uniform(0, 8)
            while process.poll() is None and hit < kills:
                saves = [
                    path
                    for path in folder.glob("epoch_*")
                    if path.stat().st_mtime > begin
                ]
                started = (
                    start.exists()
                    and begin < start.stat().st_mtime < time.time() - seconds
                )
                if started if hit % 2 else len(saves) == save:
                    process.kill()
                    break
                time.sleep(0.001)
            status = process.wait(300)
            assert status in (0, -signal.SIGKILL)
            hit += status != 0
            in_save += status != 0 and not all(
                map(zipfile.is_zipfile, folder.glob("epoch_*"))
            )
            print(
                f"{hit} kills, {in_save} in a save;",
                *sorted(path.name for path in folder.glob("epoch_*")),
            )
        assert twin.wait(300) == 0
        assert_equal_bit_for_bit(folder, tmp_path / "twin" / "run", "epoch_03.keras")
    assert in_save


if __name__ == "__main__":
    data, folder = map(Path, sys.argv[1:])
    cells = cells_over(data, folder)
    (folder.parent / "started").touch()
    cells["train_model"](
        cells["build_film"], folder, cells["train"].take(16), cells["val"], 3
    )
