"""A run is interrupted, damaged and misused; it ends as the uninterrupted one, or an error says why not."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import keras
import numpy as np
import pytest
from conftest import ROOT, snapshot
from notebook import run_cells

EPOCHS = 4
LAST = f"epoch_{EPOCHS:02d}.keras"


def state(checkpoint):
    """The bytes of a model's weights and of its optimizer's."""
    model = keras.models.load_model(checkpoint)
    assert len(model.optimizer.variables) > len(model.trainable_weights)
    return [weight.numpy().tobytes() for weight in (*model.weights, *model.optimizer.variables)]


def assert_equal_bit_for_bit(folder, uninterrupted, last=LAST):
    log = (folder / "training_log.csv").read_bytes()
    assert log == (uninterrupted / "training_log.csv").read_bytes()
    assert state(folder / last) == state(uninterrupted / last)
    assert {path.name for path in folder.iterdir()} == {path.name for path in uninterrupted.iterdir()}
    epochs = [int(row.split(",")[0]) for row in (folder / "timing.csv").read_text().splitlines()]
    assert epochs == list(range(1, log.count(b"\n")))


def cells_over(data, folder):
    return run_cells("imports", "data", "model", "training", DATA_DIR=str(data), CHECKPOINT_DIR=str(folder),
                     BATCH_SIZE=8)


@pytest.fixture(scope="module")
def cells(tiny_data, tmp_path_factory):
    policy = keras.config.dtype_policy()
    yield cells_over(tiny_data, tmp_path_factory.mktemp("none") / "run")
    keras.config.set_dtype_policy(policy)


# ---- a small network in place of the brief's, since the folder is what is tested ----

@pytest.fixture(scope="module")
def run(cells):
    def build_small():
        question = keras.Input((None,), dtype="int32", name="question")
        image = keras.Input((224, 224, 3), name="image")
        words = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(99, 8)(question))
        pixels = keras.layers.Flatten()(keras.layers.AveragePooling2D(16)(image))
        pixels = keras.layers.BatchNormalization()(keras.layers.Dense(32)(pixels))
        x = keras.layers.Concatenate()([words, pixels])
        answer = keras.layers.Dense(cells["num_answers"], "softmax", dtype="float32")(x)
        return keras.Model({"question": question, "image": image}, answer)

    def run(folder, epochs=EPOCHS, build=build_small):
        return cells["train_model"](build, folder, cells["train"].take(24), cells["val"], epochs)

    return run


@pytest.fixture(scope="module")
def uninterrupted(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    run(folder)
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
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:1 + rows]) + text.encode())


def truncate(*paths):
    for path in paths:
        os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {  # damage -> what it does, epochs that are not trained again
    "row without checkpoint": (lambda run: keep(run, 3, 4), 3),
    "half a row": (lambda run: keep(run, 3, 3, "3,0.27"), 3),
    "checkpoint without row": (lambda run: keep(run, 4, 3), 3),
    "truncated": (lambda run: truncate(run / LAST), 3),
    "empty": (lambda run: (run / LAST).write_bytes(b""), 3),
    "one bit": (lambda run: flip_a_bit(run / LAST), 3),
    "two bad": (lambda run: truncate(run / LAST, run / "epoch_03.keras"), 2),
    "killed in the first save": (lambda run: (keep(run, 1, 1), truncate(run / "epoch_01.keras")), 0),
    "killed in the first row": (lambda run: keep(run, 0, -1, "epoch,acc"), 0),
    "killed before training": (lambda run: ([file.unlink() for file in run.glob("*.*")],
                                            (run / "settings.json").touch()), 0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_run_ends_as_the_uninterrupted_one(damage, folder, uninterrupted, run):
    do, complete = DAMAGES[damage]
    do(folder)
    before = snapshot(folder)
    run(folder)
    assert_equal_bit_for_bit(folder, uninterrupted)
    after = snapshot(folder)
    assert complete == sum(before.get(name) == after[name] for name in after if name.endswith(".keras"))


def refused(run, folder, *named, **options):
    """Raises an error of one line that names all this, and writes nothing."""
    before = snapshot(folder)
    with pytest.raises(ValueError) as refusal:
        run(folder, **options)
    said = str(refusal.value)
    assert "\n" not in said and all(text in said for text in (str(folder), *named)), said
    assert snapshot(folder) == before


@pytest.mark.parametrize("erase", [
    pytest.param(lambda run: (keep(run, 2, 2), (run / "epoch_01.keras").unlink(),
                              truncate(run / "epoch_02.keras")), id="only checkpoint truncated"),
    pytest.param(lambda run: keep(run, 4, -1), id="log emptied"),
    pytest.param(lambda run: (run / "training_log.csv").unlink(), id="log missing"),
    pytest.param(lambda run: keep(run, 0, 2), id="checkpoints deleted"),
    pytest.param(lambda run: truncate(*run.glob("*.keras")), id="checkpoints truncated"),
    pytest.param(lambda run: (run / "settings.json").unlink(), id="settings missing"),
])
def test_a_run_that_cannot_be_resumed_is_not_erased(erase, folder, run):
    erase(folder)
    refused(run, folder)


@pytest.mark.parametrize("setting, name, change", [
    ("seed", "SEED", lambda _: 1),
    ("learning_rate", "LEARNING_RATE", lambda _: 1e-3),
    ("batch_size", "BATCH_SIZE", lambda _: 16),
    ("vocabulary", "VOCABULARY", lambda words: [*words[:-1], "new"]),
    ("answers", "ANSWERS", lambda answers: [*answers[1:], answers[0]]),
    ("train", "train_pairs", lambda pairs: pairs[::-1]),
    ("train", "train_mean", lambda mean: mean + 1),
    ("val", "val_pairs", lambda pairs: pairs[:-1]),
])
def test_folder_of_another_run_is_refused(setting, name, change, folder, run, cells, monkeypatch):
    monkeypatch.setitem(cells, name, change(cells[name]))
    refused(run, folder, f"{setting} ")


def test_folder_of_another_model_is_refused(folder, run):
    refused(run, folder, "model ", build=lambda: pytest.fail("built"))


def test_whole_checkpoint_that_cannot_be_loaded_raises_the_real_error(folder, run, capsys):
    with zipfile.ZipFile(folder / LAST) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / LAST, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content.replace(b'"units"', b'"neurons"'))
    before = snapshot(folder)
    with pytest.raises(Exception, match="neurons"):
        run(folder)
    assert snapshot(folder) == before
    assert "damaged" not in capsys.readouterr().out


def test_finished_run_is_not_touched_and_more_epochs_continue_it(folder, tmp_path, uninterrupted, run):
    before = snapshot(folder)
    run(folder)
    run(folder, 2)
    assert snapshot(folder) == before
    run(tmp_path / "two", 2)
    run(tmp_path / "two")
    assert_equal_bit_for_bit(tmp_path / "two", uninterrupted)


def test_run_keeps_its_precision_where_the_policy_is_another(tmp_path, run):
    keras.config.set_dtype_policy("mixed_bfloat16")
    run(tmp_path / "uninterrupted", 3)
    run(tmp_path / "run", 2)
    keras.config.set_dtype_policy("float32")
    model = run(tmp_path / "run", 3)
    assert model.layers[-2].dtype_policy.name == "mixed_bfloat16"
    assert_equal_bit_for_bit(tmp_path / "run", tmp_path / "uninterrupted", "epoch_03.keras")


# ---- the brief's network, in a process of its own, killed ----

def train(data, folder):
    cells = cells_over(data, folder)
    (folder.parent / "started").touch()
    cells["train_model"](cells["build_film"], folder, cells["train"].take(16), cells["val"], 3)


def train_elsewhere(data, folder):
    folder.parent.mkdir(exist_ok=True)
    script = "import sys, pathlib, test_training; test_training.train(*map(pathlib.Path, sys.argv[1:]))"
    return subprocess.Popen([sys.executable, "-c", script, data, folder], cwd=ROOT,
                            env={**os.environ, "PYTHONPATH": "tests", "TF_CPP_MIN_LOG_LEVEL": "3"})


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_killed_run_ends_as_the_uninterrupted_one(kills, tiny_data, tmp_path):
    """Kills in the middle of a save and at random moments in turn; if a run ends, another one begins."""
    twin, rng = train_elsewhere(tiny_data, tmp_path / "twin" / "run"), np.random.default_rng(kills)
    hit = torn = runs = 0
    while hit < kills:
        folder, status = tmp_path / f"{(runs := runs + 1)}" / "run", None
        while status != 0:
            process, begin, start = train_elsewhere(tiny_data, folder), time.time(), folder.parent / "started"
            save, seconds = 1 + hit // 2 % 3, rng.uniform(0, 8)
            while process.poll() is None and hit < kills:
                if hit % 2 == 0:
                    saves = [path for path in folder.glob("epoch_*") if path.stat().st_mtime > begin]
                    is_time = len(saves) == save
                else:
                    is_time = start.exists() and begin < start.stat().st_mtime < time.time() - seconds
                if is_time:
                    process.kill()
                    break
                time.sleep(0.001)
            status = process.wait(300)
            assert status in (0, -signal.SIGKILL)
            hit += status != 0
            torn += status != 0 and not all(map(zipfile.is_zipfile, folder.glob("epoch_*")))
            print(f"{hit} kills, {torn} in a save;", *sorted(path.name for path in folder.glob("epoch_*")))
        assert twin.wait(300) == 0
        assert_equal_bit_for_bit(folder, tmp_path / "twin" / "run", "epoch_03.keras")
    assert torn
