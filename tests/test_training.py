"""A run of the notebook is cut, damaged and misused; it ends as the unbroken one, or says why not."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import h5py
import keras
import notebook
import numpy as np
import pytest
import tensorflow as tf

EPOCHS = 4
LAST = f"epoch_{EPOCHS:02d}.keras"


def variables(checkpoint):
    """A checkpoint's weights and optimizer variables, {path in the file: bytes}."""
    found = {}

    def collect(path, node):
        if isinstance(node, h5py.Dataset):
            found[path] = node[()].tobytes()

    with zipfile.ZipFile(checkpoint) as archive, archive.open("model.weights.h5") as stored:
        h5py.File(stored).visititems(collect)
    return found


def assert_equal_to_the_last_bit(folder, unbroken):
    log, their_log = ((each / "training_log.csv").read_bytes() for each in (folder, unbroken))
    assert log == their_log
    ours, theirs = variables(folder / LAST), variables(unbroken / LAST)
    assert len(theirs) > 20 and any(path.startswith("optimizer") for path in theirs)
    assert ours.keys() == theirs.keys()
    assert not [path for path in theirs if ours[path] != theirs[path]]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- a small network in the place of the brief's, since the folder is what is tested ----

def build_small():
    question = keras.Input((None,), dtype="int32", name="question")
    image = keras.Input((224, 224, 3), name="image")
    words = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(20, 8)(question))
    picture = keras.layers.Flatten()(keras.layers.AveragePooling2D(16)(image))
    seen = keras.layers.BatchNormalization()(keras.layers.Dense(32)(picture))
    answer = keras.layers.Dense(3, "softmax")(keras.layers.Concatenate()([words, seen]))
    return keras.Model({"question": question, "image": image}, answer)


@pytest.fixture(scope="module")
def cells():
    """The notebook's `run` and what it needs, over parameters and data of this test's own."""
    cells = notebook.define("batches", "draw", "load", "Split", "replacing", "checkpoint", "checkpoints",
                            "claim", "RECORDS", "SaveEveryEpoch", "resume", "fingerprint", "settings_of",
                            "feed", "Progress", "untrained", "run", BATCH_SIZE=16)
    cells.update(VOCABULARY=[f"word{i}" for i in range(20)], V=20,
                 ANSWERS=["no", "red", "yes"], n=3, MOMENTUM=0.4)
    rng = np.random.default_rng(5)
    for name, images in (("train", 40), ("val", 12)):
        cells[name] = cells["Split"](
            images=tf.constant(rng.integers(0, 256, (images, 224, 224, 3)), tf.uint8),
            first=tf.range(0, 3 * images, 3), count=tf.fill([images], 3),
            tokens=tf.constant(rng.integers(2, 20, (3 * images, 7)), tf.int32),
            labels=tf.constant(rng.integers(0, 3, 3 * images), tf.int32))
    return cells


@pytest.fixture(scope="module")
def run(cells):
    def run(folder, epochs=EPOCHS, *callbacks, build=build_small, **data):
        data = {"train": cells["train"], "val": cells["val"], **data}
        return cells["run"](folder, build, data["train"], data["val"], epochs, *callbacks)
    return run


@pytest.fixture(scope="module")
def unbroken(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    run(folder)
    return folder


@pytest.fixture
def folder(unbroken, tmp_path):
    """A copy of the unbroken run, to be damaged."""
    return shutil.copytree(unbroken, tmp_path / "run")


def rows_kept(folder, rows):
    lines = (folder / "training_log.csv").read_bytes().splitlines(keepends=True)
    (folder / "training_log.csv").write_bytes(b"".join(lines[:1 + rows]))


def append_torn_row(folder):
    rows_kept(folder, 3)
    with open(folder / "training_log.csv", "a") as log:
        log.write("3,0.27")


def flip_bit_in_the_middle(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


# damage -> what it does, epochs that are left, checkpoints that cannot be read
DAMAGES = {
    "row without checkpoint": (lambda run: (run / LAST).unlink(), 3, 0),
    "torn row": (lambda run: ((run / LAST).unlink(), append_torn_row(run)), 3, 0),
    "checkpoint without row": (lambda run: rows_kept(run, 3), 4, 0),
    "no log": (lambda run: (run / "training_log.csv").unlink(), 4, 0),
    "empty log": (lambda run: ((run / LAST).unlink(), rows_kept(run, -1)), 3, 0),
    "cut while saving": (lambda run: ((run / LAST).rename(run / f".{LAST}"),
                                      truncate(run / f".{LAST}")), 3, 0),
    "truncated": (lambda run: truncate(run / LAST), 3, 1),
    "empty": (lambda run: (run / LAST).write_bytes(b""), 3, 1),
    "one bit": (lambda run: flip_bit_in_the_middle(run / LAST), 3, 1),
    "two bad": (lambda run: (truncate(run / LAST), truncate(run / "epoch_03.keras")), 2, 2),
    "first epoch's row alone": (lambda run: ([file.unlink() for file in run.glob("*.keras")],
                                             rows_kept(run, 1)), 0, 0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_mended_and_the_run_ends_as_the_unbroken_one(damage, folder, unbroken, run, capsys):
    do, left, unreadable = DAMAGES[damage]
    do(folder)
    run(folder)
    said = capsys.readouterr().out
    assert f"{left} of {EPOCHS} epochs are finished" in said
    assert said.count("cannot be read") == unreadable
    assert (f"{folder / LAST} cannot be read" in said) == bool(unreadable)
    assert_equal_to_the_last_bit(folder, unbroken)
    assert {path.name for path in folder.iterdir()} == {path.name for path in unbroken.iterdir()}


def test_refuses_to_start_over_where_no_checkpoint_can_be_read(folder, run):
    for path in folder.glob("*.keras"):
        truncate(path)
    before = contents(folder)
    with pytest.raises(ValueError, match=f"No checkpoint in {folder} can be read.*move") as refusal:
        run(folder)
    assert "\n" not in str(refusal.value)
    assert contents(folder) == before


def other(cells, what):
    """(names of the notebook, data) that make another run of it."""
    train = cells["train"]
    return {
        "seed": ({"SEED": 1}, {}),
        "learning rate": ({"LEARNING_RATE": 1e-3}, {}),
        "momentum": ({"MOMENTUM": 0.9}, {}),
        "batch size": ({"BATCH_SIZE": 8}, {}),
        "vocabulary": ({"VOCABULARY": cells["VOCABULARY"][:-1] + ["new"]}, {}),
        "answers": ({"ANSWERS": ["blue", "no", "yes"]}, {}),
        "training data": ({}, {"train": train._replace(labels=(train.labels + 1) % 3)}),
        "validation data": ({}, {"val": train}),
        "model": ({}, {"build": lambda: pytest.fail("built")}),
    }[what]


@pytest.mark.parametrize("what", ["seed", "learning rate", "momentum", "batch size", "vocabulary", "answers",
                                  "training data", "validation data", "model"])
def test_refuses_a_folder_of_another_run(what, folder, run, cells, monkeypatch):
    names, data = other(cells, what)
    for name, value in names.items():
        monkeypatch.setitem(cells, name, value)
    before = contents(folder)
    with pytest.raises(ValueError, match=f"{folder} holds another run: {what} ") as refusal:
        run(folder, **data)
    assert ";" not in str(refusal.value) and "\n" not in str(refusal.value)  # that alone, one line
    assert "CHECKPOINT_DIR" in str(refusal.value)
    assert contents(folder) == before


def test_refuses_checkpoints_of_nobody_knows_what(folder, run):
    (folder / "run.json").unlink()
    before = contents(folder)
    with pytest.raises(ValueError, match="holds another run"):
        run(folder)
    assert contents(folder) == before


def test_more_epochs_continue_and_fewer_do_nothing(tmp_path, unbroken, run):
    run(tmp_path, 2)
    assert len((tmp_path / "training_log.csv").read_text().splitlines()) == 3
    run(tmp_path, EPOCHS)
    assert_equal_to_the_last_bit(tmp_path, unbroken)
    before = contents(tmp_path)
    run(tmp_path, 2)
    assert contents(tmp_path) == before


def test_epoch_100_is_newer_than_epoch_99(folder, cells):
    (folder / LAST).rename(folder / "epoch_100.keras")
    (folder / "epoch_03.keras").rename(folder / "epoch_99.keras")
    assert cells["resume"](folder)[0] == 100


class Weights(keras.callbacks.Callback):
    """Keeps the weights as they are after each update."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append([weight.numpy() for weight in self.model.trainable_weights])


def test_validation_and_the_finished_model_use_averaged_weights(tmp_path, run, cells):
    weights = Weights()
    model = run(tmp_path, 2, weights)
    average, *rest = weights.seen
    for seen in rest:
        average = [0.4 * old + 0.6 * new for old, new in zip(average, seen)]
    assert len(weights.seen) == 2 * 3  # 40 images in batches of 16
    for ours, expected in zip(model.trainable_weights, average, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)

    logged = (tmp_path / "training_log.csv").read_text().splitlines()
    loss, accuracy = model.evaluate(cells["batches"](cells["val"]), verbose=0)
    row = dict(zip(logged[0].split(","), map(float, logged[-1].split(","))))
    np.testing.assert_allclose([row["val_loss"], row["val_accuracy"]], [loss, accuracy], rtol=1e-5)

    saved = keras.models.load_model(tmp_path / "epoch_02.keras")
    for ours, last in zip(saved.trainable_weights, weights.seen[-1], strict=True):
        np.testing.assert_allclose(ours, last, rtol=1e-4, atol=1e-6)
    again = run(tmp_path, 2)
    for ours, theirs in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


class FullDisk(keras.callbacks.Callback):
    """From the third epoch on, no file grows beyond `limit(folder)` bytes."""

    def __init__(self, folder, limit):
        super().__init__()
        self.folder, self.limit = folder, limit

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit(self.folder), hard))


@pytest.fixture
def disk_empties_again():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [
    pytest.param(lambda folder: (folder / "epoch_02.keras").stat().st_size // 2, id="model"),
    pytest.param(lambda folder: (folder / "training_log.csv").stat().st_size + 5, id="log"),
])
def test_full_disk_costs_nothing_but_the_epoch(limit, tmp_path, unbroken, run, disk_empties_again, capsys):
    # capsys keeps what is printed in memory: pytest's own file would be as full as the disk.
    with pytest.raises(OSError, match=f"{tmp_path} cannot be written.*make room") as fault:
        run(tmp_path, EPOCHS, FullDisk(tmp_path, limit))
    disk_empties_again()
    assert "\n" not in str(fault.value)
    assert sorted(path.name for path in tmp_path.glob("epoch*")) == ["epoch_01.keras", "epoch_02.keras"]
    assert variables(tmp_path / "epoch_02.keras") == variables(unbroken / "epoch_02.keras")
    run(tmp_path)
    assert_equal_to_the_last_bit(tmp_path, unbroken)


# ---- the brief's network, in a process of its own, killed ----

class Training:
    """`python tests/notebook.py` on a folder, with its output."""

    def __init__(self, data, folder):
        self.folder, self.output = folder, folder.with_suffix(".txt")
        self.start = time.time()
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, notebook.__file__, data, folder, str(EPOCHS), "16"],
                env={**os.environ, "PYTHONUNBUFFERED": "1"}, stdout=output, stderr=subprocess.STDOUT)

    def wait(self):
        status = self.process.wait(300)
        assert status in (0, -signal.SIGKILL), self.output.read_text()[-3000:]
        return status

    def wait_until(self, happened):
        while self.process.poll() is None and not happened():
            time.sleep(0.001)

    def trains(self):
        return "epochs are finished" in self.output.read_text()

    def saves(self):
        return self.wrote(".epoch_*")

    def has_saved(self):
        return self.wrote("epoch_*")

    def wrote(self, pattern):
        try:
            return any(path.stat().st_mtime > self.start for path in self.folder.glob(pattern))
        except FileNotFoundError:  # renamed in between
            return False


@pytest.fixture(scope="module")
def twin(tiny_data, tmp_path_factory):
    """An unbroken run, and how many seconds its training took."""
    folder = tmp_path_factory.mktemp("twins") / "unbroken"
    training = Training(tiny_data, folder)
    training.wait_until(training.trains)
    start = time.monotonic()
    assert training.wait() == 0
    return folder, time.monotonic() - start


def wait_for_the_moment(training, number, seconds, rng):
    """Kinds of moments in turn: after an epoch, as a save begins, shortly after that, at random."""
    training.wait_until((training.has_saved, training.saves, training.saves, training.trains)[number % 4])
    time.sleep(rng.uniform(0, (seconds / EPOCHS, 0, 0.2, seconds)[number % 4]))


def run_with_kills(data, home, twin, kills, seed):
    """Kills trainings; each run is resumed until finished, then compared with the unbroken one."""
    rng = np.random.default_rng(seed)
    unbroken, seconds = twin
    hit = torn = runs = 0
    while hit < kills or not torn:  # at least one has to have come in the middle of a save
        runs += 1
        finished = False
        while not finished:
            training = Training(data, home / f"run{runs}")
            if hit < kills or not torn:
                wait_for_the_moment(training, hit, seconds, rng)
                training.process.kill()
            finished = training.wait() == 0
            if not finished:
                hit += 1
                torn += training.saves()
                print(f"kill {hit} leaves", *sorted(path.name for path in training.folder.iterdir()))
        assert_equal_to_the_last_bit(training.folder, unbroken)
        assert len(list(training.folder.glob("epoch_*.keras"))) == EPOCHS
    print(f"{hit} kills, {torn} of them in the middle of a save; {runs} runs, all as the unbroken one")


def test_killed_run_ends_as_the_unbroken_one(tiny_data, tmp_path, twin):
    run_with_kills(tiny_data, tmp_path, twin, kills=3, seed=0)


@pytest.mark.soak
def test_run_killed_20_times_ends_as_the_unbroken_one(tiny_data, tmp_path, twin):
    run_with_kills(tiny_data, tmp_path, twin, kills=20, seed=1)
