"""The notebook's data follow the brief, its sampling is uniform, and it executes from start to end."""

import json
import re
import string
import subprocess
import sys

import keras
import nbformat
import notebook
import numpy as np
import pytest
import tensorflow as tf
from notebook import ROOT
from scipy.stats import chi2_contingency, chisquare

EPOCHS = 3
BATCH_SIZE = 16
UNLIKELY = 1e-4  # least probability that a test of chance may find; the seed is fixed


def words_of(question):
    """The brief's words: lower-case, no punctuation, split on white space."""
    return "".join(c for c in question.lower() if c not in string.punctuation).split()


def records(folder):
    """The (image, questions, answers) of a folder's records, in order, read without the notebook."""
    for record in tf.data.TFRecordDataset([str(file) for file in sorted(folder.glob("*.tfrecords"))]):
        feature = tf.train.Example.FromString(record.numpy()).features.feature
        image, questions, answers = (feature[name].bytes_list.value
                                     for name in ("image", "question", "answer"))
        yield (np.frombuffer(image[0], "<i4").reshape(224, 224, 3),
               [question.decode() for question in questions], [answer.decode() for answer in answers])


@pytest.fixture(scope="module")
def up_to():
    """The notebook's cells up to the one that binds a name; undoes their settings of Keras."""
    policy, normalization = keras.config.dtype_policy(), keras.layers.BatchNormalization.call
    yield notebook.run_up_to
    keras.config.set_dtype_policy(policy)
    keras.layers.BatchNormalization.call = normalization


# ---- words, labels, and files that are not as they should be ----

PAIRS = {
    "train": [(["Is the BIG, shiny (cube)  left-of\tit?", "it's RED!"], ["yes", "10"]),
              (["Is the big cube red?"], ["2"])],
    "val": [(["Is the purple cube BIG?", "Is it?", "it"], ["2", "yes", "2"])],
}


def write(data, pairs=PAIRS, side=224):
    """Records of these questions and answers, each image of one colour."""
    for split, images in pairs.items():
        (data / split).mkdir(parents=True)
        with tf.io.TFRecordWriter(str(data / split / f"{split}.tfrecords")) as writer:
            for i, (questions, answers) in enumerate(images):
                image = np.full((side, side, 3), i, "<i4").tobytes()
                features = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
                            for name, values in (("image", [image]),
                                                 ("question", [text.encode() for text in questions]),
                                                 ("answer", [text.encode() for text in answers]))}
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(example.SerializeToString())
    return data


def test_words_and_labels_are_the_briefs(tmp_path, up_to):
    cells = up_to("train", DATA_DIR=str(write(tmp_path / "data")))
    words = {word for questions, _ in PAIRS["train"] for text in questions for word in words_of(text)}
    assert {"leftof", "its"} <= words
    vocabulary = cells["VOCABULARY"]
    assert vocabulary[:2] == ["", "[UNK]"] and sorted(vocabulary[2:]) == sorted(words)
    assert cells["ANSWERS"] == ["10", "2", "yes"]
    for split in ("train", "val"):
        texts = [text for questions, _ in PAIRS[split] for text in questions]
        expected = [[word if word in words else "[UNK]" for word in words_of(text)] for text in texts]
        encoded = cells[split]
        assert [[vocabulary[token] for token in row if token] for row in encoded.tokens] == expected
        assert [cells["ANSWERS"][label] for label in encoded.labels] == [
            answer for _, answers in PAIRS[split] for answer in answers]
        assert encoded.count.numpy().tolist() == [len(questions) for questions, _ in PAIRS[split]]


def without_validation(data):
    (data / "val" / "val.tfrecords").unlink()


def torn(data):
    path = data / "train" / "train.tfrecords"
    path.write_bytes(path.read_bytes()[:-1000])


def rewritten(**options):
    def do(data):
        for split in ("train", "val"):
            (data / split / f"{split}.tfrecords").unlink()
            (data / split).rmdir()
        write(data, **options)
    return do


CELL = [(["Is it?"], ["no"])]
FAULTS = {  # what is wrong with the data -> how that is made, the error, what it names
    "no files": (without_validation, FileNotFoundError, ["val"]),
    "torn record": (torn, ValueError, ["train", "record", "python -m clevr check"]),
    "answer that training lacks": (rewritten(pairs={**PAIRS, "val": CELL}), ValueError, ["val", "no"]),
    "more questions than answers": (
        rewritten(pairs={**PAIRS, "train": PAIRS["train"] + [(["Is it?", "Is it big?"], ["yes"])]}),
        ValueError, ["train"]),
    "image without questions": (
        rewritten(pairs={**PAIRS, "train": PAIRS["train"] + [([], [])]}), ValueError, ["train"]),
    "images of another size": (rewritten(side=112), ValueError, ["train"]),
    "images of another size that fill one": (
        rewritten(side=112, pairs={**PAIRS, "train": 2 * PAIRS["train"]}), ValueError, ["train"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_data_are_refused_in_one_line(fault, tmp_path, up_to):
    make, error, named = FAULTS[fault]
    data = write(tmp_path / "data")
    make(data)
    with pytest.raises(error) as refusal:
        up_to("train", DATA_DIR=str(data))
    said = str(refusal.value)
    assert "\n" not in said
    assert str(data) in said and all(name in said for name in named), said


# ---- one pair an image ----

@pytest.fixture(scope="module")
def draws():
    """(position, place, count): of each image in 3,000 epochs, int (3000, 30), where in the order it
    came and which of its pairs was drawn; how many pairs it has, (30,)."""
    cells = notebook.define("Split", "draw", "batches", SEED=7)
    count = np.array([1, 2, 3, 7, 10] * 6, np.int32)
    first = np.cumsum(count, dtype=np.int32) - count
    split = cells["Split"](None, tf.constant(first), tf.constant(count), None, None)
    draw = tf.function(lambda epoch: cells["draw"](split, epoch, shuffle=True))
    position, place = np.empty((2, 3000, len(count)), int)
    for epoch in range(len(position)):
        order, pair = (numbers.numpy() for numbers in draw(tf.constant(epoch)))
        assert np.array_equal(np.sort(order), np.arange(len(count)))  # every image exactly once
        position[epoch, order] = np.arange(len(count))
        place[epoch, order] = pair - first[order]
    return position, place, count


def test_pairs_belong_to_their_image_and_are_drawn_uniformly(draws):
    _, place, count = draws
    assert (place >= 0).all() and (place < count).all()
    for image in np.flatnonzero(count > 1):
        assert chisquare(np.bincount(place[:, image], minlength=count[image])).pvalue > UNLIKELY
    for size in set(count) - {1}:
        drawn = np.bincount(place[:, count == size].ravel(), minlength=size)
        assert chisquare(drawn).pvalue > UNLIKELY


def test_every_order_of_the_whole_set_is_as_likely(draws):
    position, _, count = draws
    for image in range(len(count)):
        assert chisquare(np.bincount(position[:, image], minlength=len(count))).pvalue > UNLIKELY
    neighbours = position[:, 1:] - position[:, :-1] == 1  # images that are neighbours in the files
    assert abs(neighbours.sum() - len(position) * 29 / 30) < 5 * np.sqrt(len(position))


def dependence(a, b):
    """The probability of a table of a and b at least as uneven, were they independent."""
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a.ravel(), b.ravel()), 1)
    return chi2_contingency(table).pvalue


def test_order_and_pairs_are_independent_of_each_other_and_of_other_epochs(draws):
    position, place, count = draws
    ten = count == 10
    place, third = place[:, ten], position[:, ten] // 10
    assert dependence(third, place) > UNLIKELY
    assert dependence(place[:, 1:], place[:, :-1]) > UNLIKELY
    for lag in (1, 2):
        for a in (third, place):
            for b in (third, place):
                assert dependence(a[lag:], b[:-lag]) > UNLIKELY


# ---- batches ----

@pytest.fixture(scope="module")
def cells(tiny_data, up_to):
    return up_to("train_ds", DATA_DIR=str(tiny_data), BATCH_SIZE=BATCH_SIZE, EPOCHS=EPOCHS)


@pytest.mark.parametrize("split", ["train", "val"])
def test_batches_are_what_the_records_hold(split, cells, tiny_data):
    source = {image.astype(np.uint8).tobytes(): set(zip(map(tuple, map(words_of, questions)), answers))
              for image, questions, answers in records(tiny_data / split)}
    epochs, seen = EPOCHS if split == "train" else 1, []
    for inputs, labels in cells["batches"](cells[split], range(epochs), shuffle=split == "train"):
        assert inputs["image"].dtype == tf.float32
        assert inputs["image"].shape[0] == inputs["question"].shape[0] == len(labels) <= BATCH_SIZE
        for image, tokens, label in zip(inputs["image"].numpy(), inputs["question"].numpy(), labels):
            levels = np.rint(image * 255).astype(np.uint8)
            np.testing.assert_array_max_ulp(image, levels.astype(np.float32) / np.float32(255), maxulp=1)
            assert 0 <= image.min() and image.max() <= 1
            words = tuple(cells["VOCABULARY"][token] for token in tokens if token)
            assert (words, cells["ANSWERS"][label]) in source[levels.tobytes()]
            seen.append(levels.tobytes())
    assert len(seen) == epochs * len(source)
    for epoch in range(epochs):
        assert set(seen[epoch * len(source):][:len(source)]) == source.keys()


def stream(cells, *arguments, **options):
    """All batches: the images' means, the tokens and the labels."""
    return [(inputs["image"].numpy().mean((1, 2, 3)).tolist(), inputs["question"].numpy().tolist(),
             labels.numpy().tolist()) for inputs, labels in cells["batches"](*arguments, **options)]


def test_an_epoch_is_the_same_however_it_is_reached(cells, monkeypatch):
    def training(start, stop):
        return stream(cells, cells["train"], range(start, stop), shuffle=True)

    whole = training(0, 4)
    assert len(whole) == 4 * 3
    assert training(2, 4) == whole[6:]
    assert training(3, 4) == whole[9:]
    assert whole[:3] != whole[3:6]
    monkeypatch.setitem(cells, "SEED", 1)
    assert training(0, 1) != whole[:3]


def test_validation_is_drawn_once_and_for_all(cells):
    one, two = (cells["draw"](cells["val"], 0, shuffle=False) for _ in range(2))
    assert np.array_equal(one, two)
    assert np.array_equal(one[0], range(len(cells["val"].first)))
    assert stream(cells, cells["val"]) == stream(cells, cells["val"])


# ---- from start to end ----

def papermill(source, target, data, run):
    done = subprocess.run(
        [sys.executable, "-m", "papermill", source, target, "-p", "DATA_DIR", data,
         "-p", "CHECKPOINT_DIR", run, "-p", "EPOCHS", "2", "-p", "BATCH_SIZE", str(BATCH_SIZE)],
        cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return nbformat.read(target, as_version=4)


def outputs(executed):
    return [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]


def printed(executed):
    """The text of all outputs without colours, all white space as single spaces."""
    texts = (output.text if output.output_type == "stream" else output.data.get("text/plain", "")
             for output in outputs(executed))
    return " ".join(re.sub(r"\x1b\[[\d;]*m", "", " ".join(texts)).split())


def snapshot(folder):
    """Content of the run's log and evaluation; when each of its models was written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns if path.suffix == ".keras"
            else path.read_bytes() for path in folder.rglob("*.*")}


@pytest.fixture(scope="module")
def executed(tiny_data, tmp_path_factory):
    """The executed notebook and its run's folder."""
    home = tmp_path_factory.mktemp("notebook")
    return papermill(notebook.NOTEBOOK, home / "executed.ipynb", tiny_data, home / "run"), home / "run"


def test_executes_from_start_to_end_without_a_complaint(executed):
    done, _ = executed
    assert re.search(r"epoch 2: \d+ s", printed(done))  # what the second execution is searched for
    code = [cell for cell in done.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for output in outputs(done):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text


def test_reports_the_counts_that_the_records_have(executed, tiny_data):
    pairs = [pair for _, questions, answers in records(tiny_data / "train")
             for pair in zip(questions, answers)]
    tokens = 2 + len({word for question, _ in pairs for word in words_of(question)})
    answers = len({answer for _, answer in pairs})
    said = printed(executed[0])
    assert f"Distinct answers: {answers} " in said
    assert f"Vocabulary: {tokens} tokens" in said
    parameters = 64 * tokens + 513 * answers + 970_496
    assert f"Total params: {parameters:,} " in said


def test_leaves_a_whole_run_and_its_report(executed, tmp_path):
    _, run = executed
    log = (run / "training_log.csv").read_text().splitlines()
    assert sorted(log[0].split(",")) == ["accuracy", "epoch", "loss", "val_accuracy", "val_loss"]
    assert len(log) == 3
    assert sorted(path.name for path in run.glob("*.keras")) == ["epoch_01.keras", "epoch_02.keras"]
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["run"]["epochs"] == 2 and evaluation["data"]["val_pairs"] == 80
    assert sum(kind["pairs"] for kind in evaluation["by_kind"]) == 80
    page = subprocess.run([sys.executable, "report/build.py", run, tmp_path / "report.pdf"], cwd=ROOT,
                          capture_output=True, text=True)
    assert (page.returncode, page.stderr) == (0, "")


def test_executed_again_trains_nothing_and_finds_the_same(executed, tiny_data, tmp_path):
    _, run = executed
    source = nbformat.read(notebook.NOTEBOOK, as_version=4)
    demonstration = [cell for cell in source.cells if "TemporaryDirectory() as" in cell.source]
    assert len(demonstration) == 1  # trains in folders of its own every time; left out to save time
    source.cells.remove(demonstration[0])
    nbformat.write(source, tmp_path / "shorter.ipynb")
    before = snapshot(run)
    again = papermill(tmp_path / "shorter.ipynb", tmp_path / "again.ipynb", tiny_data, run)
    assert snapshot(run) == before
    said = printed(again)
    assert not re.search(r"epoch \d+: \d+ s", said)
    assert said.count("2 of 2 epochs are finished") == said.count("epochs are finished") > 1
