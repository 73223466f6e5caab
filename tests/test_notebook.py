"""The notebook's data follow the brief, its sampling is uniform, and it executes from start to end."""

import json
import os
import re
import string
import subprocess
import sys
from collections import Counter

import nbformat
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from cells import NOTEBOOK, run_cells
from conftest import ROOT, example, read_records, snapshot, write_records
from scipy.stats import chi2_contingency, chisquare

BATCH_SIZE = 8
UNLIKELY = 1e-4  # least probability that a test of chance may find; the seed is fixed
pytestmark = pytest.mark.usefixtures("keep_policy")


def words_of(question):
    """The brief's words: lower-case, no punctuation, split on white space."""
    return tuple("".join(c for c in question.lower() if c not in string.punctuation).split())


def data_cells(data, **parameters):
    return run_cells("imports", "data", DATA_DIR=str(data), **{"BATCH_SIZE": BATCH_SIZE, **parameters})


def decoded(cells, dataset):
    """[(bytes of an image, words, answer), ...] of an epoch."""
    found = []
    for inputs, labels in dataset.as_numpy_iterator():
        assert len(labels) <= BATCH_SIZE and inputs["image"].dtype == np.float32
        pixels = np.rint(255 * inputs["image"]).astype("uint8")
        np.testing.assert_array_max_ulp(inputs["image"], pixels / np.float32(255), maxulp=1)
        for image, tokens, label in zip(pixels, inputs["question"], labels, strict=True):
            words = tuple(cells["VOCABULARY"][token] for token in tokens if token)
            found.append((image.tobytes(), words, cells["ANSWERS"][label]))
    return found


# ---- words, labels, names of files, and data that are not as they should be ----

NAMES = ["a.tfrecord", "b.tfrecord-00000-of-00010", "c.tfrecords"]
PAIRS = {
    "train": [(["Is the BIG, shiny (cube)  left-of\tit?", "it's RED!"], ["yes", "10"]),
              (["  Is the big cube  red ? "], ["2"]), (["Is it?"], ["yes"])],
    "val": [(["Is the purple cube BIG ?", "Is it?", "it"], ["2", "yes", "2"])],
}


def write(data, side=224, **pairs):
    """Records of these questions and answers, each image of one colour, each in a file of its own."""
    for split, images in {**PAIRS, **pairs}.items():
        for i, (name, texts) in enumerate(zip(NAMES, images, strict=False)):
            question, answer = ([text.encode() for text in column] for column in texts)
            image = [np.full((side, side, 3), i, "<i4").tobytes()]
            write_records(data / split / name, example(image=image, question=question, answer=answer))
    return data


def test_words_and_labels_are_the_briefs(tmp_path):
    cells = data_cells(write(tmp_path / "data"))
    words = {word for questions, _ in PAIRS["train"] for text in questions for word in words_of(text)}
    assert {"leftof", "its"} <= words
    assert cells["VOCABULARY"][:2] == ["", "[UNK]"] and sorted(cells["VOCABULARY"][2:]) == sorted(words)
    assert sorted(cells["ANSWERS"]) == ["10", "2", "yes"]
    for split in ("train", "val"):
        expected = [(tuple(word if word in words else "[UNK]" for word in words_of(text)), answer)
                    for texts in PAIRS[split] for text, answer in zip(*texts, strict=True)]
        found = decoded(cells, cells["every_pair"](cells[split], cells[f"{split}_pairs"]))
        assert [tuple(pair) for _, *pair in found] == expected


ERRORS = {  # what is wrong -> the data's pairs or image size, a file to truncate, the folder named
    "no files": ({"val": []}, None, "val"), "truncated": ({}, NAMES[2], "train"),
    "answer that training lacks": ({"val": [(["Is it?"], ["no"])]}, None, "train"),
    "more questions than answers": ({"val": [(["Is it?", "Is it big?"], ["yes"])]}, None, "val"),
    "image without questions": ({"train": [*PAIRS["train"][:2], ([], [])]}, None, "train"),
    "images of another size": ({"side": 112}, None, "train"),
}


@pytest.mark.parametrize("error", ERRORS)
def test_wrong_data_are_refused_in_one_line(error, tmp_path):
    content, truncated, folder = ERRORS[error]
    data = write(tmp_path / "data", **content)
    if truncated:
        os.truncate(data / folder / truncated, 9999)
    with pytest.raises((ValueError, FileNotFoundError)) as refusal:
        data_cells(data)
    assert str(data / folder) in str(refusal.value) and "\n" not in str(refusal.value)


def test_without_film_layers_the_first_cells_name_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        run_cells("imports")


# ---- one pair an image ----

def chance(a, b):
    """The probability of a table of a and b at least as uneven, were they independent and b uniform."""
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a.ravel(), b.ravel()), 1)
    return min(chi2_contingency(table).pvalue, chisquare(table.sum(0)).pvalue)


def test_pairs_and_order_are_uniform_and_independent(tiny_data):
    """The places of 1,000 images in the orders of 20 epochs, and which of its pairs each got."""
    cells = data_cells(tiny_data, SEED=7, BATCH_SIZE=1000)
    count = np.array([1, 2, 3, 7, 10] * 200)
    counts, answers = tf.constant(count), tf.constant(cells["ANSWERS"])
    split = tf.data.Dataset.range(1000).map(lambda i: (  # the index as an image of one pixel
        tf.cast([[[i % 250, i // 250]]], tf.uint8), tf.fill((counts[i],), "is it"), answers[:counts[i]]))
    place, pair = np.empty((2, 20, 1000), int)
    for epoch in range(20):
        (inputs, labels), = cells["one_epoch"](split, epoch).as_numpy_iterator()
        order = np.rint(255 * inputs["image"][:, 0, 0]).astype(int) @ [1, 250]
        assert np.array_equal(np.sort(order), np.arange(1000))  # each image once
        place[epoch, order], pair[epoch, order] = np.arange(1000), labels
    image = np.broadcast_to(np.arange(1000), place.shape)
    assert chance(image // 50, place // 50) > UNLIKELY
    neighbours = np.sum(np.abs(place[:, 1:] - place[:, :-1]) == 1)  # in the files and in the order
    assert abs(neighbours - 2 * 20) < 5 * np.sqrt(2 * 20)
    assert (pair < count).all()
    for size in (2, 3, 7, 10):
        drawn, third = pair[:, count == size], place[:, count == size] // 334
        tables = [(image[:, count == size] // 50, drawn), (third, drawn), (drawn[:, 1:], drawn[:, :-1])]
        tables += [(a[lag:], b[:-lag]) for lag in (1, 2) for a in (drawn, third) for b in (drawn, third)]
        assert all(chance(a, b) > UNLIKELY for a, b in tables)


# ---- batches ----

@pytest.fixture(scope="module")
def source(tiny_data):
    return {split: list(read_records(tiny_data / split)) for split in ("train", "val")}


def test_batches_are_what_the_records_hold_however_they_are_reached(tiny_data, source):
    cells, again = data_cells(tiny_data), data_cells(tiny_data)
    for split, images in source.items():
        pairs_of = {image.astype("uint8").tobytes(): [(words_of(text), answer) for text, answer in pairs]
                    for image, pairs in images}
        for image, *pair in decoded(cells, cells[f"{split}_ds"]):
            assert tuple(pair) in pairs_of.pop(image)
        assert not pairs_of  # each image once

    def epoch(cells, number):
        return decoded(cells, cells["one_epoch"](cells["train"], number))

    first, second, third = (epoch(cells, number) for number in range(3))
    assert epoch(again, 2) == third
    assert epoch(cells, 0) == first == decoded(cells, cells["train_ds"])
    other_seed = epoch(data_cells(tiny_data, SEED=1), 0)
    for one, other in ((first, second), (second, third), (first, other_seed)):
        assert [image for image, *_ in one] != [image for image, *_ in other]
        assert np.mean([triple in other for triple in one]) < 0.5
    val = decoded(cells, cells["val_ds"])
    assert val == decoded(again, again["val_ds"]) == decoded(cells, cells["val_ds"])
    assert [image for image, *_ in val] == [image.astype("uint8").tobytes() for image, _ in source["val"]]


# ---- from start to end ----

class Execution:
    """Papermill on the notebook, saved as if under another kernel, in an environment of trouble."""

    def __init__(self, home, name, data, path=(), left_out=None):
        self.run, self.target = home / "run", home / f"{name}.ipynb"
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        notebook.metadata["kernelspec"] = {"name": "film", "display_name": "film", "language": "python"}
        notebook.cells = [cell for cell in notebook.cells if not left_out or left_out not in cell.source]
        nbformat.write(notebook, self.target)
        parameters = {"DATA_DIR": data, "CHECKPOINT_DIR": self.run, "EPOCHS": 2, "BATCH_SIZE": BATCH_SIZE}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "papermill", self.target, self.target, "-k", "python3",
             *(str(word) for parameter in parameters.items() for word in ("-p", *parameter))],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "MPLBACKEND": "Agg", "KERAS_BACKEND": "jax", "CUDA_VISIBLE_DEVICES": "",
                 "PATH": os.pathsep.join([*path, os.environ["PATH"]])})

    def finish(self):
        output, _ = self.process.communicate()
        assert self.process.returncode == 0, output[-3000:]
        return nbformat.read(self.target, as_version=4)


@pytest.fixture(autouse=True, scope="module")
def execution(tiny_data, tmp_path_factory):
    """Runs while the other tests do. `nvidia-smi` is there, but TensorFlow finds no GPU."""
    home = tmp_path_factory.mktemp("notebook")
    (home / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (home / "nvidia-smi").chmod(0o755)
    execution = Execution(home, "executed", tiny_data, path=[str(home)])
    yield execution
    execution.process.kill()


@pytest.fixture(scope="module")
def executed(execution):
    return execution.finish()


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def printed(notebook):
    return "".join(output.text for output in outputs(notebook) if output.output_type == "stream")


def assert_in_order_without_errors_and_of_todays_source(notebook):
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    for output in outputs(notebook):
        assert output.output_type != "error" and output.get("name") != "stderr", output
    shown = [output.get("data", {}) for output in outputs(notebook)]
    assert sum("image/png" in data for data in shown) == 3  # images, curves, predictions
    text = "".join(data.get("text/markdown", "") for data in shown)
    sources = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert all(source.strip() in (ROOT / "film_layers.py").read_text() for source in sources)
    assert {"FiLM", "ResBlock", "AddSpatialCoordinates"} <= {*re.findall(r"class (\w+)", "".join(sources))}


TYPES = ["yes no", "0 1 2 3 4 5 6 7 8 9 10", "cube sphere cylinder", "small large", "metal rubber",
         "gray red blue green brown purple cyan yellow"]


def test_executes_and_leaves_a_run_whose_numbers_agree(executed, execution, source):
    assert_in_order_without_errors_and_of_todays_source(executed)
    assert "nvidia-smi" in printed(executed)
    run = execution.run
    assert {path.name for path in run.iterdir()} == {
        "training_log.csv", "timing.csv", "epoch_01.keras", "epoch_02.keras", "settings.json",
        "evaluation.json", "curves.svg", "question_only"}
    found = json.loads((run / "evaluation.json").read_text())
    pairs = {split: [pair for _, pairs in images for pair in pairs] for split, images in source.items()}
    tokens = 2 + len({word for question, _ in pairs["train"] for word in words_of(question)})
    frequency, truth = Counter(answer for _, answer in pairs["train"]), [answer for _, answer in pairs["val"]]
    majority = {max(kind.split(), key=frequency.__getitem__) for kind in TYPES}
    log, other_log = (pd.read_csv(path / "training_log.csv") for path in (run, run / "question_only"))
    accuracy = log["val_accuracy"].iloc[-1]
    for name, expected in {
            "train_images": len(source["train"]), "val_images": len(source["val"]), "epochs": 2,
            "train_pairs": len(pairs["train"]), "val_pairs": len(truth), "vocab_size": tokens,
            "num_answers": len(frequency), "batch_size": BATCH_SIZE, "learning_rate": 3e-4, "seed": 0,
            "parameters": 970_496 + 64 * tokens + 513 * len(frequency),
            "val_accuracy": accuracy, "FiLM, sampled": accuracy, "val_loss": log["val_loss"].iloc[-1],
            "standard_error": np.sqrt(accuracy * (1 - accuracy) / found["val_images"]),
            "question-only network, sampled": other_log["val_accuracy"].iloc[-1],
            "gap": 100 * (found["FiLM, all"] - found["question-only network, all"]),
            "minutes": sum(pd.read_csv(run / "timing.csv", header=None)[1]) / 60,
            "answer-type majority, all": np.mean([answer in majority for answer in truth]),
            "most frequent answer, all": truth.count(frequency.most_common(1)[0][0]) / len(truth)}.items():
        assert found[name] == pytest.approx(expected, rel=1e-5), name


def test_executed_again_trains_nothing_and_the_saved_model_alone_is_as_good(executed, execution, tiny_data):
    alone = subprocess.Popen([sys.executable, "tests/alone.py", execution.run, tiny_data], cwd=ROOT)
    before = snapshot(execution.run)
    again = Execution(execution.run.parent, "again", tiny_data, left_out="mkdtemp").finish()
    assert_in_order_without_errors_and_of_todays_source(again)
    assert "nvidia-smi" not in printed(again)
    after = snapshot(execution.run)
    for name in ("evaluation.json", "curves.svg"):  # may be written anew, the same
        before[name], after[name] = before[name][0], after[name][0]
    assert {name for name in {**before, **after} if before.get(name) != after.get(name)} == set()
    assert alone.wait() == 0


def test_committed_notebook_is_executed_short_and_of_todays_source():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert len(notebook.cells) <= 50
    assert max(len(cell.source.splitlines()) for cell in notebook.cells if cell.cell_type == "code") <= 30
    assert_in_order_without_errors_and_of_todays_source(notebook)
