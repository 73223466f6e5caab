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
import papermill
import pytest
import tensorflow as tf
from cells import NOTEBOOK, run_cells
from conftest import ROOT, example, read_records, snapshot, write_records

BATCH_SIZE = 8
pytestmark = pytest.mark.usefixtures("keep_policy")


def words_of(question):
    """The brief's words: lower-case, no punctuation, split on white space."""
    return tuple(
        "".join(c for c in question.lower() if c not in string.punctuation).split()
    )


def data_cells(data, **parameters):
    return run_cells(
        "imports",
        "data",
        DATA_DIR=str(data),
        **{"BATCH_SIZE": BATCH_SIZE, **parameters},
    )


def decoded(cells, dataset):
    """[(bytes of an image, words, answer), ...] of an epoch."""
    found = []
    for inputs, labels in dataset.as_numpy_iterator():
        assert len(labels) <= BATCH_SIZE and inputs["image"].dtype == np.float32
        pixels = np.rint(255 * inputs["image"]).astype("uint8")
        np.testing.assert_array_max_ulp(
            inputs["image"], pixels / np.float32(255), maxulp=1
        )
        for image, tokens, label in zip(
            pixels, inputs["question"], labels, strict=True
        ):
            words = tuple(cells["VOCABULARY"][token] for token in tokens if token)
            found.append((image.tobytes(), words, cells["ANSWERS"][label]))
    return found


NAMES = ["a.tfrecord", "b.tfrecord-00000-of-00010", "c.tfrecords"]
PAIRS = {
    "train": [
        (["Is the BIG, shiny (cube)  left-of\tit?", "it's RED!"], ["yes", "10"]),
        (["  Is the big cube  red ? "], ["2"]),
        (["Is it?"], ["yes"]),
    ],
    "val": [(["Is the purple cube BIG ?", "Is it?", "it"], ["2", "yes", "2"])],
}


def write(data, side=224, **pairs):
    """Records of these questions and answers, each image of one colour, each in a file of its own."""
    for split, images in {**PAIRS, **pairs}.items():
        for i, (name, texts) in enumerate(zip(NAMES, images, strict=False)):
            question, answer = ([text.encode() for text in column] for column in texts)
            image = [np.full((side, side, 3), i, "<i4").tobytes()]
            write_records(
                data / split / name,
                example(image=image, question=question, answer=answer),
            )
    return data


def test_words_and_labels_are_the_briefs(tmp_path):
    cells = data_cells(write(tmp_path / "data"))
    words = {
        word
        for questions, _ in PAIRS["train"]
        for text in questions
        for word in words_of(text)
    }
    assert {"leftof", "its"} <= words
    assert cells["VOCABULARY"][:2] == ["", "[UNK]"] and sorted(
        cells["VOCABULARY"][2:]
    ) == sorted(words)
    assert sorted(cells["ANSWERS"]) == ["10", "2", "yes"]
    for split in ("train", "val"):
        expected = [
            (
                tuple(word if word in words else "[UNK]" for word in words_of(text)),
                answer,
            )
            for texts in PAIRS[split]
            for text, answer in zip(*texts, strict=True)
        ]
        found = decoded(
            cells, cells["every_pair"](cells[split], cells[f"{split}_pairs"])
        )
        assert [tuple(pair) for _, *pair in found] == expected


ERRORS = {  # what is wrong -> the data's pairs or image size, a file to truncate, the folder named
    "no files": ({"val": []}, None, "val"),
    "truncated": ({}, NAMES[2], "train"),
    "answer that training lacks": ({"val": [(["Is it?"], ["no"])]}, None, "train"),
    "more questions than answers": (
        {"val": [(["Is it?", "Is it big?"], ["yes"])]},
        None,
        "val",
    ),
    "image without questions": (
        {"train": [*PAIRS["train"][:2], ([], [])]},
        None,
        "train",
    ),
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


def test_pairs_and_order_are_uniform_and_independent(tiny_data):
    """The order of 1,000 images in 20 epochs, and which of its pairs each got."""
    cells, count = (
        data_cells(tiny_data, SEED=7, BATCH_SIZE=1000),
        np.array([1, 2, 3, 7, 10] * 200),
    )
    counts, answers = tf.constant(count), tf.constant(cells["ANSWERS"])
    split = tf.data.Dataset.range(
        1000
    ).map(
        lambda i: (  # the index as an image of one pixel
            tf.cast([[[i % 250, i // 250]]], tf.uint8),
            tf.fill((counts[i],), "is it"),
            answers[: counts[i]],
        )
    )

    def images_and_pairs(epoch, shuffle):
        ((inputs, labels),) = cells["one_epoch"](
            split, epoch, shuffle
        ).as_numpy_iterator()
        return np.rint(255 * inputs["image"][:, 0, 0]).astype(int) @ [1, 250], labels

    place, pair = np.empty((2, 20, 1000), int)
    for epoch in range(20):
        images, pair[epoch] = images_and_pairs(epoch, shuffle=False)
        order, pairs = images_and_pairs(epoch, shuffle=True)
        assert images.tolist() == sorted(order) == list(range(1000))  # each image once
        assert (pairs == pair[epoch, order]).all()  # whatever the order
        place[epoch, order] = images
    image = np.broadcast_to(images, place.shape)
    tables = [
        np.histogram2d(image.ravel(), place.ravel(), 20)[0],
        *(
            np.bincount(pair[:, count == size].ravel(), minlength=size)
            for size in (1, 2, 3, 7, 10)
        ),
    ]
    assert all(
        (abs(table - table.mean()) < 5 * np.sqrt(table.mean())).all()
        for table in tables
    )
    drawn = (pair + 0.5) / count - 0.5
    for a, b in (
        (image, drawn),
        (place, drawn),
        (place[1:], place[:-1]),
        (drawn[1:], drawn[:-1]),
        (place[:, 1:], place[:, :-1]),
        (drawn[:, 1:], drawn[:, :-1]),
    ):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / np.sqrt(a.size)


@pytest.fixture(scope="module")
def source(tiny_data):
    return {split: list(read_records(tiny_data / split)) for split in ("train", "val")}


def test_batches_are_what_the_records_hold_however_they_are_reached(tiny_data, source):
    cells, again = data_cells(tiny_data), data_cells(tiny_data)
    for split, images in source.items():
        pairs_of = {
            image.astype("uint8").tobytes(): [
                (words_of(text), answer) for text, answer in pairs
            ]
            for image, pairs in images
        }
        for image, *pair in decoded(cells, cells[f"{split}_ds"]):
            assert tuple(pair) in pairs_of.pop(image)
        assert not pairs_of  # each image once

    def epoch(cells, number):
        return decoded(cells, cells["one_epoch"](cells["train"], number))

    first, second, val = (
        epoch(cells, 0),
        epoch(cells, 1),
        decoded(cells, cells["val_ds"]),
    )
    assert epoch(again, 1) == second and decoded(cells, cells["train_ds"]) == first
    assert decoded(again, again["val_ds"]) == val
    assert [image for image, *_ in val] == [
        image.astype("uint8").tobytes() for image, _ in source["val"]
    ]
    for other in (second, epoch(data_cells(tiny_data, SEED=1), 0)):
        assert [image for image, *_ in first] != [image for image, *_ in other]
        assert np.mean([triple in other for triple in first]) < 0.5


def execute(home, data, left_out=None):
    """The notebook after papermill, saved as if under another kernel, in an environment of trouble."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.metadata["kernelspec"] = {
        "name": "film",
        "display_name": "film",
        "language": "python",
    }
    notebook.cells = [
        cell for cell in notebook.cells if not left_out or left_out not in cell.source
    ]
    nbformat.write(notebook, home / "notebook.ipynb")
    (home / "nvidia-smi").write_text(
        "#!/bin/sh\nexit 9\n"
    )  # is there, but TensorFlow finds no GPU
    (home / "nvidia-smi").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("MPLBACKEND", "Agg"),
            ("KERAS_BACKEND", "jax"),
            ("CUDA_VISIBLE_DEVICES", ""),
        ):
            patch.setenv(name, value)
        patch.setenv("PATH", str(home), prepend=os.pathsep)
        return papermill.execute_notebook(
            home / "notebook.ipynb",
            None,
            kernel_name="python3",
            progress_bar=False,
            cwd=ROOT,
            parameters={
                "DATA_DIR": str(data),
                "CHECKPOINT_DIR": str(home / "run"),
                "EPOCHS": 2,
                "BATCH_SIZE": BATCH_SIZE,
            },
        )


@pytest.fixture(scope="module")
def executed(tiny_data, tmp_path_factory):
    """The executed notebook and the folder of its run."""
    home = tmp_path_factory.mktemp("notebook")
    return execute(home, tiny_data), home / "run"


def assert_in_order_without_errors_and_of_todays_source(notebook, warning=False):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    for output in outputs:
        assert output.output_type != "error" and output.get("name") != "stderr", output
    assert warning == any("nvidia-smi" in output.get("text", "") for output in outputs)
    shown = [output.get("data", {}) for output in outputs]
    assert (
        sum("image/png" in data for data in shown) == 3
    )  # images, curves, predictions
    text = "".join(data.get("text/markdown", "") for data in shown)
    sources = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert all(
        source.strip() in (ROOT / "film_layers.py").read_text() for source in sources
    )
    assert {"FiLM", "ResBlock", "AddSpatialCoordinates"} <= {
        *re.findall(r"class (\w+)", text)
    }


TYPES = [
    "yes no",
    "0 1 2 3 4 5 6 7 8 9 10",
    "cube sphere cylinder",
    "small large",
    "metal rubber",
    "gray red blue green brown purple cyan yellow",
]


def test_executes_and_leaves_a_run_whose_numbers_agree(executed, source):
    notebook, run = executed
    assert_in_order_without_errors_and_of_todays_source(notebook, warning=True)
    found = json.loads((run / "evaluation.json").read_text())
    pairs = {
        split: [pair for _, pairs in images for pair in pairs]
        for split, images in source.items()
    }
    tokens = 2 + len(
        {word for question, _ in pairs["train"] for word in words_of(question)}
    )
    frequency, truth = (
        Counter(answer for _, answer in pairs["train"]),
        [answer for _, answer in pairs["val"]],
    )
    majority = {max(kind.split(), key=frequency.__getitem__) for kind in TYPES}
    log, other_log = (
        pd.read_csv(path / "training_log.csv") for path in (run, run / "question_only")
    )
    accuracy = log["val_accuracy"].iloc[-1]
    for name, expected in {
        "train_images": len(source["train"]),
        "val_images": len(source["val"]),
        "epochs": 2,
        "train_pairs": len(pairs["train"]),
        "val_pairs": len(truth),
        "vocab_size": tokens,
        "num_answers": len(frequency),
        "batch_size": BATCH_SIZE,
        "learning_rate": 3e-4,
        "seed": 0,
        "parameters": 970_496 + 64 * tokens + 513 * len(frequency),
        "val_accuracy": accuracy,
        "FiLM, sampled": accuracy,
        "val_loss": log["val_loss"].iloc[-1],
        "standard_error": np.sqrt(accuracy * (1 - accuracy) / found["val_images"]),
        "question-only network, sampled": other_log["val_accuracy"].iloc[-1],
        "gap": 100 * (found["FiLM, all"] - found["question-only network, all"]),
        "minutes": sum(pd.read_csv(run / "timing.csv", header=None)[1]) / 60,
        "answer-type majority, all": np.mean([answer in majority for answer in truth]),
        "most frequent answer, all": truth.count(frequency.most_common(1)[0][0])
        / len(truth),
    }.items():
        assert found[name] == pytest.approx(expected, rel=1e-5), name


def test_executed_again_trains_nothing_and_the_saved_model_alone_is_as_good(
    executed, tiny_data
):
    _, run = executed
    before = snapshot(run)
    again = execute(run.parent, tiny_data, left_out="mkdtemp")
    assert_in_order_without_errors_and_of_todays_source(again, warning=True)
    after = snapshot(run)
    for name in ("evaluation.json", "curves.svg"):  # may be written anew, the same
        before[name], after[name] = before[name][0], after[name][0]
    assert after == before
    subprocess.run(
        [sys.executable, "tests/alone.py", run, tiny_data], cwd=ROOT, check=True
    )


def test_committed_notebook_is_executed_short_and_of_todays_source():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert len(notebook.cells) <= 50
    assert (
        max(
            len(cell.source.splitlines())
            for cell in notebook.cells
            if cell.cell_type == "code"
        )
        <= 30
    )
    assert_in_order_without_errors_and_of_todays_source(notebook)
