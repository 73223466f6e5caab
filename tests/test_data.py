"""The road of the data: generate, convert, check, and what each does when something goes wrong."""

import itertools
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, TINY, TINY_SEED
from PIL import Image

from clevr import tfrecords
from clevr.generate import generate
from clevr.official import DataError

ANSWERS = {"yes", "no", *map(str, range(11)), "large", "small", "rubber", "metal", "cube", "sphere",
           "cylinder", "gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"}


def snapshot(folder):
    """All files of a folder: {relative path: (content, time of change)}."""
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in folder.rglob("*") if path.is_file()}


def contents(folder):
    return {name: content for name, (content, _) in snapshot(folder).items()}


def load(layout, kind, split):
    return json.loads((layout / kind / f"CLEVR_{split}_{kind}.json").read_text())


# A reader of TFRecords and tf.train.Example from their published formats, independent of TensorFlow.

def read_tfrecords(path):
    data, at = path.read_bytes(), 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        yield read_example(data[at + 12:at + 12 + length])
        at += length + 16


def read_example(record):
    features = dict(fields(record))[1]
    example = {}
    for _, entry in fields(features):
        name, feature = (value for _, value in sorted(fields(entry)))
        (_, values), = fields(feature)
        example[name.decode()] = [value for _, value in fields(values)]
    return example


def fields(message):
    """(field number, bytes) of the length-delimited fields of a protocol buffer."""
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        assert key & 7 == 2
        length, at = varint(message, at)
        yield key >> 3, message[at:at + length]
        at += length


def varint(message, at):
    value = shift = 0
    while True:
        value |= (message[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 128:
            return value, at


def records_of(data, split):
    return [example for path in sorted((data / split).glob("*tfrecords"))
            for example in read_tfrecords(path)]


def expected_records(layout, split, limit=None):
    """What the records must hold, straight from the layout."""
    pairs = {}
    for question in load(layout, "questions", split)["questions"]:
        pairs.setdefault(question["image_filename"], []).append(question)
    expected = []
    for name, questions in list(pairs.items())[:limit]:
        picture = Image.open(layout / "images" / split / name).convert("RGB")
        pixels = np.array(picture.resize((224, 224), Image.Resampling.BILINEAR))
        assert pixels.shape == (224, 224, 3)
        expected.append({"image": [pixels.astype("<i4").tobytes()],
                         "question": [q["question"].encode() for q in questions],
                         "answer": [q["answer"].encode() for q in questions]})
    return expected


# The layout

@pytest.mark.parametrize("split", TINY)
def test_layout_is_that_of_clevr(tiny_layout, split):
    names = [f"CLEVR_{split}_{i:06d}.png" for i in range(TINY[split])]
    assert sorted(os.listdir(tiny_layout / "images" / split)) == names
    for name in names:
        with Image.open(tiny_layout / "images" / split / name) as picture:
            assert (picture.size, picture.mode) == ((480, 320), "RGB")

    file = load(tiny_layout, "scenes", split)
    assert file.keys() == {"info", "scenes"} and file["info"]["split"] == split
    assert [scene["image_filename"] for scene in file["scenes"]] == names
    for i, scene in enumerate(file["scenes"]):
        assert scene.keys() == {"image_index", "image_filename", "split", "objects", "relationships",
                                "directions"}
        assert (scene["image_index"], scene["split"]) == (i, split)
        count = len(scene["objects"])
        assert 3 <= count <= 10
        for thing in scene["objects"]:
            assert thing.keys() == {"size", "color", "material", "shape", "3d_coords",
                                    "pixel_coords", "rotation"}
            assert len(thing["3d_coords"]) == len(thing["pixel_coords"]) == 3
            assert {thing[key] for key in ("size", "color", "material", "shape")} <= ANSWERS
        assert scene["directions"].keys() == {"left", "right", "front", "behind", "above", "below"}
        assert all(len(vector) == 3 for vector in scene["directions"].values())
        assert scene["relationships"].keys() == {"left", "right", "front", "behind"}
        for rows in scene["relationships"].values():
            assert len(rows) == count
            assert all(set(row) <= set(range(count)) - {i} for i, row in enumerate(rows))

    file = load(tiny_layout, "questions", split)
    assert file.keys() == {"info", "questions"} and file["info"]["split"] == split
    for i, question in enumerate(file["questions"]):
        assert question.keys() == {"image_index", "image_filename", "split", "question", "answer",
                                   "question_index", "question_family_index", "program"}
        assert (question["question_index"], question["split"]) == (i, split)
        assert question["image_filename"] == names[question["image_index"]]
        assert question["answer"] in ANSWERS and question["question"].endswith("?")
        assert question["question_family_index"] in range(90)
        for place, node in enumerate(question["program"]):
            assert node.keys() == {"function", "inputs", "value_inputs"}
            assert all(0 <= source < place for source in node["inputs"])
    indices = [question["image_index"] for question in file["questions"]]
    assert np.bincount(indices).tolist() == [10] * TINY[split]


def test_interrupted_and_killed_generation_ends_as_an_unbroken_one(tiny_layout, tmp_path):
    command = [sys.executable, "-m", "clevr", "generate", tmp_path, "--train", TINY["train"],
               "--val", TINY["val"], "--seed", TINY_SEED, "--workers", 1]
    for number, end in ((5, signal.SIGINT), (15, signal.SIGKILL)):
        # Whoever started the tests in the background made them, and so their children, deaf to Ctrl-C.
        job = subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE, text=True,
                               start_new_session=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
        while len(list(tmp_path.glob("images/train/CLEVR*"))) < number:
            assert job.poll() is None, job.stderr.read()
            time.sleep(0.02)
        if end is signal.SIGINT:
            os.killpg(job.pid, end)     # as Ctrl-C does, to the workers too
        else:
            job.send_signal(end)
        errors = job.communicate()[1]
        assert job.returncode == (130 if end is signal.SIGINT else -end)
        assert "Traceback" not in errors
        assert "goes on from here" in errors or end is signal.SIGKILL
        assert len(list(tmp_path.glob("images/train/CLEVR*"))) < TINY["train"]
        for picture in tmp_path.glob("images/train/CLEVR*"):
            Image.open(picture).load()
    generate(tmp_path, TINY, TINY_SEED, 1)
    assert contents(tmp_path) == contents(tiny_layout)


def test_deleted_pictures_come_back(tiny_layout, tmp_path):
    shutil.copytree(tiny_layout, tmp_path / "set")
    for i in (0, TINY["val"] - 1):
        (tmp_path / "set" / "images" / "val" / f"CLEVR_val_{i:06d}.png").unlink()
    generate(tmp_path / "set", TINY, TINY_SEED, 1)
    assert contents(tmp_path / "set") == contents(tiny_layout)


@pytest.mark.parametrize("images, seed", [(TINY, TINY_SEED + 1), ({**TINY, "train": 49}, TINY_SEED),
                                          ({**TINY, "val": 7}, TINY_SEED)])
def test_another_set_into_the_same_folder_is_refused(tiny_layout, images, seed):
    before = snapshot(tiny_layout)
    with pytest.raises(DataError, match="was made with seed"):
        generate(tiny_layout, images, seed, 1)
    assert snapshot(tiny_layout) == before


def test_generate_leaves_a_foreign_folder_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="not made by this command"):
        generate(tmp_path, TINY, TINY_SEED, 1)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_generate_does_without_tensorflow():
    code = "import sys, clevr.__main__, clevr.generate; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# The records

@pytest.mark.parametrize("split", TINY)
def test_records_hold_the_layout_pixel_for_pixel(tiny_layout, tiny_data, split):
    expected = expected_records(tiny_layout, split)
    assert records_of(tiny_data, split) == expected
    # And as the coursework reads them.
    files = [str(path) for path in sorted((tiny_data / split).glob("*tfrecords"))]
    for record, wanted in zip(tf.data.TFRecordDataset(files), expected, strict=True):
        parsed = tf.io.parse_single_example(record, {
            "image": tf.io.FixedLenFeature((), tf.string),
            "question": tf.io.VarLenFeature(tf.string), "answer": tf.io.VarLenFeature(tf.string)})
        pixels = tf.reshape(tf.io.decode_raw(parsed["image"], tf.int32), (224, 224, 3))
        assert pixels.numpy().tobytes() == wanted["image"][0]
        assert tf.sparse.to_dense(parsed["question"]).numpy().tolist() == wanted["question"]
        assert tf.sparse.to_dense(parsed["answer"]).numpy().tolist() == wanted["answer"]


def test_official_files_are_taken_as_they_are(tiny_layout, tmp_path):
    """One line of JSON, keys that we do not write, pictures with an alpha channel."""
    shutil.copytree(tiny_layout, tmp_path / "official")
    for split in TINY:
        path = tmp_path / "official" / "questions" / f"CLEVR_{split}_questions.json"
        file = json.loads(path.read_text())
        for question in file["questions"]:
            question |= {"questions": [{"image_filename": "none"}], "weight": 1e-3, "extra": None}
        path.write_text(json.dumps({"info": {"questions": []}, "questions": file["questions"],
                                    "more": [1]}, separators=(",", ":")))
        picture = tmp_path / "official" / "images" / split / f"CLEVR_{split}_000001.png"
        Image.open(picture).convert("RGBA").save(picture)
    tfrecords.convert(tmp_path / "official", tmp_path / "data", 3, 2)
    for split in TINY:
        assert records_of(tmp_path / "data", split) == expected_records(tiny_layout, split, 3)


def test_killed_conversion_ends_as_an_unbroken_one(tiny_layout, tmp_path, monkeypatch):
    code = """if True:
        import itertools, os, signal, sys
        from clevr import tfrecords
        tfrecords.SHARD_IMAGES, whole, count = 5, tfrecords.read_pixels, itertools.count(1)
        def read_pixels(path):
            if next(count) == 23:
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(path)
        tfrecords.read_pixels = read_pixels
        tfrecords.convert(sys.argv[1], sys.argv[2], None, 2)"""
    killed, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    job = subprocess.run([sys.executable, "-c", code, tiny_layout, killed], cwd=ROOT)
    assert job.returncode == -signal.SIGKILL
    done = snapshot(killed / "train")
    whole = {name for name in done if name.endswith("tfrecords")}
    assert 3 <= len(whole) <= 4 and len(done) > len(whole)
    with pytest.raises(DataError, match="interrupted|no .tfrecords"):
        tfrecords.check(killed)

    monkeypatch.setattr(tfrecords, "SHARD_IMAGES", 5)
    tfrecords.convert(tiny_layout, unbroken, None, 1)
    assert all(done[name][0] == contents(unbroken / "train")[name] for name in whole)
    tfrecords.convert(tiny_layout, killed, None, 2)
    assert contents(killed) == contents(unbroken)
    assert all(snapshot(killed / "train")[name] == done[name] for name in whole)
    # Once more: nothing is left to do.
    before = snapshot(killed)
    tfrecords.convert(tiny_layout, killed, None, 2)
    assert snapshot(killed) == before
    # And a file that was deleted comes back.
    sorted(killed.glob("train/*tfrecords"))[1].unlink()
    tfrecords.convert(tiny_layout, killed, None, 2)
    assert contents(killed) == contents(unbroken)


def test_convert_refuses_another_source_or_limit(tiny_layout, tiny_data, tmp_path):
    before = snapshot(tiny_data)
    with pytest.raises(DataError, match="another source or limit"):
        tfrecords.convert(tiny_layout, tiny_data, 3, 1)
    assert snapshot(tiny_data) == before
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "theirs.tfrecords").write_bytes(b"theirs")
    with pytest.raises(DataError, match="did not write"):
        tfrecords.convert(tiny_layout, tmp_path, None, 1)
    assert contents(tmp_path) == {"train/theirs.tfrecords": b"theirs"}


def test_convert_wants_room_on_the_disk(tiny_layout, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10 ** 6))
    with pytest.raises(DataError, match="needs 0.0 GB more, but its disk has 0.0: make room"):
        tfrecords.convert(tiny_layout, tmp_path / "data", None, 1)
    assert not list(tmp_path.glob("data/*/*tfrecords"))


def no_picture(layout):
    (layout / "images" / "train" / "CLEVR_train_000002.png").unlink()


def torn_picture(layout):
    picture = layout / "images" / "train" / "CLEVR_train_000002.png"
    picture.write_bytes(picture.read_bytes()[:9000])


def torn_questions(layout):
    path = layout / "questions" / "CLEVR_train_questions.json"
    path.write_bytes(path.read_bytes()[:9000])


def no_answers(layout):
    path = layout / "questions" / "CLEVR_train_questions.json"
    path.write_text(path.read_text().replace('"answer"', '"reply"'))


def scattered_questions(layout):
    path = layout / "questions" / "CLEVR_train_questions.json"
    file = json.loads(path.read_text())
    file["questions"].append(file["questions"][0])
    path.write_text(json.dumps(file))


def no_questions(layout):
    (layout / "questions" / "CLEVR_val_questions.json").unlink()


@pytest.mark.parametrize("harm, message", [
    (no_picture, "CLEVR_train_000002.png is no whole picture .No such file"),
    (torn_picture, "CLEVR_train_000002.png is no whole picture"),
    (torn_questions, "CLEVR_train_questions.json: torn or not JSON"),
    (no_answers, "CLEVR_train_questions.json: question 1 lacks 'answer'"),
    (scattered_questions, "CLEVR_train_questions.json: .* CLEVR_train_000000.png do not follow"),
    (no_questions, "CLEVR_val_questions.json is missing")])
def test_convert_names_what_is_wrong_with_the_source(tiny_layout, tmp_path, harm, message):
    shutil.copytree(tiny_layout, tmp_path / "set")
    harm(tmp_path / "set")
    with pytest.raises(DataError, match=message) as fault:
        tfrecords.convert(tmp_path / "set", tmp_path / "data", None, 2)
    assert "\n" not in str(fault.value)
    assert not list(tmp_path.glob("data/*/*tfrecords"))


# The check

GOOD = {"image": [bytes(224 * 224 * 3 * 4)], "question": [b"What color is it?", b"How many?"],
        "answer": [b"red", b"3"]}


def example(**changes):
    """The bytes of a good record but for the changes; None leaves a feature out."""
    values = {name: value for name, value in (GOOD | changes).items() if value is not None}
    return tf.train.Example(features=tf.train.Features(feature={
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
        for name, value in values.items()})).SerializeToString()


def pixel(value):
    image = np.zeros((224, 224, 3), "<i4")
    image[100, 50, 2] = value
    return [image.tobytes()]


def write(path, records):
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


@pytest.fixture
def sound(tmp_path):
    """A sound folder: two files of training, one of validation."""
    write(tmp_path / "train" / "a.tfrecords", [example()] * 2)
    write(tmp_path / "train" / "b.tfrecords", [example()] * 3)
    write(tmp_path / "val" / "c.tfrecords", [example()] * 2)
    return tmp_path


def test_check_counts(sound):
    write(sound / "train" / "d.tfrecords", [example(image=pixel(255), answer=[b"blue", b"3"])])
    tally = tfrecords.check(sound)["train"]
    assert (tally.files, tally.images, tally.questions) == (3, 6, 12)
    assert tally.words == {"what", "color", "is", "it", "how", "many"}
    assert tally.answers == {"red": 5, "3": 6, "blue": 1}


@pytest.mark.parametrize("record, message", [
    (b"no example", "record 2: not a tf.train.Example"),
    (example(image=None), 'record 2: feature "image" is missing'),
    (example(question=None), 'record 2: feature "question" is missing'),
    (example(answer=None), 'record 2: feature "answer" is missing'),
    (example(image=[bytes(224 * 224 * 3)]), "record 2: image holds .150528. bytes"),
    (example(image=[]), "record 2: image holds .. bytes"),
    (example(image=pixel(256)), "record 2: image has values from 0 to 256"),
    (example(image=pixel(-1)), "record 2: image has values from -1 to 0"),
    (example(answer=[b"red"]), "record 2: 2 questions and 1 answers"),
    (example(question=[], answer=[]), "record 2: 0 questions and 0 answers"),
    (example(question=[b"\xff", b"?"]), "record 2: text is not UTF-8")], ids=itertools.count())
@pytest.mark.parametrize("split", TINY)
def test_check_finds_a_bad_record(sound, split, record, message):
    write(sound / split / "b.tfrecords", [example(), record, example()])
    with pytest.raises(DataError, match=f"{split}/b.tfrecords: {message}") as fault:
        tfrecords.check(sound)
    assert "\n" not in str(fault.value)


def test_check_finds_an_answer_that_training_lacks(sound):
    write(sound / "val" / "c.tfrecords", [example(), example(answer=[b"red", b"4"])])
    with pytest.raises(DataError, match='val/c.tfrecords: record 2: answer "4"'):
        tfrecords.check(sound)


SIZE = len(example()) + 16      # of a record in its file: 12 bytes before it, 4 behind it


@pytest.mark.parametrize("keep", [SIZE + 5, SIZE + 100, 2 * SIZE - 1])
def test_check_finds_a_torn_record(sound, keep):
    path = sound / "train" / "b.tfrecords"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="train/b.tfrecords: record 2: torn"):
        tfrecords.check(sound)


@pytest.mark.parametrize("place", [SIZE + 3, SIZE + 9, SIZE + 5000, 2 * SIZE - 2])
def test_check_finds_a_changed_byte(sound, place):
    path = sound / "train" / "b.tfrecords"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="train/b.tfrecords: record 2: bad CRC"):
        tfrecords.check(sound)


def test_check_finds_an_empty_file(sound):
    (sound / "train" / "b.tfrecords").write_bytes(b"")
    with pytest.raises(DataError, match="train/b.tfrecords: empty"):
        tfrecords.check(sound)


@pytest.mark.parametrize("split", TINY)
def test_check_finds_that_there_are_no_files(sound, split):
    shutil.rmtree(sound / split)
    with pytest.raises(DataError, match=f"{split} holds no .tfrecords files"):
        tfrecords.check(sound)


# The command line

def test_check_prints_what_there_is(clevr, tiny_data):
    lines = clevr("check", tiny_data).stdout.splitlines()
    assert lines[0] == f"train: {TINY['train']} images with {10 * TINY['train']} questions, files: 1"
    assert lines[1] == f"val: {TINY['val']} images with {10 * TINY['val']} questions, files: 1"
    words = {word for example in records_of(tiny_data, "train") for question in example["question"]
             for word in question.decode().lower().translate(str.maketrans("", "", "?;,")).split()}
    answers = {answer.decode() for example in records_of(tiny_data, "train")
               for answer in example["answer"]}
    assert lines[2].startswith(f"vocabulary of training: {len(words)} words")
    assert lines[3] == f"answer classes: {len(answers)}: {' '.join(sorted(answers))}"


def test_errors_are_one_line_and_exit_status_1(clevr, sound):
    (sound / "train" / "b.tfrecords").write_bytes(b"")
    for command, file in ((["check", sound], "b.tfrecords"), (["convert", sound, sound], "images"),
                          (["generate", sound, "--train", 1, "--val", 1, "--seed", 1], str(sound))):
        done = clevr(*command, status=1)
        assert done.stdout == "" and "Traceback" not in done.stderr
        *bars, error = done.stderr.splitlines()
        assert error.startswith("error: ") and file in error
        assert all("checking" in bar or not bar for bar in bars)


@pytest.mark.parametrize("command", ["generate", "convert", "check"])
def test_help_teaches_by_example(clevr, command):
    assert f"python -m clevr {command} " in clevr(command, "--help").stdout.partition("example")[2]
