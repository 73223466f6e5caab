"""The accuracy of a saved model on its sampled validation pairs, without the notebook: python tests/alone.py
RUN DATA. Exit status 1 if it is not the one in RUN/evaluation.json."""

import json
import os
import string
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import film_layers  # noqa: E402, F401  (registers the layers)

run, data = map(Path, sys.argv[1:])
settings, evaluation = (
    json.loads((run / f"{name}.json").read_text())
    for name in ("settings", "evaluation")
)
model = keras.models.load_model(
    max(run.glob("epoch_*.keras"), key=lambda path: int(path.stem[6:]))
)
token_of = {word: token for token, word in enumerate(settings["vocabulary"])}
images, questions, truth = [], [], []
files = sorted(map(str, (data / "val").glob("[!.]*tfrecord*")))
for i, record in enumerate(tf.data.TFRecordDataset(files)):
    feature = tf.train.Example.FromString(record.numpy()).features.feature
    texts, answers = (feature[name].bytes_list.value for name in ("question", "answer"))
    seed = tf.random.fold_in(tf.random.fold_in((settings["seed"], 0), 0), i)
    pair = int(tf.random.stateless_uniform((), seed, maxval=len(texts), dtype=tf.int32))
    images.append(
        np.frombuffer(feature["image"].bytes_list.value[0], "<i4").astype("uint8")
    )
    words = (
        texts[pair]
        .decode()
        .lower()
        .translate(str.maketrans("", "", string.punctuation))
        .split()
    )
    questions.append([token_of.get(word, 1) for word in words])
    truth.append(settings["answers"].index(answers[pair].decode()))
right = 0
for start in range(0, len(truth), evaluation["batch_size"]):
    batch = slice(start, start + evaluation["batch_size"])
    inputs = {
        "question": keras.utils.pad_sequences(questions[batch], padding="post"),
        "image": np.reshape(images[batch], (-1, 224, 224, 3)).astype("float32") / 255,
    }
    right += np.sum(model.predict_on_batch(inputs).argmax(1) == truth[batch])
found, expected = right / len(truth), evaluation["val_accuracy"]
print(
    f"{run}: the saved model alone reaches {found:.4%}, evaluation.json says {expected:.4%}"
)
sys.exit(0 if abs(found - expected) < 1e-6 else 1)
