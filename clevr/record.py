"""What a record is: the tf.train.Example of an image with its questions and answers.
The notebook reads by the same rule."""

import string

import numpy as np
from google.protobuf.message import DecodeError

from .quiet_tensorflow import tf

SIDE = 224
IMAGE_BYTES = SIDE * SIDE * 3 * 4  # int32
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def words_of(question):
    """The words of a question, in lower case and without punctuation."""
    return question.lower().translate(NO_PUNCTUATION).split()


def make_record(pixels, pairs):
    """The bytes of a record, the same for the same arguments. `pixels` is little-endian
    int32 (224, 224, 3), `pairs` a list of (question, answer)."""
    example = tf.train.Example()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(pixels.tobytes())
    for question, answer in pairs:
        feature["question"].bytes_list.value.append(question.encode())
        feature["answer"].bytes_list.value.append(answer.encode())
    return example.SerializeToString(deterministic=True)


def parse_record(record):
    """The questions and answers of a record, as lists of strings; ValueError says what
    is wrong with it."""
    try:
        features = tf.train.Example.FromString(record).features.feature
    except DecodeError:
        raise ValueError("not a tf.train.Example") from None
    for name in ("image", "question", "answer"):
        if name not in features:
            raise ValueError(f'feature "{name}" is missing (it has {sorted(features)})')
    check_image(features["image"].bytes_list.value)
    questions = [text.decode() for text in features["question"].bytes_list.value]
    answers = [text.decode() for text in features["answer"].bytes_list.value]
    if not questions or len(questions) != len(answers):
        raise ValueError(
            f"{len(questions)} questions, {len(answers)} answers, not as many, from 1"
        )
    for question in questions:
        if not words_of(question):
            raise ValueError(f'question "{question}" has no word')
    return questions, answers


def check_image(values):
    """Raises ValueError unless these bytes values are one image of the right format."""
    if len(values) != 1:
        raise ValueError(f"image holds {len(values)} bytes values, not 1")
    if len(values[0]) != IMAGE_BYTES:
        raise ValueError(
            f"image holds {len(values[0])} bytes, not {IMAGE_BYTES} (224x224x3 int32)"
        )
    pixels = np.frombuffer(values[0], "<i4")
    if pixels.min() < 0 or pixels.max() > 255:
        raise ValueError(
            f"image has values from {pixels.min()} to {pixels.max()} as little-endian "
            "int32, not within 0 to 255"
        )
