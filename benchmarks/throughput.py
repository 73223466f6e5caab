"""How fast this machine trains the notebook's model, beside the rate of its matrix products.

The code under test is the notebook's own: its tagged cells are executed. Each row is measured in a new
process, as settings such as precision are global. A training step takes 9.6 GFLOP an image: 1,622
million multiply-adds forward and twice as many backward. Leave the machine alone meanwhile."""

import argparse
import os
import resource
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
GFLOP_PER_IMAGE = 9.6
TOKENS, WARM_UP = 43, 2  # the longest question; steps that trace and fill caches


def cells(*tags, **parameters):
    """The namespace of the notebook's cells with these tags; what they print is dropped."""
    from cells import run_cells
    return run_cells("imports", *tags, **parameters)


def compiled(notebook):
    keras = notebook["keras"]
    model = notebook["build_film"]()
    model.compile(keras.optimizers.Adam(notebook["LEARNING_RATE"]), "sparse_categorical_crossentropy",
                  metrics=["accuracy"])
    return model


def step_seconds(keras, model, dataset, steps):
    """Seconds of each training step after the warm-up."""
    ends = []
    clock = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda step, logs: ends.append(time.perf_counter()))
    model.fit(dataset, steps_per_epoch=WARM_UP + steps, callbacks=[clock], verbose=0)
    return list(np.diff(ends)[WARM_UP - 1:])


def quickest(function, repeats=3):
    """The least seconds of several calls."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure_peak(dtype):
    """GFLOP/s of the product of two 4096 x 4096 matrices."""
    tf = cells()["tf"]
    a, b = (tf.cast(tf.random.normal((4096, 4096)), dtype) for _ in range(2))
    gflops = 2 * 4096**3 / quickest(lambda: tf.matmul(a, b)[0, 0].numpy(), 8) / 1e9
    return [(f"matrix product, {dtype}", gflops / GFLOP_PER_IMAGE, f"{gflops:,.0f} GFLOP/s")]


def measure_step(settings, steps):
    """Training steps on one batch of random numbers in memory."""
    notebook = cells("model", vocab_size=82, num_answers=28)
    keras, tf, rng = notebook["keras"], notebook["tf"], np.random.default_rng(0)
    if settings == "Keras's defaults":
        import film_layers
        keras.config.set_dtype_policy("float32")
        notebook["BatchNormalization"] = film_layers.BatchNormalization = keras.layers.BatchNormalization
    batch = notebook["BATCH_SIZE"]
    inputs = {"question": rng.integers(2, 82, (batch, TOKENS)),
              "image": rng.random((batch, 224, 224, 3), "float32")}
    dataset = tf.data.Dataset.from_tensors((inputs, rng.integers(0, 28, batch))).repeat()
    seconds = step_seconds(keras, compiled(notebook), dataset, steps)
    return [(f"training step, {settings}", batch / min(seconds),
             f"best of {steps}: {min(seconds):.3g} s, median {statistics.median(seconds):.3g} s")]


def measure_input(data):
    """A plain pipeline, which parses float images every epoch, and the notebook's, which caches them."""
    notebook = cells("data", DATA_DIR=data)
    tf, count = notebook["tf"], len(notebook["train"])

    def plain(record):
        example = notebook["parse"](record)
        pair = tf.random.uniform((), maxval=tf.size(example["answer"]), dtype=tf.int32)
        return tf.cast(example["image"], tf.float32) / 255, example["question"][pair], example["answer"][pair]

    files = sorted(map(str, Path(data, "train").glob("[!.]*tfrecord*")))
    ways = {"plain": lambda: tf.data.TFRecordDataset(files).map(plain).shuffle(100).batch(64),
            "notebook": lambda: notebook["one_epoch"](notebook["train"], 1)}
    rates = {name: count / quickest(lambda: [None for _ in make()]) for name, make in ways.items()}  # noqa: B023
    return [(f"input, {name}", rate, f"{rate / rates['plain']:.1f} x plain") for name, rate in rates.items()]


def measure_training(data, steps):
    """Steps fed by the pipeline and steps fed from memory, in turns, so that a slow minute hits both."""
    notebook = cells("data", "model", DATA_DIR=data)
    keras, one_epoch, model = notebook["keras"], notebook["one_epoch"], compiled(notebook)
    first = next(iter(one_epoch(notebook["train"], 0)))
    memory = notebook["tf"].data.Dataset.from_tensors(first).repeat()
    from_memory, from_pipeline = [], []
    for epoch in range(2):
        piped = one_epoch(notebook["train"], epoch).repeat()
        from_memory += step_seconds(keras, model, memory, steps)
        from_pipeline += step_seconds(keras, model, piped, steps)
    alone, fed = statistics.median(from_memory), statistics.median(from_pipeline)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "linux" else 2**30)
    images = len(notebook["train"]) + len(notebook["val"])
    return [("training from the pipeline", notebook["BATCH_SIZE"] / fed,
             f"{fed / alone - 1:+.1%} a step over one batch in memory; peak memory {peak:.1f} GiB "
             f"with {images:,} images")]


def silence():
    """Drops what the cells and TensorFlow print in a measuring process."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="?", default="data", help="folder with train/ and val/ (default: data)")
    parser.add_argument("--steps", type=int, default=6, help="steps timed (default: 6; on a GPU take 50)")
    arguments = parser.parse_args()
    if not list(Path(arguments.data, "train").glob("[!.]*tfrecord*")):
        sys.exit(f"error: no TFRecords in {arguments.data}/train: run `make`, which makes some")
    rows = [(measure_peak, "float32"), (measure_peak, "bfloat16"),
            (measure_step, "Keras's defaults", arguments.steps), (measure_step, "notebook", arguments.steps),
            (measure_input, arguments.data), (measure_training, arguments.data, arguments.steps)]
    print(f"{'':34}{'images/s':>10}")
    for function, *values in rows:
        with ProcessPoolExecutor(1, get_context("spawn"), silence) as pool:
            for name, rate, note in pool.submit(function, *values).result():
                print(f"{name:34}{rate:10,.1f}  {note}", flush=True)


if __name__ == "__main__":
    main()
