"""The notebook's data follow the brief, its sampling is uniform, and it executes from start to end."""

import json
import os
import re
import string
import subprocess
import sys
from collections import Counter

import keras
import nbformat
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import ROOT, snapshot
from notebook import NOTEBOOK, run_cells
from scipy.stats import chi2_contingency, chisquare

BATCH_SIZE = 8
UNLIKELY = 1e-4  # least probability that a test of chance may find; the seed is fixed


def words_of(question):
    """The brief's words: lower-case, no punctuation, split on white space."""
    return tuple("".join(c for c in question.lower() if c not in string.punctuation).split())


def records(folder):
    """The (image, [(question, answer), ...]) of a folder's records, read without the notebook."""
    for record in tf.data.TFRecordDataset([str(file) for file in sorted(folder.glob("*.tfrecords"))]):
        feature = tf.train.Example.FromString(record.numpy()).features.feature
        image, questions, answers = (feature[name].bytes_list.value
                                     for name in ("image", "question", "answer"))
        yield (np.frombuffer(image[0], "<i4").reshape(224, 224, 3),
               [(question.decode(), answer.decode())
                for question, answer in zip(questions, answers, strict=True)])


@pytest.fixture(autouse=True, scope="module")
def keep_policy():
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(policy)


def data_cells(data, **parameters):
    return run_cells("imports", "data", DATA_DIR=str(data), **{"BATCH_SIZE": BATCH_SIZE, **parameters})


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
        (data / split).mkdir(parents=True)
        for i, (questions, answers) in enumerate(images):
            image = np.full((side, side, 3), i, "<i4").tobytes()
            values = {"image": [image], "question": [text.encode() for text in questions],
                      "answer": [text.encode() for text in answers]}
            example = tf.train.Example(features=tf.train.Features(feature={
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
                for name, value in values.items()}))
            with tf.io.TFRecordWriter(str(data / split / NAMES[i % 3])) as writer:
                writer.write(example.SerializeToString())
    return data


def test_words_and_labels_are_the_briefs(tmp_path):
    cells = data_cells(write(tmp_path / "data"))
    words = {word for questions, _ in PAIRS["train"] for text in questions for word in words_of(text)}
    assert {"leftof", "its"} <= words
    vocabulary = cells["VOCABULARY"]
    assert vocabulary[:2] == ["", "[UNK]"] and sorted(vocabulary[2:]) == sorted(words)
    assert sorted(cells["ANSWERS"]) == ["10", "2", "yes"]
    for split in ("train", "val"):
        texts, answers = (sum(lists, []) for lists in zip(*PAIRS[split], strict=True))
        batches = list(cells["every_pair"](cells[split], cells[f"{split}_pairs"]).as_numpy_iterator())
        tokens = [row for inputs, _ in batches for row in inputs["question"]]
        assert [[vocabulary[token] for token in row if token] for row in tokens] == [
            [word if word in words else "[UNK]" for word in words_of(text)] for text in texts]
        assert [cells["ANSWERS"][label] for _, labels in batches for label in labels] == answers


def truncate(data, name):
    path = data / "train" / name
    os.truncate(path, path.stat().st_size - 1000)


FAULTS = {  # what is wrong -> the data's pairs or image size, what is then done to them, the folder at fault
    "no files": ({}, lambda data: (data / "val" / NAMES[0]).unlink(), "val"),
    "first record truncated": ({}, lambda data: truncate(data, NAMES[0]), "train"),
    "last record truncated": ({}, lambda data: truncate(data, NAMES[2]), "train"),
    "answer that training lacks": ({"val": [(["Is it?"], ["no"])]}, None, "train"),
    "more questions than answers": ({"val": [(["Is it?", "Is it big?"], ["yes"])]}, None, "val"),
    "image without questions": ({"train": [*PAIRS["train"][:2], ([], [])]}, None, "train"),
    "images of another size": ({"side": 112}, None, "train"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_data_are_refused_in_one_line(fault, tmp_path):
    content, damage, folder = FAULTS[fault]
    data = write(tmp_path / "data", **content)
    if damage:
        damage(data)
    with pytest.raises((ValueError, FileNotFoundError)) as refusal:
        data_cells(data)
    assert str(data / folder) in str(refusal.value) and "\n" not in str(refusal.value)


def test_without_film_layers_the_first_cells_name_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        run_cells("imports")


# ---- one pair an image ----

@pytest.fixture(scope="module")
def draws(tiny_data):
    """(place, pair, count): the place of each of 1,000 images in the order of 20 epochs, int (20, 1000),
    and which of its pairs was drawn; how many pairs each image has, (1000,)."""
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
    return place, pair, count


def chance(a, b):
    """The probability of a table of a and b at least as uneven, were they independent and b uniform."""
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a.ravel(), b.ravel()), 1)
    return min(chi2_contingency(table).pvalue, chisquare(table.sum(0)).pvalue)


def test_pairs_and_order_are_uniform_and_independent(draws):
    place, pair, count = draws
    image = np.broadcast_to(np.arange(1000), place.shape)
    assert chance(image // 50, place // 50) > UNLIKELY
    neighbours = np.sum(np.abs(place[:, 1:] - place[:, :-1]) == 1)  # in the files and in the order
    assert abs(neighbours - 2 * 20) < 5 * np.sqrt(2 * 20)
    assert (pair < count).all()
    for size in (2, 3, 7, 10):
        of_size = count == size
        drawn, third = pair[:, of_size], place[:, of_size] // 334
        assert chance(image[:, of_size] // 50, drawn) > UNLIKELY
        assert chance(third, drawn) > UNLIKELY
        assert chance(drawn[:, 1:], drawn[:, :-1]) > UNLIKELY
        for lag in (1, 2):
            for a, b in ((drawn, drawn), (third, third), (drawn, third), (third, drawn)):
                assert chance(a[lag:], b[:-lag]) > UNLIKELY


# ---- batches ----

@pytest.fixture(scope="module")
def cells(tiny_data):
    return data_cells(tiny_data)


@pytest.fixture(scope="module")
def source(tiny_data):
    return {split: list(records(tiny_data / split)) for split in ("train", "val")}


def received(dataset):
    """The images of an epoch in their order, and the pair drawn for each, {image: (tokens, label)}."""
    triples = [(hash(image.tobytes()), tuple(tokens[tokens > 0]), label)
               for inputs, labels in dataset.as_numpy_iterator()
               for image, tokens, label in zip(inputs["image"], inputs["question"], labels, strict=True)]
    return [image for image, *_ in triples], {image: tuple(pair) for image, *pair in triples}


@pytest.mark.parametrize("split", ["train", "val"])
def test_batches_are_what_the_records_hold(split, cells, source):
    pairs_of = {image.astype("uint8").tobytes(): {(words_of(question), answer) for question, answer in pairs}
                for image, pairs in source[split]}
    for inputs, labels in cells[f"{split}_ds"].as_numpy_iterator():
        assert len(labels) <= BATCH_SIZE
        for image, tokens, label in zip(inputs["image"], inputs["question"], labels, strict=True):
            assert image.dtype == np.float32
            pixels = np.rint(image * 255).astype("uint8")
            np.testing.assert_array_max_ulp(image, pixels / np.float32(255), maxulp=1)
            words = tuple(cells["VOCABULARY"][token] for token in tokens if token)
            assert (words, cells["ANSWERS"][label]) in pairs_of.pop(pixels.tobytes())
    assert not pairs_of  # each image once


def test_an_epoch_is_the_same_however_it_is_reached(cells, tiny_data, source):
    def epoch(cells, number):
        return received(cells["one_epoch"](cells["train"], number))

    first, second, third = (epoch(cells, number) for number in range(3))
    assert epoch(data_cells(tiny_data), 2) == third
    assert epoch(cells, 0) == first == received(cells["train_ds"])
    other_seed = epoch(data_cells(tiny_data, SEED=1), 0)
    for one, other in ((first, second), (second, third), (second, other_seed), (first, other_seed)):
        assert one[0] != other[0]
        assert np.mean([pair == other[1][image] for image, pair in one[1].items()]) < 0.5
    assert received(cells["val_ds"]) == received(data_cells(tiny_data)["val_ds"]) == received(cells["val_ds"])
    for (image, *_), (expected, _) in zip(cells["val"].as_numpy_iterator(), source["val"], strict=True):
        np.testing.assert_array_equal(image, expected)  # in the files' order


# ---- from start to end ----

class Execution:
    """Papermill on the notebook, saved as if under another kernel, in an environment of trouble."""

    def __init__(self, home, name, data, path=(), left_out=None):
        self.run, self.target = home / "run", home / f"{name}.ipynb"
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        notebook.metadata["kernelspec"] = {"name": "film", "display_name": "film", "language": "python"}
        kept = [cell for cell in notebook.cells if not left_out or left_out not in cell.source]
        assert len(kept) == len(notebook.cells) - bool(left_out)
        notebook.cells = kept
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


def assert_in_order_without_errors(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for output in outputs(notebook):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
    assert sum("image/png" in output.get("data", {}) for output in outputs(notebook)) >= 4  # figures


def assert_shows_todays_source(notebook):
    text = "".join(output.get("data", {}).get("text/markdown", "") for output in outputs(notebook))
    sources = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for name in ("FiLM", "ResBlock", "AddSpatialCoordinates"):
        assert any(f"class {name}(" in source for source in sources)
    assert all(source.strip() in (ROOT / "film_layers.py").read_text() for source in sources)


def test_executes_from_start_to_end(executed):
    assert_in_order_without_errors(executed)
    assert_shows_todays_source(executed)
    assert "nvidia-smi" in printed(executed)


TYPES = [{"yes", "no"}, set("0123456789") | {"10"}, {"cube", "sphere", "cylinder"}, {"small", "large"},
         {"metal", "rubber"}, {"gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"}]


def test_leaves_a_run_whose_numbers_agree(executed, execution, source):
    run = execution.run
    assert {path.name for path in run.iterdir()} == {
        "training_log.csv", "timing.csv", "epoch_01.keras", "epoch_02.keras", "settings.json",
        "evaluation.json", "curves.svg", "question_only"}
    found = json.loads((run / "evaluation.json").read_text())
    pairs = {split: [pair for _, pairs in images for pair in pairs] for split, images in source.items()}
    tokens = 2 + len({word for question, _ in pairs["train"] for word in words_of(question)})
    frequency, truth = Counter(answer for _, answer in pairs["train"]), [answer for _, answer in pairs["val"]]
    for name, expected in {
            "train_images": len(source["train"]), "val_images": len(source["val"]), "epochs": 2,
            "train_pairs": len(pairs["train"]), "val_pairs": len(truth), "vocab_size": tokens,
            "num_answers": len(frequency), "batch_size": BATCH_SIZE, "learning_rate": 3e-4, "seed": 0,
            "parameters": 970_496 + 64 * tokens + 513 * len(frequency)}.items():
        assert found[name] == expected, name
    for number in (tokens, len(frequency)):
        assert re.search(rf"\b{number}\b", printed(executed))

    log, other_log = (pd.read_csv(path / "training_log.csv") for path in (run, run / "question_only"))
    seconds = pd.read_csv(run / "timing.csv", header=None)[1]
    accuracy, majority = found["val_accuracy"], {max(kind, key=frequency.__getitem__) for kind in TYPES}
    for name, expected in {
            "FiLM, sampled": accuracy, "val_loss": log["val_loss"].iloc[-1], "minutes": sum(seconds) / 60,
            "standard_error": np.sqrt(accuracy * (1 - accuracy) / found["val_images"]),
            "question-only network, sampled": other_log["val_accuracy"].iloc[-1],
            "gap": 100 * (found["FiLM, all"] - found["question-only network, all"]),
            "answer-type majority, all": np.mean([answer in majority for answer in truth]),
            "most frequent answer, all": truth.count(frequency.most_common(1)[0][0]) / len(truth)}.items():
        assert found[name] == pytest.approx(expected, rel=1e-5), name
    assert accuracy == pytest.approx(log["val_accuracy"].iloc[-1], rel=1e-5)


def test_saved_model_gives_the_evaluated_accuracy_with_settings_json_alone(executed, execution, source):
    settings = json.loads((execution.run / "settings.json").read_text())
    questions, truth = zip(*(pair for _, pairs in source["val"] for pair in pairs), strict=True)
    tokens = [[settings["vocabulary"].index(word) for word in words_of(question)] for question in questions]
    images = np.repeat([image / np.float32(255) for image, _ in source["val"]],
                       [len(pairs) for _, pairs in source["val"]], axis=0)
    model = keras.models.load_model(execution.run / "epoch_02.keras")
    labels = model.predict({"question": keras.utils.pad_sequences(tokens, padding="post"), "image": images},
                           batch_size=BATCH_SIZE, verbose=0).argmax(1)
    accuracy = np.mean(np.array(settings["answers"])[labels] == np.array(truth))
    evaluation = json.loads((execution.run / "evaluation.json").read_text())
    assert accuracy == pytest.approx(evaluation["FiLM, all"], abs=1.01 / len(truth))


def test_executed_again_trains_nothing_and_finds_the_same(executed, execution, tiny_data):
    alone = subprocess.Popen([sys.executable, "tests/alone.py", execution.run, tiny_data], cwd=ROOT)
    before = snapshot(execution.run)
    again = Execution(execution.run.parent, "again", tiny_data, left_out="mkdtemp").finish()
    assert_in_order_without_errors(again)
    assert "nvidia-smi" not in printed(again)
    after = snapshot(execution.run)
    for name in ("evaluation.json", "curves.svg"):  # may be written anew, the same
        before[name], after[name] = before[name][0], after[name][0]
    assert {name for name in {**before, **after} if before.get(name) != after.get(name)} == set()
    assert alone.wait() == 0  # a process that knows neither this one nor the notebook


def test_committed_notebook_is_executed_short_and_of_todays_source():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert len(notebook.cells) <= 50
    assert max(len(cell.source.splitlines()) for cell in notebook.cells if cell.cell_type == "code") <= 30
    assert_in_order_without_errors(notebook)
    assert_shows_todays_source(notebook)
