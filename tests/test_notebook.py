"""The notebook executes from start to end, leaves a run whose numbers agree, resumes
after a kill, and refuses bad data by name."""

import io
import json
import os
import re
import shutil
import string
from base64 import b64decode

import keras
import nbformat
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import ROOT, example, read_records, snapshot, write_records
from execution import (
    NOTEBOOK,
    SHORT,
    assert_equal_bit_for_bit,
    code_cells,
    copy_until,
    execute,
    kill_when,
    printed,
    start,
)
from PIL import Image

import film_layers  # noqa: F401  (registers the layers)


def assert_sound(notebook):
    """Executed in order from a fresh kernel, without errors or warnings."""
    cells = code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error", output
            assert output.get("name") != "stderr" or "import keras" in cell.source


def outputs_of_kind(notebook, kind):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


def test_executes_in_an_environment_of_trouble(executed):
    assert_sound(executed)
    assert len(outputs_of_kind(executed, "image/png")) == 4
    module = (ROOT / "film_layers.py").read_text()
    for name in ("FiLM", "ResBlock", "AddSpatialCoordinates"):
        sources = outputs_of_kind(executed, "text/plain")
        (source,) = [text for text in sources if f"class {name}(" in text]
        assert source.strip() in module
    text = "".join(printed(cell) for cell in code_cells(executed))
    assert "*** interrupted in epoch 2 ***" in text
    assert "Logs are equal: True" in text
    (equal,) = re.findall(r"equal bit for bit: (\d+ of \d+)", text)
    assert len(set(equal.split(" of "))) == 1


def sampled_pairs(data, seed):
    """The validation images with the pairs that the notebook draws."""
    for i, (image, pairs) in enumerate(read_records(data / "val")):
        folded = tf.random.fold_in((seed, 0), i)
        count = len(pairs)
        k = tf.random.stateless_uniform((), folded, maxval=count, dtype=tf.int32)
        yield image, *pairs[int(k)]


def tokens_of(question, vocabulary):
    kept = [c for c in question.lower() if c not in string.punctuation]
    words = "".join(kept).split()
    return [vocabulary.index(word) if word in vocabulary else 1 for word in words]


def test_saved_model_alone_gives_the_evaluated_numbers(executed_run, executed_data):
    evaluation = json.loads((executed_run / "evaluation.json").read_text())
    settings = json.loads((executed_run / "settings.json").read_text())
    model = keras.models.load_model(executed_run / "epoch_02.keras")
    images, questions, answers = zip(
        *sampled_pairs(executed_data, settings["seed"]), strict=True
    )
    tokens = [tokens_of(question, settings["vocabulary"]) for question in questions]
    inputs = {
        "question": keras.utils.pad_sequences(tokens, padding="post"),
        "image": np.array(images, "float32") / 255,
    }
    probabilities = model.predict(inputs, verbose=0)
    labels = [settings["answers"].index(answer) for answer in answers]
    accuracy = np.mean(probabilities.argmax(1) == labels)
    loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    assert evaluation["val_accuracy"] == pytest.approx(accuracy)
    assert evaluation["val_loss"] == pytest.approx(loss, rel=0.01)


def test_numbers_of_the_evaluation_agree(executed_run, executed_data):
    found = json.loads((executed_run / "evaluation.json").read_text())
    log = pd.read_csv(executed_run / "training_log.csv")
    question_log = pd.read_csv(executed_run / "question_only" / "training_log.csv")
    columns = ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert found["log"] == log[columns].to_dict("list")
    assert found["question_only_log"] == question_log[columns].to_dict("list")
    assert found["val_accuracy_1"] == pytest.approx(log["val_accuracy"][0])
    assert found["val_accuracy"] == pytest.approx(log["val_accuracy"][1])
    assert found["val_loss"] == pytest.approx(log["val_loss"][1])
    gap = log["val_loss"] - question_log["val_loss"]
    assert found["gap"]["val_loss"]["mean"] == pytest.approx(gap.mean())

    records = read_records(executed_data / "train")
    train = [pair for _, pairs in records for pair in pairs]
    answers = [answer for _, _, answer in sampled_pairs(executed_data, found["seed"])]
    assert found["train_pairs"] == len(train)
    assert found["val_images"] == len(answers)
    groups = [["no"], ["cube", "sphere", "cylinder"], ["Yes", "dark red"]]
    groups += [["small", "large"], ["metal", "rubber"], [str(k) for k in range(11)]]
    groups += [["gray", "blue", "green", "brown", "purple", "cyan", "yellow"]]
    given = [answer for _, answer in train]
    majority = {max(group, key=given.count) for group in groups}
    expected = np.mean([answer in majority for answer in answers])
    assert found["accuracy"]["majority"]["all"] == pytest.approx(expected)
    pairs = found["pairs"]
    assert pairs.pop("all") == sum(pairs.values()) == len(answers)
    for name in ("FiLM", "question-only", "mismatched", "majority"):
        accuracy = found["accuracy"][name]
        right = sum(pairs[group] * accuracy[group] for group in pairs)
        assert right / len(answers) == pytest.approx(accuracy["all"])
    assert found["accuracy"]["FiLM"]["all"] == pytest.approx(found["val_accuracy"])
    assert found["loss"]["FiLM"]["all"] == pytest.approx(found["val_loss"], rel=1e-4)


def test_finished_run_is_read_up_to_fewer_epochs(
    executed_run, executed_settings, tmp_path
):
    """Nothing is trained and no file of the run changes; the curves are points."""
    run = shutil.copytree(executed_run, tmp_path / "run")
    before = snapshot(run)
    fewer = SHORT | {"CHECKPOINT_DIR": run, "LONGER_EPOCHS": 0}
    notebook = execute(
        NOTEBOOK, tmp_path / "again.ipynb", **(executed_settings | fewer)
    )
    assert_sound(notebook)
    after = snapshot(run)
    evaluation = json.loads(after.pop("evaluation.json")[0])
    del before["evaluation.json"]
    assert after == before
    log = pd.read_csv(run / "training_log.csv")
    assert evaluation["last_epoch"] == 1
    assert evaluation["val_loss"] == pytest.approx(log["val_loss"][0])
    curves = outputs_of_kind(notebook, "image/png")[1]
    pixels = np.asarray(Image.open(io.BytesIO(b64decode(curves))).convert("RGB"))
    above_the_legend = pixels[: len(pixels) * 3 // 4]
    blue, orange = np.array([31, 119, 180]), np.array([255, 127, 14])
    is_blue = (abs(above_the_legend - blue) < 20).all(axis=-1)
    is_orange = (abs(above_the_legend - orange) < 20).all(axis=-1)
    middle = pixels.shape[1] // 2
    assert is_blue[:, :middle].any()  # FiLM's validation loss
    # Of equal accuracies, the question-only network's orange point is on top.
    assert (is_blue | is_orange)[:, middle:].any()


def test_killed_run_ends_as_the_uninterrupted_one(
    executed_run, executed_data, tmp_path
):
    """The notebook is killed in its second epoch, and executed again."""
    run = tmp_path / "run"
    settings = {**SHORT, "EPOCHS": 2, "LONGER_EPOCHS": 0}
    settings |= {"DATA_DIR": executed_data, "CHECKPOINT_DIR": run}
    process = start(NOTEBOOK, tmp_path / "killed.ipynb", **settings)
    log = run / "training_log.csv"
    assert kill_when(process, lambda: log.exists() and log.stat().st_size > 0)
    assert not (run / "epoch_02.keras").exists()
    notebook = copy_until(
        tmp_path / "notebook.ipynb",
        "model = train(build_film, RUN, train_ds, val_ds, EPOCHS)",
    )
    execute(notebook, tmp_path / "resumed.ipynb", **settings)
    assert_equal_bit_for_bit(run, executed_run, 2)


# ---- data that 1a refuses ----

PAIR = {"question": [b"Is it red?"], "answer": [b"yes"]}
PIXELS = np.full((224, 224, 3), 200, "<i4")


def write_folder(folder, **features):
    """Two records of a sound folder, of which the second may be changed."""
    for split in ("train", "val"):
        sound = example(image=[PIXELS.tobytes()], **PAIR)
        write_records(folder / split / "a.tfrecord", sound, sound)
    changed = example(**{"image": [PIXELS.tobytes()], **PAIR, **features})
    write_records(folder / "val" / "b.tfrecord-00000-of-00010", sound, changed)


def test_bad_data_are_refused_in_one_line_that_names_file_and_record(tmp_path):
    folders = tmp_path / "data"
    write_folder(folders / "sound")
    write_folder(folders / "float32", image=[(PIXELS / 255).astype("<f4").tobytes()])
    write_folder(folders / "byte order", image=[PIXELS.astype(">i4").tobytes()])
    write_folder(folders / "size", image=[PIXELS[:112].tobytes()])
    write_folder(folders / "no pairs", question=[], answer=[])
    write_folder(folders / "more questions", question=[b"Is it?", b"Is it?"])
    write_folder(folders / "truncated")
    file = folders / "truncated" / "val" / "b.tfrecord-00000-of-00010"
    os.truncate(file, file.stat().st_size - 9)
    write_folder(folders / "empty")
    (folders / "empty" / "val" / "b.tfrecord-00000-of-00010").write_bytes(b"")
    write_folder(folders / "page")
    page = folders / "page" / "val" / "b.tfrecord-00000-of-00010"
    page.write_text("<!DOCTYPE html><title>Sign in</title>" + " " * 1000)
    write_folder(folders / "no files")
    for file in (folders / "no files" / "val").iterdir():
        file.unlink()

    notebook = copy_until(tmp_path / "notebook.ipynb", "def read_split", "bad_data")
    executed = execute(
        notebook, tmp_path / "executed.ipynb", DATA_DIR=folders / "sound"
    )
    text = printed(executed.cells[-1])
    messages = json.loads(text.partition("messages: ")[2])
    assert "sound" not in messages
    assert messages.keys() == {path.name for path in folders.iterdir()} - {"sound"}
    for name, message in messages.items():
        assert "\n" not in message and "{{" not in message, message
        assert str(folders / name / "val") in message
    for name in messages.keys() - {"no files", "page", "empty"}:
        assert "b.tfrecord-00000-of-00010: record 2 " in messages[name]
    assert "record 1 " in messages["page"] and "record 1 " in messages["empty"]


def test_an_answer_that_training_lacks_is_refused(tmp_path):
    write_folder(tmp_path / "data", answer=[b"dark red"])
    notebook = copy_until(tmp_path / "notebook.ipynb", "num_answers = len(ANSWERS)")
    with pytest.raises(AssertionError, match=r"val has answers .*\['dark red'\]"):
        execute(notebook, tmp_path / "out.ipynb", DATA_DIR=tmp_path / "data")


# ---- the committed notebook ----


def test_committed_notebook_is_executed_and_of_todays_source():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert_sound(notebook)
    module = (ROOT / "film_layers.py").read_text()
    sources = [
        text for text in outputs_of_kind(notebook, "text/plain") if "class " in text
    ]
    assert len(sources) == 3
    assert all(source.strip() in module for source in sources)
    tags = [tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])]
    assert tags == ["parameters"]
