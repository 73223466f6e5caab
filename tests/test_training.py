"""Runs that are damaged, changed or killed: each ends as the uninterrupted one, or an
error says why not."""

import time
import zipfile

import numpy as np
import pytest
from execution import (
    SHORT,
    assert_equal_bit_for_bit,
    copy_until,
    execute,
    kill_when,
    start,
)


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
        **SHORT,
    )
    assert not run.exists()


@pytest.mark.soak
def test_twenty_kills(tiny_data, tmp_path):
    """Kills in the middle of a save and at random moments, in turn."""
    rng = np.random.default_rng(0)
    notebook = copy_until(
        tmp_path / "notebook.ipynb",
        "model = train(build_film, RUN, train_ds, val_ds, EPOCHS)",
    )
    output = tmp_path / "out.ipynb"
    settings = {**SHORT, "EPOCHS": 3, "DATA_DIR": tiny_data}
    expected = tmp_path / "expected"
    execute(notebook, output, CHECKPOINT_DIR=expected, **settings)
    kills, kills_in_save, runs = 0, 0, 1
    while kills < 20:
        run = tmp_path / f"run {runs}"
        process = start(notebook, output, CHECKPOINT_DIR=run, **settings)
        saved = len(list(run.glob("epoch_*.keras")))
        file = run / f"epoch_{rng.integers(min(saved, 2) + 1, 4):02d}.keras"
        begin = time.time()
        deadline = begin + rng.uniform(10, 25)

        def is_time(in_save=kills % 2, file=file, begin=begin, deadline=deadline):
            if not in_save:
                return time.time() > deadline
            is_new = file.exists() and file.stat().st_mtime > begin
            return is_new and not zipfile.is_zipfile(file)

        if kill_when(process, is_time):
            kills += 1
            whole = all(map(zipfile.is_zipfile, run.glob("epoch_*.keras")))
            kills_in_save += not whole
            print(f"kill {kills} of run {runs}, in a save: {not whole}", flush=True)
        else:
            assert_equal_bit_for_bit(run, expected, 3)
            print(f"run {runs} ended like the uninterrupted one", flush=True)
            runs += 1
    execute(notebook, output, CHECKPOINT_DIR=run, **settings)
    assert_equal_bit_for_bit(run, expected, 3)
    assert kills_in_save > 5
