"""What several tests share: the command line, a small set of data, and TFRecords."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
TINY = {"train": 48, "val": 8}
TINY_SEED = 3  # with it, training has all the answers of validation


def clevr(*args, status=0):
    """Runs `python -m clevr`. Another exit status than `status` fails the test."""
    done = subprocess.run(
        [sys.executable, "-m", "clevr", *map(str, args)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture(scope="session")
def tiny_layout(tmp_path_factory):
    """A small set in the layout of CLEVR v1.0, made by two workers. Not to be written
    to."""
    out = tmp_path_factory.mktemp("tiny") / "layout"
    sizes = ("--train", TINY["train"], "--val", TINY["val"])
    clevr("generate", out, *sizes, "--seed", TINY_SEED, "--workers", 2)
    return out


@pytest.fixture(scope="session")
def tiny_data(tiny_layout):
    """The same set as TFRecords. Not to be written to."""
    out = tiny_layout.parent / "data"
    clevr("convert", tiny_layout, out)
    return out


@pytest.fixture(scope="session")
def executed_data(tiny_data):
    """The same records with two answers that are none of CLEVR's."""
    others = {"yes": "Yes", "red": "dark red"}
    out = tiny_data.parent / "other answers"
    for split in TINY:
        records = [
            example(
                image=[image.tobytes()],
                question=[question.encode() for question, _ in pairs],
                answer=[others.get(answer, answer).encode() for _, answer in pairs],
            )
            for image, pairs in read_records(tiny_data / split)
        ]
        write_records(out / split / "a.tfrecords", *records)
    return out


@pytest.fixture(scope="session")
def executed_settings(executed_data, tmp_path_factory):
    """The parameters of the one execution of the whole notebook."""
    return {
        "DATA_DIR": executed_data,
        "CHECKPOINT_DIR": tmp_path_factory.mktemp("executed") / "run",
        "EPOCHS": 1,
        "LONGER_EPOCHS": 2,
        "BATCH_SIZE": 8,
        "DEMONSTRATION_EPOCHS": 2,
        "SQUARES_EPOCHS": 1,
    }


@pytest.fixture(scope="session")
def executed(executed_settings, tmp_path_factory):
    """The notebook executed with settings in the user's shell that would mislead it."""
    from execution import NOTEBOOK, execute

    keras_home = tmp_path_factory.mktemp("keras")
    config = {"image_data_format": "channels_first", "backend": "jax"}
    (keras_home / "keras.json").write_text(json.dumps(config))
    output = tmp_path_factory.mktemp("executed") / "notebook.ipynb"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(keras_home))
        patch.setenv("KERAS_BACKEND", "jax")
        patch.setenv("TF_USE_LEGACY_KERAS", "1")
        patch.setenv("MPLBACKEND", "Agg")
        return execute(NOTEBOOK, output, **executed_settings)


@pytest.fixture(scope="session")
def executed_run(executed, executed_settings):
    """The folder of that run."""
    return executed_settings["CHECKPOINT_DIR"]


def snapshot(folder):
    """All files of a folder: {relative path: (content, time of change)}."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def contents(folder):
    return {name: content for name, (content, _) in snapshot(folder).items()}


def example(**features):
    """The bytes of a tf.train.Example of these lists of bytes."""
    import tensorflow as tf  # not above, since the layers are tested without it, too

    lists = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        for name, values in features.items()
    }
    return tf.train.Example(
        features=tf.train.Features(feature=lists)
    ).SerializeToString()


def write_records(path, *records):
    import tensorflow as tf

    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def read_records(folder):
    """The (image, [(question, answer), ...]) of all records, read without code of the
    project."""
    import tensorflow as tf

    files = [str(path) for path in sorted(folder.iterdir())]
    for record in tf.data.TFRecordDataset(files).as_numpy_iterator():
        feature = tf.train.Example.FromString(record).features.feature
        questions = [text.decode() for text in feature["question"].bytes_list.value]
        answers = [text.decode() for text in feature["answer"].bytes_list.value]
        pixels = np.frombuffer(feature["image"].bytes_list.value[0], "<i4")
        yield pixels.reshape(224, 224, 3), list(zip(questions, answers, strict=True))
