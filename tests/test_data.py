"""generate, convert and check: what they make, and what each does when something goes
wrong."""

import gzip
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import (
    ROOT,
    TINY,
    TINY_SEED,
    clevr,
    contents,
    example,
    read_records,
    snapshot,
    write_records,
)
from PIL import Image

from clevr import convert as conversion
from clevr.__main__ import parse_arguments
from clevr.check import check
from clevr.convert import convert, read_pixels
from clevr.files import DataError
from clevr.generate import generate

ALL = {"train": None, "val": None}


def load(layout, kind, split):
    path = layout / kind / f"CLEVR_{split}_{kind}.json"
    return json.loads(path.read_text())[kind]


def image_name(split, index):
    return f"CLEVR_{split}_{index:06d}.png"


# generate


@pytest.mark.parametrize("split", TINY)
def test_layout_is_that_of_clevr(tiny_layout, split):
    names = [image_name(split, i) for i in range(TINY[split])]
    scenes = load(tiny_layout, "scenes", split)
    questions = load(tiny_layout, "questions", split)
    assert [scene["image_index"] for scene in scenes] == list(range(TINY[split]))
    assert [scene["image_filename"] for scene in scenes] == names
    asked_about = [question["image_filename"] for question in questions]
    assert asked_about == np.repeat(names, 10).tolist()
    keys = "image_index image_filename split objects relationships directions"
    assert scenes[0].keys() == set(keys.split())
    keys = "size color material shape rotation 3d_coords pixel_coords"
    assert scenes[0]["objects"][0].keys() == set(keys.split())
    keys = "image_index image_filename split question answer program question_index"
    assert questions[0].keys() == {*keys.split(), "question_family_index"}
    with Image.open(tiny_layout / "images" / split / names[-1]) as image:
        assert image.size == (480, 320)
        assert image.mode == "RGB"


def stop(out, count, end):
    """Starts to generate the tiny set, and ends that by the signal `end` once there are
    `count` images."""
    arguments = f"--train {TINY['train']} --val {TINY['val']} --seed {TINY_SEED}"
    job = subprocess.Popen(
        [sys.executable, "-m", "clevr", "generate", out, *arguments.split()],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A test run in the background ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while len(list(out.glob("images/train/CLEVR*"))) < count:
        assert job.poll() is None, job.stderr.read()
        time.sleep(0.02)
    if end is signal.SIGINT:  # Ctrl-C goes to the workers, too; a kill does not
        os.killpg(job.pid, end)
    else:
        os.kill(job.pid, end)
    assert "Traceback" not in job.communicate()[1]
    assert len(list(out.glob("images/train/CLEVR*"))) < TINY["train"]
    return job.returncode


def test_stopped_generation_ends_like_an_uninterrupted_one(tiny_layout, tmp_path):
    assert stop(tmp_path, 5, signal.SIGINT) == 130
    assert stop(tmp_path, 15, signal.SIGKILL) == -signal.SIGKILL
    for _ in range(2):
        generate(tmp_path, TINY, TINY_SEED, 2)
        assert contents(tmp_path) == contents(tiny_layout)
        (tmp_path / "images" / "val" / image_name("val", 3)).unlink()


def test_ctrl_c_still_works_after_generate(tmp_path, monkeypatch):
    monkeypatch.setattr("clevr.generate.ProcessPoolExecutor.map", None)  # fails
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(TypeError):
        generate(tmp_path, TINY, TINY_SEED, 1)
    assert signal.getsignal(signal.SIGINT) == handler


def test_generate_leaves_other_files_alone(tiny_layout, tiny_data):
    for folder, images, seed in (
        (tiny_layout, TINY, TINY_SEED + 1),
        (tiny_layout, {**TINY, "val": 7}, TINY_SEED),
        (tiny_data, TINY, TINY_SEED),
    ):
        before = snapshot(folder)
        with pytest.raises(DataError, match="name another folder"):
            generate(folder, images, seed, 1)
        assert snapshot(folder) == before


# convert


def check_records(data, layout, counts):
    """Compares all records with what they are made from."""
    for split, count in counts.items():
        pairs = {}
        for question in load(layout, "questions", split):
            pair = (question["question"], question["answer"])
            pairs.setdefault(question["image_filename"], []).append(pair)
        found = list(read_records(data / split))
        assert len(found) == count
        for i, (pixels, found_pairs) in enumerate(found):
            name = image_name(split, i)
            with Image.open(layout / "images" / split / name) as image:
                rgb = image.convert("RGB")
            expected = rgb.resize((224, 224), Image.Resampling.BILINEAR)
            assert (pixels == np.asarray(expected)).all()
            assert found_pairs == pairs[name]


def test_our_files_are_converted(tiny_layout, tiny_data):
    check_records(tiny_data, tiny_layout, TINY)


def test_files_of_other_generators_are_converted(tiny_layout, tmp_path):
    """The release has one line of JSON, other keys and alpha; CLEVR's generator has
    numbers and booleans; a Windows editor begins with a byte order mark."""
    layout = tmp_path / "other: [1]"
    data = tmp_path / "my data: [1]"
    shutil.copytree(tiny_layout, layout)
    raw = {"yes": True, "no": False, **{str(count): count for count in range(11)}}
    for split in TINY:
        questions = load(layout, "questions", split)
        for question in questions:
            question["answer"] = raw.get(question["answer"], question["answer"])
            question["questions"] = [{"image_filename": "none"}]
            question["weight"] = 1e-3
            question["extra"] = None
        path = layout / "questions" / f"CLEVR_{split}_questions.json"
        everything = {"info": {"questions": []}, "questions": questions, "more": [1]}
        path.write_text(json.dumps(everything), encoding="utf-8-sig")
        image = layout / "images" / split / image_name(split, 1)
        Image.open(image).convert("RGBA").save(image)
    counts = {"train": 40, "val": 5}
    convert(layout, data, counts, 2)
    check_records(data, tiny_layout, counts)
    assert (data / "source.txt").read_text() == "CLEVR v1.0\n"


def test_stopped_conversion_ends_like_an_uninterrupted_one(
    tiny_layout, tmp_path, monkeypatch
):
    monkeypatch.setattr(conversion, "SHARD_IMAGES", 5)
    layout = tmp_path / "layout"
    stopped = tmp_path / "stopped"
    shutil.copytree(tiny_layout, layout)
    image = layout / "images" / "train" / image_name("train", 22)
    away = image.rename(tmp_path / "away.png")
    with pytest.raises(DataError, match=image.name):
        convert(layout, stopped, ALL, 2)
    done = snapshot(stopped / "train")
    assert len(done) >= 4
    (stopped / "train" / ".train-00009-of-00010.tfrecords.0.part").write_text("half")
    away.rename(image)
    convert(layout, stopped, ALL, 2)
    assert done.items() <= snapshot(stopped / "train").items()
    convert(layout, tmp_path / "whole", ALL, 2)
    assert contents(stopped) == contents(tmp_path / "whole")
    before = snapshot(stopped / "train")
    convert(layout, stopped, ALL, 2)
    assert snapshot(stopped / "train") == before


def test_conversion_resumes_after_a_full_disk(tiny_layout, tmp_path):
    """A limit on the size of files fails as a full disk does: in the midst of a
    file."""
    job = subprocess.run(
        [sys.executable, "-m", "clevr", "convert", tiny_layout, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10**7, 10**7)),
    )
    assert job.returncode == 1
    error = job.stderr.splitlines()[-1]
    assert error.startswith("error: cannot write")
    assert "the same command again" in error
    assert "Traceback" not in job.stderr
    assert not any(path.is_file() for path in (tmp_path / "train").iterdir())
    clevr("convert", tiny_layout, tmp_path)
    check_records(tmp_path, tiny_layout, TINY)


def test_convert_wants_room(tiny_layout, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    with pytest.raises(DataError, match="make room"):
        convert(tiny_layout, tmp_path, ALL, 1)


def test_convert_leaves_other_records_alone(tiny_layout, tiny_data, tmp_path):
    theirs = tmp_path / "train" / "theirs.tfrecord-00000-of-00010"
    theirs.parent.mkdir()
    theirs.write_bytes(b"theirs")
    for data, images in ((tmp_path, ALL), (tiny_data, {"train": 3, "val": None})):
        before = snapshot(data)
        with pytest.raises(DataError, match="name another folder"):
            convert(tiny_layout, data, images, 1)
        assert snapshot(data) == before


IMAGE = "images/train/CLEVR_train_000002.png"
QUESTIONS = "questions/CLEVR_train_questions.json"


def replaced(old, new):
    return lambda content: content.replace(old, new)


@pytest.mark.parametrize(
    "name, change, message",
    [
        (IMAGE, lambda content: content[:9000], "cannot be read as an image"),
        (QUESTIONS, lambda content: content[:9000], "truncated or not JSON"),
        (QUESTIONS, lambda content: b"", "truncated or not JSON"),
        (QUESTIONS, replaced(b'"answer"', b'"reply"'), "question 1 lacks 'answer'"),
        (
            QUESTIONS,
            replaced(b'"answer": "yes"', b'"answer": 0.5'),
            "question .* not text",
        ),
        (QUESTIONS, replaced(b"n_000002", b"n_000000"), "not follow one another"),
        (QUESTIONS, replaced(b'"question": "', b'"question": "?", "": "'), "no word"),
    ],
)
def test_convert_names_what_is_wrong_with_the_source(
    tiny_layout, tmp_path, name, change, message
):
    shutil.copytree(tiny_layout, tmp_path / "set")
    path = tmp_path / "set" / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=f"{path.name}.*{message}") as error:
        convert(tmp_path / "set", tmp_path / "data", ALL, 2)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("data/*/*tfrecords"))


def test_convert_names_what_is_missing(tiny_layout, tmp_path):
    images = {"train": TINY["train"] + 1, "val": None}
    with pytest.raises(DataError, match="about 48 images, not 49"):
        convert(tiny_layout, tmp_path / "data", images, 1)
    shutil.copytree(tiny_layout, tmp_path / "set")
    (tmp_path / "set" / QUESTIONS).unlink()
    with pytest.raises(DataError, match="CLEVR_train_questions.json is missing"):
        convert(tmp_path / "set", tmp_path / "other", ALL, 1)


@pytest.fixture
def rgb():
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1"])
def test_images_are_read_as_rgb(rgb, tmp_path, mode):
    image = rgb.convert(mode)
    image.save(tmp_path / "image.tiff")
    expected = np.asarray(image.convert("RGB"))
    assert (read_pixels(tmp_path / "image.tiff") == expected).all()


def test_images_that_are_more_than_rgb_are_refused(rgb, tmp_path):
    transparent = rgb.convert("RGBA")
    transparent.putpixel((3, 5), (1, 2, 3, 128))
    transparent.save(tmp_path / "alpha.png")
    rgb.save(tmp_path / "color key.png", transparency=rgb.getpixel((0, 0)))
    gray = np.asarray(rgb.convert("L"), np.uint16)
    Image.fromarray(257 * gray).save(tmp_path / "16 bits.png")
    for mode in ("CMYK", "I", "F", "LAB"):
        rgb.convert(mode).save(tmp_path / f"{mode}.tiff")
    for path in tmp_path.iterdir():
        with pytest.raises(DataError, match=f"{path.name} .*RGB PNG"):
            read_pixels(path)


# check


def pixels(value):
    """An image, all 0 but for one value."""
    return value.to_bytes(4, "little", signed=True) + bytes(4 * (224 * 224 * 3 - 1))


def record(**changes):
    """A sound record but for the changes."""
    features = {
        "image": [pixels(0)],
        "question": [b"What  color is it ?", b"How many? "],
        "answer": [b"red", b"3"],
    }
    return example(**{**features, **changes})


SIZE = len(record()) + 16  # in its file: 12 bytes before it, 4 behind it
FLOATS = np.linspace(0, 1, 224 * 224 * 3, dtype="<f4").tobytes()
SWAPPED = np.arange(224 * 224 * 3).astype(np.uint8).astype(">i4").tobytes()


@pytest.fixture
def sound(tmp_path):
    """A sound folder, its files named as other tools name them."""
    for name in (
        "train/a.tfrecord-00000-of-00002",
        "train/a.tfrecord-00001-of-00002",
        "val/c.tfrecords",
    ):
        write_records(tmp_path / name, record(), record())
    (tmp_path / "val" / ".d.tfrecords.part").write_bytes(b"half-written")
    return tmp_path


def test_check_counts(sound):
    odd = record(image=[pixels(255)], answer=[b"blue", b"many"])
    write_records(sound / "train" / "b.tfrecord", odd)
    tally = check(sound)["train"]
    assert (tally.files, tally.images, tally.questions) == (3, 5, 10)
    assert tally.words == {"what", "color", "is", "it", "how", "many"}
    assert tally.answers_by_type() == {
        "color": {"red": 4, "blue": 1},
        "count": {"3": 4},
        "other": {"many": 1},
    }


@pytest.mark.parametrize(
    "bad, message",
    [
        (b"no example", "not a tf.train.Example"),
        (example(answer=[b"red"]), '"image" is missing'),
        (record(image=[]), "image holds 0 bytes values"),
        (record(image=[bytes(9)]), "image holds 9 bytes"),
        (record(image=[pixels(256)]), "from 0 to 256"),
        (record(image=[pixels(-1)]), "from -1 to 0"),
        (record(image=[FLOATS]), "as little-endian int32"),
        (record(image=[SWAPPED]), "as little-endian int32"),
        (record(answer=[b"red"]), "2 questions, 1 answers"),
        (record(question=[], answer=[]), "0 questions"),
        (record(question=[b"How?", b" ?! "]), 'question " [?]! " has no word'),
        (record(question=[b"", b"How?"]), 'question "" has no word'),
        (record(question=[b"\xff", b"How?"]), "'utf-8' codec"),
        (record(answer=[b"red", b"4"]), 'answer "4" does not occur in training'),
    ],
    ids=range(14),
)
def test_check_finds_bad_records(sound, bad, message):
    write_records(sound / "val" / "c.tfrecords", record(), bad, record())
    with pytest.raises(DataError, match=f"c.tfrecords: record 2: .*{message}") as error:
        check(sound)
    assert "\n" not in str(error.value)


def test_check_knows_the_answers_of_all_training_files(sound):
    write_records(sound / "val" / "c.tfrecords", record(answer=[b"red", b"4"]))
    write_records(sound / "train" / "z.tfrecords", record(answer=[b"red", b"4"]))
    assert check(sound)["val"].answers == {"red": 1, "4": 1}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda content: b"", "is empty"),
        (lambda content: content[:9], "has no readable record 1"),
        (lambda content: content[: SIZE + 5], "record 2 is corrupt or truncated"),
        (lambda content: content[: 2 * SIZE - 1], "record 2 is corrupt or truncated"),
        (lambda content: content[: 2 * SIZE - 2] + b"??", "record 2 is corrupt"),
        (lambda content: content[:99] + b"?" + content[100:], "no readable record 1"),
        (gzip.compress, "compressed .gzip.: gunzip"),
        (zlib.compress, "compressed .zlib.: decompress"),
        (lambda content: b"version https://git-lfs.github.com/spec/v1\n", "lfs pull"),
        (lambda content: b"\n<!DOCTYPE html><html>" + bytes(999), "a web page"),
        (lambda content: b"\xef\xbb\xbf<?xml version='1.0'?><Error>", "a web page"),
        (lambda content: b"\x89PNG\r\n\x1a\n" + bytes(999), "a PNG image"),
        (lambda content: b"\xff\xd8\xff\xe0" + bytes(999), "a JPEG image"),
        (lambda content: b"PK\x03\x04" + bytes(999), "a zip archive"),
    ],
)
def test_check_says_what_is_wrong_with_a_file(sound, change, message):
    path = sound / "val" / "c.tfrecords"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=f"c.tfrecords.*{message}") as error:
        check(sound)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "names, missing",
    [
        ("a-00000-of-00003.tfrecords a-00002-of-00003.tfrecords", "a-00001-of-00003"),
        ("a-00000-of-00002.tfrecords", "a-00001-of-00002"),
        ("b.tfrecord-1-of-3 b.tfrecord-3-of-3", "b.tfrecord-2-of-3"),
        ("b.tfrecord-2-of-3 b.tfrecord-3-of-3", "b.tfrecord-1-of-3"),
        ("c_01_of_02.tfrecord d_01_of_02.tfrecord d_00_of_02.tfrecord", "c_00_of_02"),
    ],
)
def test_check_names_a_missing_file(sound, names, missing):
    for name in names.split():
        write_records(sound / "val" / name, record())
    with pytest.raises(DataError, match=f"val/{missing}.* is missing"):
        check(sound)


def test_check_names_a_missing_split_and_a_missing_folder(sound):
    with pytest.raises(DataError, match="nowhere is not a folder"):
        check(sound / "nowhere")
    shutil.rmtree(sound / "train")
    with pytest.raises(DataError, match="train holds no .tfrecords files"):
        check(sound)


# The command line


def test_check_prints_what_there_is(tiny_data):
    output = clevr("check", tiny_data).stdout
    assert f"train: {TINY['train']} images with 480 questions" in output
    assert "yes/no" in output
    assert "material" in output


def test_errors_are_one_line(tiny_data):
    sizes = ("--train", 1, "--val", 1, "--seed", 1)
    refused = clevr("generate", tiny_data, *sizes, status=1)
    assert refused.stdout == ""
    assert refused.stderr.startswith(f"error: {tiny_data}")
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        "prepare ~/a --state ~/a",
        "generate ~/a --train 1 --val 1 --seed 1",
        "convert ~/a ~/a",
        "check ~/a",
    ],
)
def test_a_tilde_is_the_home_folder(monkeypatch, command):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setattr(sys, "argv", ["clevr", *command.split()])
    values = vars(parse_arguments()).values()
    paths = [value for value in values if isinstance(value, Path)]
    assert paths == command.count("~") * [Path("/home/somebody/a")]
