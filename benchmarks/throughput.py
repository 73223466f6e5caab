"""How fast this machine trains the notebook's model, beside the rate of its matrix products.

The code under test is the notebook's own: its tagged cells are executed. Each measurement runs in a new
process, as settings such as precision are global. A training step takes 9.6 GFLOP an image: 1,622
million multiply-adds forward and twice as many backward. Leave the machine alone meanwhile."""

import argparse
import os
import resource
import sys
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from timeit import repeat

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from cells import run_cells  # noqa: E402

GFLOP_PER_IMAGE = 9.6
WARM_UP, STEPS = (
    2,
    6,
)  # steps that trace and fill caches; steps timed: on a GPU, take 50


def measure_peak(dtype):
    """GFLOP/s of the product of two 4096 x 4096 matrices."""
    tf = run_cells("imports")["tf"]
    a, b = (tf.cast(tf.random.normal((4096, 4096)), dtype) for _ in range(2))
    gflops = (
        2
        * 4096**3
        / min(repeat(lambda: tf.matmul(a, b)[0, 0].numpy(), number=1, repeat=8))
        / 1e9
    )
    return [
        (f"matrix product, {dtype}", gflops / GFLOP_PER_IMAGE, f"{gflops:,.0f} GFLOP/s")
    ]


def measure_input(data):
    """A plain pipeline, which parses float images every epoch, and the notebook's, which caches them."""
    notebook = run_cells("imports", "data", DATA_DIR=data)
    tf, train = notebook["tf"], notebook["train"]

    def plain(record):
        example = notebook["parse"](record)
        pair = tf.random.uniform((), maxval=tf.size(example["answer"]), dtype=tf.int32)
        return (
            tf.cast(example["image"], tf.float32) / 255,
            example["question"][pair],
            example["answer"][pair],
        )

    files = sorted(map(str, Path(data, "train").glob("[!.]*tfrecord*")))
    pipelines = {
        "plain": tf.data.TFRecordDataset(files).map(plain).shuffle(100).batch(64),
        "notebook": notebook["one_epoch"](train, 1),
    }
    rates = {
        name: len(train) / min(repeat(lambda: deque(pipeline, 0), number=1, repeat=3))  # noqa: B023, reads all
        for name, pipeline in pipelines.items()
    }
    return [
        (f"input, {name}", rate, f"{rate / rates['plain']:.1f} x plain")
        for name, rate in rates.items()
    ]


def measure_training(settings, data):
    """Steps on a batch in memory and steps fed by the pipeline, in turns, so that a slow minute hits both."""
    notebook = run_cells("imports", "data", "model", DATA_DIR=data)
    keras, train = notebook["keras"], notebook["train"]
    if settings == "Keras's defaults":
        import film_layers

        keras.config.set_dtype_policy("float32")
        notebook["BatchNormalization"] = film_layers.BatchNormalization = (
            keras.layers.BatchNormalization
        )
    model = notebook["build_film"]()
    model.compile(
        keras.optimizers.Adam(notebook["LEARNING_RATE"]),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    pipeline = notebook["one_epoch"](train, 0).repeat()
    datasets = {"memory": pipeline.take(1).cache().repeat(), "the pipeline": pipeline}
    seconds = {source: [] for source in datasets}
    for source in [*datasets] * 2:
        ends = []
        clock = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda step, logs: ends.append(time.perf_counter())
        )  # noqa: B023
        model.fit(
            datasets[source],
            steps_per_epoch=WARM_UP + STEPS,
            callbacks=[clock],
            verbose=0,
        )
        seconds[source] += [*np.diff(ends)[WARM_UP - 1 :]]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**20 if sys.platform == "linux" else 2**30
    )
    images = len(train) + len(notebook["val"])
    return [
        (
            f"training from {source}, {settings}",
            notebook["BATCH_SIZE"] / np.median(times),
            f"a step {np.median(times):.3g} s, at best {min(times):.3g} s; "
            f"peak memory {peak:.1f} GiB with {images:,} images",
        )
        for source, times in seconds.items()
    ]


def silence():
    """Drops what the cells print in a measuring process."""
    sys.stdout = open(os.devnull, "w")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "data",
        nargs="?",
        default="data",
        help="folder with train/ and val/ (default: data)",
    )
    data = parser.parse_args().data
    print(f"{'':46}{'images/s':>10}")
    for function, *values in [
        (measure_peak, "float32"),
        (measure_peak, "bfloat16"),
        (measure_input, data),
        (measure_training, "Keras's defaults", data),
        (measure_training, "notebook", data),
    ]:
        with ProcessPoolExecutor(1, get_context("spawn"), silence) as pool:
            for name, rate, note in pool.submit(function, *values).result():
                print(f"{name:46}{rate:10,.1f}  {note}", flush=True)


if __name__ == "__main__":
    main()
