"""Runs that are damaged, changed or killed: each ends as the uninterrupted one, or an
error says why not."""

import os
import signal
import time
import zipfile

import keras
import numpy as np
import pytest
from conftest import one_process
from execution import NOTEBOOK, copy_until, execute, start

import film_layers  # noqa: F401  (registers the layers)

SETTINGS = {"BATCH_SIZE": 8, "DEMONSTRATION_EPOCHS": 0, "SQUARES_EPOCHS": 0}


def test_cells_that_follow_3a(tiny_data, tmp_path):
    """One kernel tries what tests/cells holds for 1b to 3a."""
    notebook = copy_until(
        tmp_path / "notebook.ipynb",
        "def describe_split",
        "sampling",
        "figures",
        "network",
        "damages",
    )
    run = tmp_path / "run"
    execute(
        notebook,
        tmp_path / "executed.ipynb",
        DATA_DIR=tiny_data,
        CHECKPOINT_DIR=run,
        **SETTINGS,
    )
    assert not run.exists()


def state(checkpoint):
    model = keras.models.load_model(checkpoint)
    assert len(model.optimizer.variables) > len(model.trainable_weights)
    return [weight.numpy() for weight in model.weights + model.optimizer.variables]


def assert_equal_bit_for_bit(run, other, epochs):
    for number in range(1, epochs + 1):
        name = f"epoch_{number:02d}.keras"
        assert all(map(np.array_equal, state(run / name), state(other / name)))
    rows = (other / "training_log.csv").read_text().splitlines()[: epochs + 1]
    assert (run / "training_log.csv").read_text().splitlines() == rows


def kernel_of(papermill):
    """The process of the kernel that papermill has started, or None."""
    children = open(f"/proc/{papermill.pid}/task/{papermill.pid}/children").read()
    return int(children.split()[0]) if children else None


def kill_when(papermill, is_time):
    """Kills the kernel as soon as is_time() is true; False if it ended before."""
    while papermill.poll() is None:
        if is_time():
            os.kill(kernel_of(papermill), signal.SIGKILL)
            papermill.wait()
            return True
        time.sleep(0.002)
    return False


@one_process
def test_killed_run_ends_as_the_uninterrupted_one(
    executed_run, executed_data, tmp_path
):
    """The notebook is killed in its second epoch, and executed again."""
    run = tmp_path / "run"
    settings = {**SETTINGS, "EPOCHS": 2, "LONGER_EPOCHS": 0}
    settings |= {"DATA_DIR": executed_data, "CHECKPOINT_DIR": run}
    process = start(NOTEBOOK, tmp_path / "killed.ipynb", **settings)
    log = run / "training_log.csv"
    assert kill_when(process, lambda: log.exists() and log.stat().st_size > 0)
    assert not (run / "epoch_02.keras").exists()
    notebook = copy_until(tmp_path / "notebook.ipynb", "model = train(build_film, RUN")
    execute(notebook, tmp_path / "resumed.ipynb", **settings)
    assert_equal_bit_for_bit(run, executed_run, 2)


@pytest.mark.soak
def test_twenty_kills(tiny_data, tmp_path):
    """Kills in the middle of a save and at random moments, in turn."""
    rng = np.random.default_rng(0)
    notebook = copy_until(tmp_path / "notebook.ipynb", "model = train(build_film, RUN")
    output = tmp_path / "out.ipynb"
    settings = {**SETTINGS, "EPOCHS": 3, "DATA_DIR": tiny_data}
    expected = tmp_path / "expected"
    execute(notebook, output, CHECKPOINT_DIR=expected, **settings)
    run = tmp_path / "run 1"
    kills_in_save = 0
    for kill in range(20):
        process = start(notebook, output, CHECKPOINT_DIR=run, **settings)
        file = run / f"epoch_{rng.integers(1, 4):02d}.keras"
        begin = time.time()
        deadline = begin + rng.uniform(12, 30)

        def is_time(in_save=kill % 2, file=file, begin=begin, deadline=deadline):
            if not in_save:
                return time.time() > deadline
            is_new = file.exists() and file.stat().st_mtime > begin
            return is_new and not zipfile.is_zipfile(file)

        was_killed = kill_when(process, is_time)
        whole = all(map(zipfile.is_zipfile, run.glob("epoch_*.keras")))
        kills_in_save += not whole
        print(f"{kill + 1}: killed {was_killed}, in a save {not whole}", flush=True)
        if not was_killed:
            assert_equal_bit_for_bit(run, expected, 3)
            run = tmp_path / f"run {kill + 2}"
    execute(notebook, output, CHECKPOINT_DIR=run, **settings)
    assert_equal_bit_for_bit(run, expected, 3)
    assert kills_in_save > 0
