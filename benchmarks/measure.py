"""Follows the notebook's 2f in a copy: what throughput.py measures of one case.

NORMALIZATION names the layer that the model has. What is printed is JSON.
"""

import resource
import time

WARM_UP = 3  # steps; the first one traces the model
STEPS = 5

if NORMALIZATION == "BatchNormalization":
    FusedBatchNormalization = layers.BatchNormalization
    film_layers.FusedBatchNormalization = layers.BatchNormalization


class Clock(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        ends.append(time.perf_counter())


ends = []
model = build_film()
model.compile(
    optimizer=keras.optimizers.Adam(LEARNING_RATE),
    loss="sparse_categorical_crossentropy",
    metrics=["accuracy"],
)
full_batches = train_ds.take(len(train_images) // BATCH_SIZE).repeat()
model.fit(
    full_batches,
    steps_per_epoch=WARM_UP + STEPS,
    shuffle=False,
    callbacks=[Clock()],
    verbose=0,
)
seconds_per_step = np.median(np.diff(ends)[-STEPS:])

start = time.perf_counter()
images = sum(len(targets) for _, targets in train_ds)
seconds_per_pass = time.perf_counter() - start

peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; on macOS bytes
measured = {
    "images/s": BATCH_SIZE / seconds_per_step,
    "input": images / seconds_per_pass,
    "peak GiB": peak / (2**20 if sys.platform == "linux" else 2**30),
}
print(json.dumps(measured))
