"""How fast this machine trains the notebook's model, and how fast it could.

    .venv/bin/python benchmarks/throughput.py                            everything, over data/
    .venv/bin/python benchmarks/throughput.py --data elsewhere --steps 10
    .venv/bin/python benchmarks/throughput.py --rows peak-float32 defaults notebook

Each row is measured in a process of its own, since the settings under test are global. The code under
test is the notebook's: its cells are read from coursework2.ipynb and executed. Shares are of the rate
of TensorFlow's own matrix product on this machine, at 9.6 GFLOP an image (a training step makes 1,622
million multiply-adds an image forward, twice that backward). The row `profile` divides a step among its
layers (on a CPU, where TensorFlow computes by oneDNN). Leave the machine alone meanwhile."""

import argparse
import ast
import ctypes
import json
import os
import re
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
NOTEBOOK = ROOT / "coursework2.ipynb"
GFLOP_PER_IMAGE = 9.6
MB_PER_IMAGE = 224 * 224 * 3 * 4 / 1e6  # int32 in a record, float32 in a batch
EPOCH_IMAGES = 14_950  # the coursework's training set
TOKENS, WORDS, ANSWERS = 43, 82, 28  # the coursework's longest question and its vocabularies
DIRECTIONS = {"forward_training": "forward", "backward_data": "to the input", "backward_weights": "to the weights"}
PRIMITIVES = {"batch_normalization": "batch normalisation", "reorder": "changes of layout",
              **dict.fromkeys(("inner_product", "matmul", "gemm_api"), "products of the GRUs and dense layers")}
WARM_UP = 2  # steps: the first compiles, the second still fills caches
PASSES = 3  # over the data; the quickest counts

DATA_CELLS = ("raw = {", "vectorize.adapt(", "train, val = encode(")  # in the notebook, by what they hold


@dataclass
class Row:
    """A line of the table; GFLOP/s of a matrix product if it is one."""

    what: str
    images_per_second: float | None = None
    note: str = ""
    gflops: float | None = None


class Notebook(ModuleType):
    """The notebook's imports, functions, classes and constants, without the work that its cells do."""

    def __init__(self, **settings):
        super().__init__("notebook")
        cells = json.loads(NOTEBOOK.read_text())["cells"]
        self.cells = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        for source in self.cells:
            tree = ast.parse(source)
            tree.body = [node for node in tree.body if is_definition(node)]
            exec(compile(tree, NOTEBOOK.name, "exec"), self.__dict__)
        self.__dict__.update(settings, MOMENTUM=0.99, display=Mock())  # there is no front end to display anything

    def read_data(self):
        """Executes the cells that read and encode the data. Raises ValueError if they are not found."""
        for text in DATA_CELLS:
            found = [source for source in self.cells if text in source]
            if len(found) != 1:
                raise ValueError(f"{NOTEBOOK.name} has {len(found)} code cells with {text!r}, not 1")
            exec(compile(found[0], NOTEBOOK.name, "exec"), self.__dict__)
        self.V, self.n = len(self.VOCABULARY), len(self.ANSWERS)

    def compiled_model(self, jit_compile=False):
        model = self.build_model()
        model.compile(self.keras.optimizers.Adam(self.LEARNING_RATE, use_ema=True), "sparse_categorical_crossentropy",
                      metrics=["accuracy"], jit_compile=jit_compile)
        return model

    def step_times(self, model, dataset, steps):
        """Seconds of each training step on the dataset's batches, after those to warm up."""
        ends = []
        clock = self.keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda step, logs: ends.append(time.perf_counter()))
        model.fit(dataset, steps_per_epoch=WARM_UP + steps, callbacks=[clock], verbose=0)
        return list(np.diff(ends)[WARM_UP - 1:])


def is_definition(node):
    """Whether a statement imports, defines, or names a constant in capitals."""
    if isinstance(node, ast.Assign):
        plain = (ast.Constant, ast.Name, ast.BinOp, ast.Tuple, ast.operator, ast.expr_context)
        return (all(isinstance(target, ast.Name) and target.id.isupper() for target in node.targets)
                and all(isinstance(part, plain) for part in ast.walk(node.value)))
    return isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef))


def forever(notebook, inputs, labels):
    """A dataset that gives the same batch again and again, without copying it."""
    return notebook.tf.data.Dataset.from_tensors((inputs, labels)).repeat()


def describe(times):
    return f"best of {len(times)} steps {min(times):.3g} s, median {statistics.median(times):.3g} s"


def measure_peak(arguments, dtype):
    """The matrix product of two 4096 x 4096 matrices, best of those done in five seconds."""
    tf = Notebook().tf
    size, times = 4096, []
    a, b = (tf.cast(tf.random.normal((size, size)), dtype) for _ in range(2))
    while sum(times) < 5 or len(times) < 3:
        start = time.perf_counter()
        tf.matmul(a, b)[0, 0].numpy()
        times.append(time.perf_counter() - start)
    gflops = 2 * size ** 3 / min(times) / 1e9
    note = f"{gflops:,.0f} GFLOP/s, best of {len(times)}"
    return [Row(f"{dtype} product, {size}^3", gflops / GFLOP_PER_IMAGE, note, gflops)]


def random_batches(notebook):
    """One batch of random numbers in memory, without end."""
    tf, rng, batch = notebook.tf, np.random.default_rng(0), notebook.BATCH_SIZE
    lengths = rng.integers(5, TOKENS + 1, (batch, 1))
    tokens = np.where(np.arange(TOKENS) < lengths, rng.integers(2, WORDS, (batch, TOKENS)), 0)
    inputs = {"question": tf.constant(tokens, tf.int32), "image": tf.random.uniform((batch, 224, 224, 3))}
    return forever(notebook, inputs, tf.constant(rng.integers(0, ANSWERS, batch)))


def measure_step(arguments, what, jit_compile=None, fused=False, precision="float32", cudnn=True,
                 deterministic=False):
    """Steps on random numbers; at the notebook's settings if `jit_compile` is None."""
    notebook = Notebook(V=WORDS, n=ANSWERS)
    keras, tf = notebook.keras, notebook.tf
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(0)
    if jit_compile is None:
        jit_compile = False
        notebook.hardware.use_fastest_settings()
    else:
        keras.config.set_dtype_policy(precision)
        if fused:
            keras.layers.BatchNormalization.call = notebook.hardware.fused_batch_normalization
    if not cudnn:
        gru = notebook.layers.GRU
        notebook.layers.GRU = lambda units, **options: gru(units, use_cudnn=False, **options)
    times = notebook.step_times(notebook.compiled_model(jit_compile), random_batches(notebook), arguments.steps)
    return [Row(what, notebook.BATCH_SIZE / min(times), describe(times))]


def measure_profile(arguments):
    """Where a step's time goes, by oneDNN's own clock, with one op at a time so that the times add up."""
    os.environ["ONEDNN_VERBOSE"] = "profile_exec"
    notebook = Notebook(V=WORDS, n=ANSWERS)
    notebook.tf.config.threading.set_inter_op_parallelism_threads(1)
    notebook.hardware.use_fastest_settings()
    model = notebook.compiled_model()
    batches = random_batches(notebook)
    model.fit(batches, steps_per_epoch=WARM_UP, verbose=0)
    with tempfile.TemporaryFile("w+") as report:
        flush_c_output()
        os.dup2(report.fileno(), 1)
        start = time.perf_counter()
        model.fit(batches, steps_per_epoch=arguments.steps, verbose=0)
        seconds = (time.perf_counter() - start) / arguments.steps
        flush_c_output()
        report.seek(0)
        spent = [primitive(line) for line in report if ",exec," in line]
    if not spent:
        return [Row("step, one op at a time", note="not divided: this TensorFlow computes without oneDNN")]
    milliseconds = defaultdict(lambda: defaultdict(float))  # of a step, by layer and direction
    for layer, direction, taken in spent:
        milliseconds[layer][direction] += taken / arguments.steps
    counted = sum(sum(parts.values()) for parts in milliseconds.values())
    milliseconds["  all else: ReLUs, sums, maxima, Adam"][""] = 1000 * seconds - counted
    return [Row("step, one op at a time", notebook.BATCH_SIZE / seconds, f"{seconds:.2f} s, of which"),
            *(profile_row(layer, parts, seconds) for layer, parts in milliseconds.items())]


def flush_c_output():
    """oneDNN prints by way of C's own buffer."""
    ctypes.CDLL(None).fflush(None)


def primitive(line):
    """A line of oneDNN's report -> layer, direction and milliseconds."""
    fields = line.strip().split(",")
    start = fields.index("exec") + 2  # past the kind of device
    kind, _, direction = fields[start:start + 3]
    shape, milliseconds = fields[-2], float(fields[-1])
    if kind == "convolution":
        return f"  conv {shape}", DIRECTIONS[direction], milliseconds
    return f"  {PRIMITIVES.get(kind, kind)}", "", milliseconds


def profile_row(layer, parts, seconds):
    """How a layer's milliseconds divide and, for a convolution, how many operations they make."""
    total = sum(parts.values())
    share = f"{total / 1000 / seconds:.0%}"
    size = re.search(r"mb(\d+)_ic(\d+)oc(\d+)_ih\d+oh(\d+)kh(\d+)", layer)
    if not size:
        return Row(layer, note=f"{share}: {total:.0f} ms")
    batch, inputs, maps, side, kernel = map(int, size.groups())
    gflop = 2 * batch * inputs * maps * (side * kernel) ** 2 / 1e9
    return Row(f"  convolution {kernel}x{kernel}, {inputs} to {maps} maps", note=f"{share}: " + ", ".join(
        f"{direction} {parts[direction]:.0f} ms ({1000 * gflop / parts[direction]:.0f} GFLOP/s)"
        for direction in DIRECTIONS.values() if direction in parts))


def plain_pipeline(tf, files):
    """Records one by one, float images through a small shuffle buffer: how one would write it first."""

    def parse_one(record):
        texts = tf.io.VarLenFeature(tf.string)
        example = tf.io.parse_single_example(
            record, {"image": tf.io.FixedLenFeature((), tf.string), "question": texts, "answer": texts})
        pixels = tf.reshape(tf.io.decode_raw(example["image"], tf.int32), (224, 224, 3))
        questions, answers = (tf.sparse.to_dense(example[name]) for name in ("question", "answer"))
        drawn = tf.random.uniform((), maxval=tf.size(questions), dtype=tf.int32)
        return tf.cast(pixels, tf.float32) / 255.0, questions[drawn], answers[drawn]

    return tf.data.TFRecordDataset(files).map(parse_one).shuffle(100).batch(64)


def quickest(make):
    """Seconds of the quickest of several calls."""
    times = []
    for _ in range(PASSES):
        start = time.perf_counter()
        make()
        times.append(time.perf_counter() - start)
    return min(times)


def measure_pipeline(arguments):
    """Each over the whole training split; reading it first leaves the files in the page cache."""
    notebook = Notebook(DATA_DIR=arguments.data)
    notebook.read_data()
    files, count = [str(file) for file in notebook.record_files("train")], len(notebook.train.first)

    def exhaust(dataset):
        for _ in dataset:
            pass

    ways = {
        "input, plain": (lambda: exhaust(plain_pipeline(notebook.tf, files)), 1, "without tokens"),
        "input, notebook's reading": (lambda: notebook.read_split("train"), 1, "once a run"),
        "input, notebook": (lambda: exhaust(notebook.batches(notebook.train, range(1, 4), shuffle=True)), 3,
                            "every epoch, from memory")}
    rates = {what: (epochs * count / quickest(way), note) for what, (way, epochs, note) in ways.items()}
    plain = rates["input, plain"][0]
    return [Row(what, rate, f"{rate * MB_PER_IMAGE:,.0f} MB/s, {rate / plain:.1f} x plain; {note}")
            for what, (rate, note) in rates.items()]


def notebook_with_data(arguments):
    """The notebook as it stands before training, and its training batches without end."""
    notebook = Notebook(DATA_DIR=arguments.data)
    notebook.hardware.use_fastest_settings()
    notebook.read_data()
    return notebook, notebook.batches(notebook.train, range(1, 10_000), shuffle=True)


def measure_fit(arguments):
    """Steps fed by the pipeline and steps fed from memory, in turns, so that a slow minute hits both."""
    notebook, piped = notebook_with_data(arguments)
    model = notebook.compiled_model()
    held = forever(notebook, *next(iter(piped)))
    from_memory, from_pipeline = [], []
    for _ in range(2):
        from_memory += notebook.step_times(model, held, arguments.steps)
        from_pipeline += notebook.step_times(model, piped, arguments.steps)
    extra = statistics.median(from_pipeline) / statistics.median(from_memory) - 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "linux" else 1024)
    images = " + ".join(f"{len(split.first):,}" for split in (notebook.train, notebook.val))
    rate = notebook.BATCH_SIZE / statistics.median(from_pipeline)
    return [Row("training from the pipeline", rate,
                f"{100 * extra:+.1f} % a step over the same batch in memory (medians of {len(from_memory)})"),
            Row("peak host memory", note=f"{peak / 2 ** 20:.2f} GiB with {images} images")]


def measure_checkpoint(arguments):
    """Saving as the notebook saves, then continuing from that as it does, in a process that has not
    trained before."""
    notebook, piped = notebook_with_data(arguments)
    model = notebook.compiled_model()
    model.optimizer.build(model.trainable_variables)
    with tempfile.TemporaryDirectory() as home:
        folder, saved = Path(home), []
        (folder / "training_log.csv").write_text("epoch,accuracy,loss,val_accuracy,val_loss\n0,0,0,0,0\n")
        saver = notebook.SaveEveryEpoch(folder)
        saver.set_model(model)
        for _ in range(5):
            saver.on_epoch_begin(0)
            start = time.perf_counter()
            saver.on_epoch_end(0)
            saved.append(time.perf_counter() - start)
        size = sum(file.stat().st_size for file in folder.glob("*.keras"))

        start = time.perf_counter()
        _, model = notebook.resume(folder)
        loaded = time.perf_counter() - start
        model.fit(notebook.feed(model, piped), steps_per_epoch=1, verbose=0)
        first_step = time.perf_counter() - start
    step = statistics.median(notebook.step_times(model, piped, arguments.steps))
    seconds, epoch = statistics.median(saved), step * EPOCH_IMAGES / notebook.BATCH_SIZE
    return [Row("saving a checkpoint", note=f"{seconds:.2f} s for {size / 1e6:.1f} MB, "
                f"{100 * seconds / epoch:.2f} % of an epoch of {EPOCH_IMAGES:,} images"),
            Row("resuming", note=f"{first_step:.1f} s to the end of the first step, data read before: "
                f"{loaded:.1f} s load, {first_step - loaded - step:.1f} s trace, {step:.1f} s step")]


CPU_STEPS = {
    "defaults": ("step, Keras's defaults", {"jit_compile": "auto"}),
    "xla": ("step, XLA forced on", {"jit_compile": True}),
    "fused": ("step, + fused batch norm", {"jit_compile": False, "fused": True}),
    "bfloat16": ("step, + bfloat16", {"jit_compile": False, "fused": True, "precision": "mixed_bfloat16"})}
GPU_STEPS = {
    "defaults": ("step, Keras's defaults (cuDNN GRU)", {"jit_compile": "auto"}),
    "xla": ("step, XLA, GRU without cuDNN", {"jit_compile": True, "cudnn": False}),
    "bfloat16": ("step, bfloat16, fused batch norm",
                 {"jit_compile": "auto", "fused": True, "precision": "mixed_bfloat16"})}
ON_GPU = shutil.which("nvidia-smi")
STEPS = {**(GPU_STEPS if ON_GPU else CPU_STEPS),
         "notebook": ("step, notebook", {}),
         "deterministic": ("step, notebook, deterministic ops", {"deterministic": True})}
MEASUREMENTS = {
    "peak-float32": (measure_peak, {"dtype": "float32"}),
    "peak-bfloat16": (measure_peak, {"dtype": "bfloat16"}),
    **{name: (measure_step, {"what": what, **options}) for name, (what, options) in STEPS.items()},
    **({} if ON_GPU else {"profile": (measure_profile, {})}),
    "pipeline": (measure_pipeline, {}),
    "fit": (measure_fit, {}),
    "checkpoint": (measure_checkpoint, {})}
NEED_DATA = ("pipeline", "fit", "checkpoint")


def silence():
    """Cells print what they show, and TensorFlow's C++ notes heed no setting; only the figures count here."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)


def measure(name, arguments):
    """The rows of a measurement, taken in a new process."""
    function, options = MEASUREMENTS[name]
    with ProcessPoolExecutor(1, get_context("spawn"), silence) as pool:
        return pool.submit(function, arguments, **options).result()


def compare(rows):
    """Adds to the notes what takes two measurements to say."""
    speed = {name: found[0].images_per_second for name, found in rows.items() if name in STEPS}
    if {"defaults", "notebook"} <= speed.keys():
        rows["notebook"][0].note += f"; {speed['notebook'] / speed['defaults']:.1f} x Keras's defaults"
    if {"deterministic", "notebook"} <= speed.keys():
        cost = 100 * (speed["notebook"] / speed["deterministic"] - 1)
        rows["deterministic"][0].note += f"; {cost:+.1f} % a step"


def table(rows):
    """Lines of the table. Shares are of training speed: other rows have none."""
    peaks = [rows[name][0].gflops if name in rows else None for name in ("peak-float32", "peak-bfloat16")]
    yield f"{'':36}{'images/s':>10}{'of fp32':>9}{'of bf16':>9}  note"
    for name, found in rows.items():
        for row in found:
            rate = row.images_per_second
            counts = rate and not row.what.startswith("input")
            shares = [f"{rate * GFLOP_PER_IMAGE / peak:.0%}" if peak and counts else "" for peak in peaks]
            yield (f"{row.what:36}{f'{rate:,.1f}' if rate else '':>10}{shares[0]:>9}{shares[1]:>9}  "
                   f"{row.note}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data", help="folder with train/*.tfrecords and val/*.tfrecords "
                        "(default: data)")
    parser.add_argument("--steps", type=int, default=5, help="training steps timed in each row (default: 5; "
                        "on a GPU, where they are short, take 50)")
    parser.add_argument("--rows", nargs="+", choices=MEASUREMENTS, default=list(MEASUREMENTS), metavar="ROW",
                        help=f"what to measure (default: all): {', '.join(MEASUREMENTS)}")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error(f"--steps must be at least 1, not {arguments.steps}")
    for split in ("train", "val"):
        if set(arguments.rows) & set(NEED_DATA) and not any(Path(arguments.data, split).glob("*tfrecords")):
            sys.exit(f"error: no .tfrecords in {Path(arguments.data, split)}: type `make` to have them made, "
                     "or name another folder with --data")
    rows = {}
    try:
        for i, name in enumerate(arguments.rows, 1):
            start = time.perf_counter()
            print(f"{i}/{len(arguments.rows)} {name} ... ", end="", file=sys.stderr, flush=True)
            rows[name] = measure(name, arguments)
            print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
    finally:  # what was measured until then
        compare(rows)
        print(*table(rows), sep="\n")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as fault:
        sys.exit(f"error: {fault}")
