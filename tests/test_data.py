"""generate, convert and check: what they make, and what each does when something goes wrong."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
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

from clevr import tfrecords, workers
from clevr.generate import generate
from clevr.layout import DataError


def load(layout, kind, split):
    return json.loads((layout / kind / f"CLEVR_{split}_{kind}.json").read_text())[kind]


def check_records(data, layout, limit=None):
    """Compares all records with what they are made from."""
    for split, count in TINY.items():
        questions, found = (
            load(layout, "questions", split),
            list(read_records(data / split)),
        )
        assert len(found) == min(count, limit or count)
        for i, (pixels, pairs) in enumerate(found):
            name = f"CLEVR_{split}_{i:06d}.png"
            with Image.open(layout / "images" / split / name) as image:
                expected = image.convert("RGB").resize(
                    (224, 224), Image.Resampling.BILINEAR
                )
            assert (pixels == np.asarray(expected)).all()
            assert pairs == [
                (question["question"], question["answer"])
                for question in questions
                if question["image_filename"] == name
            ]


@pytest.mark.parametrize("split", TINY)
def test_layout_is_that_of_clevr(tiny_layout, split):
    names = [f"CLEVR_{split}_{i:06d}.png" for i in range(TINY[split])]
    scenes, questions = (
        load(tiny_layout, kind, split) for kind in ("scenes", "questions")
    )
    assert [
        (scene["image_index"], scene["image_filename"]) for scene in scenes
    ] == list(enumerate(names))
    assert [question["image_filename"] for question in questions] == np.repeat(
        names, 10
    ).tolist()
    for found, keys in (
        (
            scenes[0],
            "image_index image_filename split objects relationships directions",
        ),
        (
            scenes[0]["objects"][0],
            "size color material shape rotation 3d_coords pixel_coords",
        ),
        (
            questions[0],
            "image_index image_filename split question answer program question_index "
            "question_family_index",
        ),
    ):
        assert found.keys() == {*keys.split()}
    with Image.open(tiny_layout / "images" / split / names[-1]) as image:
        assert (image.size, image.mode) == ((480, 320), "RGB")


def test_interrupted_and_killed_generation_ends_like_an_uninterrupted_one(
    tiny_layout, tmp_path
):
    arguments = (
        f"--train {TINY['train']} --val {TINY['val']} --seed {TINY_SEED} --workers 1"
    )
    command = [
        sys.executable,
        "-m",
        "clevr",
        "generate",
        str(tmp_path),
        *arguments.split(),
    ]
    for count, end, status in (
        (5, signal.SIGINT, 130),
        (15, signal.SIGKILL, -signal.SIGKILL),
    ):
        # A test run in the background ignores Ctrl-C, and so would its children.
        job = subprocess.Popen(
            command,
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        while len(list(tmp_path.glob("images/train/CLEVR*"))) < count:
            assert job.poll() is None, job.stderr.read()
            time.sleep(0.02)
        # Ctrl-C goes to the workers, too; a kill does not.
        (os.killpg if end is signal.SIGINT else os.kill)(job.pid, end)
        assert "Traceback" not in job.communicate()[1] and job.returncode == status
        assert len(list(tmp_path.glob("images/train/CLEVR*"))) < TINY["train"]
    for _ in range(2):
        generate(tmp_path, TINY, TINY_SEED, 2)
        assert contents(tmp_path) == contents(tiny_layout)
        (tmp_path / "images" / "val" / "CLEVR_val_000003.png").unlink()


def test_generate_leaves_other_files_alone(tiny_layout, tiny_data):
    for folder, images, seed in (
        (tiny_layout, TINY, TINY_SEED + 1),
        (tiny_data, TINY, TINY_SEED),
        (tiny_layout, {**TINY, "val": 7}, TINY_SEED),
    ):
        before = snapshot(folder)
        with pytest.raises(DataError, match="name another folder"):
            generate(folder, images, seed, 1)
        assert snapshot(folder) == before


@pytest.mark.parametrize(
    "count, limits",
    [
        (
            48,
            {
                "a/b/cpu.max": "max 100000",
                "a/memory.max": "max",
                "cpu/job/cpu.cfs_quota_us": "-1",
            },
        ),
        (3, {"a/cpu.max": "350000 100000"}),
        (1, {"memory.max": "1000000"}),
        (12, {"cpu/cpu.cfs_quota_us": "1200000", "cpu/cpu.cfs_period_us": "100000"}),
        (8, {"memory/job/memory.limit_in_bytes": "4000000000"}),
    ],
)
def test_workers_are_limited_by_cpus_quotas_and_memory(
    tmp_path, monkeypatch, count, limits
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(48), raising=False)
    monkeypatch.setattr(
        os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**24}.get
    )
    limits["../../../proc/self/cgroup"] = (
        "4:cpu,cpuacct:/job\n3:memory:/job/step\n0::/a/b"
    )
    for name, text in limits.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert workers.default_workers(tmp_path) == count


def test_files_of_ours_and_of_other_generators_are_converted(
    tiny_layout, tiny_data, tmp_path
):
    """The release's: one line of JSON, other keys, alpha. CLEVR's generator's: numbers and booleans."""
    check_records(tiny_data, tiny_layout)
    layout, data = tmp_path / "other: [1]", tmp_path / "my data: [1]"
    shutil.copytree(tiny_layout, layout)
    raw = {"yes": True, "no": False, **{str(count): count for count in range(11)}}
    for split in TINY:
        questions = [
            question
            | {
                "questions": [{"image_filename": "none"}],
                "weight": 1e-3,
                "extra": None,
                "answer": raw.get(question["answer"], question["answer"]),
            }
            for question in load(layout, "questions", split)
        ]
        path = layout / "questions" / f"CLEVR_{split}_questions.json"
        path.write_text(
            json.dumps({"info": {"questions": []}, "questions": questions, "more": [1]})
        )
        image = layout / "images" / split / f"CLEVR_{split}_000001.png"
        Image.open(image).convert("RGBA").save(image)
    tfrecords.convert(layout, data, 40, 2)
    check_records(data, tiny_layout, 40)
    assert tfrecords.check(data)["train"].images == 40


def test_stopped_conversion_ends_like_an_uninterrupted_one(
    tiny_layout, tmp_path, monkeypatch
):
    monkeypatch.setattr(tfrecords, "SHARD_IMAGES", 5)
    layout, stopped, whole = (
        tmp_path / name for name in ("layout", "stopped", "whole")
    )
    shutil.copytree(tiny_layout, layout)
    image = (layout / "images" / "train" / "CLEVR_train_000022.png").rename(
        tmp_path / "away.png"
    )
    with pytest.raises(DataError, match="CLEVR_train_000022.png"):
        tfrecords.convert(layout, stopped, None, 2)
    done = {
        name: state
        for name, state in snapshot(stopped).items()
        if name.startswith("train/train")
    }
    image.rename(layout / "images" / "train" / "CLEVR_train_000022.png")
    for data in (stopped, whole, stopped):  # the third time, nothing is left to do
        tfrecords.convert(layout, data, None, 2)
    assert contents(stopped) == contents(whole) and len(done) >= 4
    assert done.items() <= snapshot(stopped).items()


def test_convert_leaves_other_records_alone_and_wants_room(
    tiny_layout, tiny_data, tmp_path, monkeypatch
):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "theirs.tfrecord-00000-of-00010").write_bytes(b"theirs")
    for data, limit in ((tiny_data, 3), (tmp_path, None)):
        before = snapshot(data)
        with pytest.raises(DataError, match="another source or limit"):
            tfrecords.convert(tiny_layout, data, limit, 1)
        assert snapshot(data) == before
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    with pytest.raises(DataError, match="make room"):
        tfrecords.convert(tiny_layout, tmp_path / "data", None, 1)


IMAGE, QUESTIONS = (
    "images/train/CLEVR_train_000002.png",
    "questions/CLEVR_train_questions.json",
)


@pytest.mark.parametrize(
    "name, change, message",
    [
        (IMAGE, lambda content: content[:9000], "cannot be read as an image"),
        (QUESTIONS, None, "is missing"),
        (QUESTIONS, lambda content: content[:9000], "truncated or not JSON"),
        (
            QUESTIONS,
            lambda content: content.replace(b'"answer"', b'"reply"'),
            "question 1 lacks 'answer'",
        ),
        (
            QUESTIONS,
            lambda content: content.replace(b'"answer": "yes"', b'"answer": 0.5'),
            "question .* not",
        ),
        (
            QUESTIONS,
            lambda content: content.replace(b"n_000002", b"n_000000"),
            "do not follow one another",
        ),
    ],
)
def test_convert_names_what_is_wrong_with_the_source(
    tiny_layout, tmp_path, name, change, message
):
    shutil.copytree(tiny_layout, tmp_path / "set")
    path = tmp_path / "set" / name
    path.write_bytes(change(path.read_bytes())) if change else path.unlink()
    with pytest.raises(DataError, match=f"{path.name}.*{message}") as error:
        tfrecords.convert(tmp_path / "set", tmp_path / "data", None, 2)
    assert "\n" not in str(error.value) and not list(tmp_path.glob("data/*/*tfrecords"))


def test_images_are_right_or_refused(tmp_path):
    rgb = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    )
    for mode in ("RGB", "RGBA", "P", "L", "LA", "1"):
        rgb.convert(mode).save(path := tmp_path / "right.tiff")
        assert (
            tfrecords.read_pixels(path) == np.asarray(rgb.convert(mode).convert("RGB"))
        ).all(), mode
    transparent, gray = rgb.convert("RGBA"), np.asarray(rgb.convert("L"), np.uint16)
    transparent.putpixel((3, 5), (1, 2, 3, 128))
    wrong = (
        transparent,
        Image.fromarray(257 * gray),
        *map(rgb.convert, ("CMYK", "I", "F", "LAB")),
    )
    for i, image in enumerate(wrong):
        image.save(tmp_path / f"wrong {i}.tiff")
    rgb.save(tmp_path / "wrong color key.png", transparency=rgb.getpixel((0, 0)))
    for path in tmp_path.glob("wrong*"):
        with pytest.raises(DataError, match=f"{path.name} .*RGB PNG"):
            tfrecords.read_pixels(path)


def record(**changes):
    """A sound record but for the changes."""
    return example(
        **{
            "image": pixel(0),
            "question": [b"What  color is it ?", b"How many? "],
            "answer": [b"red", b"3"],
            **changes,
        }
    )


def pixel(value):
    return [value.to_bytes(4, "little", signed=True) + bytes(4 * (224 * 224 * 3 - 1))]


SIZE = len(record()) + 16  # in its file: 12 bytes before it, 4 behind it


@pytest.fixture
def sound(tmp_path):
    """A sound folder, its files named as other tools name them."""
    for name in (
        "train/a.tfrecord-00000-of-00010",
        "train/b.tfrecord",
        "val/c.tfrecords",
    ):
        write_records(tmp_path / name, record(), record())
    (tmp_path / "val" / ".d.tfrecords.part").write_bytes(b"half-written")
    return tmp_path


def test_check_counts_and_finds_that_files_are_missing(sound):
    write_records(
        sound
        / "train"
        / "train-00001-of-00003.tfrecords",  # a part of somebody's will do
        record(image=pixel(255), answer=[b"blue", b"many"]),
    )
    tally = tfrecords.check(sound)["train"]
    assert (tally.files, tally.images, tally.questions) == (3, 5, 10)
    assert tally.words == {"what", "color", "is", "it", "how", "many"}
    assert tally.answers_by_type() == {
        "color": {"red": 4, "blue": 1},
        "count": {"3": 4},
        "other": {"many": 1},
    }
    (sound / "convert.json").write_text("{}")
    with pytest.raises(DataError, match="train lacks files"):
        tfrecords.check(sound)
    shutil.rmtree(sound / "train")
    with pytest.raises(DataError, match="train holds no .tfrecords files"):
        tfrecords.check(sound)


@pytest.mark.parametrize(
    "bad, message",
    [
        (b"no example", "not a tf.train.Example"),
        (example(answer=[b"red"]), '"image" is missing'),
        (record(image=[bytes(9)]), "image holds .9. bytes"),
        (record(image=pixel(256)), "from 0 to 256"),
        (record(image=pixel(-1)), "from -1 to 0"),
        (record(answer=[b"red"]), "2 questions and 1 answers"),
        (record(question=[], answer=[]), "0 questions"),
        (record(question=[b"\xff", b"?"]), "'utf-8' codec"),
        (record(answer=[b"red", b"4"]), 'answer "4" does not occur in training'),
        (lambda content: content[: SIZE + 5], "record 2: truncated"),
        (lambda content: b"", "empty"),
        (lambda content: content[: 2 * SIZE - 1], "record 2: truncated"),
        (
            lambda content: content[: 2 * SIZE - 2] + b"??" + content[2 * SIZE :],
            "record 2: bad CRC",
        ),
        (gzip.compress, "compressed .gzip.: gunzip"),
        (zlib.compress, "compressed .zlib.: decompress"),
    ],
    ids=range(15),
)
def test_check_finds_bad_records_and_files(sound, bad, message):
    """The second record of a file is another one, or its file's content is changed."""
    path = sound / "val" / "c.tfrecords"
    write_records(path, record(), record() if callable(bad) else bad, record())
    path.write_bytes(bad(path.read_bytes()) if callable(bad) else path.read_bytes())
    with pytest.raises(DataError, match=f"val/c.tfrecords.*{message}") as error:
        tfrecords.check(sound)
    assert "\n" not in str(error.value)


def test_check_prints_what_there_is_and_errors_are_one_line(tiny_data):
    output = clevr("check", tiny_data).stdout
    assert (
        f"train: {TINY['train']} images with {10 * TINY['train']} questions" in output
    )
    assert "yes/no" in output and "material" in output
    refused = clevr(
        "generate", tiny_data, "--train", 1, "--val", 1, "--seed", 1, status=1
    )
    assert refused.stdout == "" and refused.stderr.startswith(f"error: {tiny_data}")
    assert refused.stderr.count("\n") == 1
