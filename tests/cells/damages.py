"""Follows the notebook's 3a in a copy: runs that were damaged, changed or interrupted.

A small network takes the place of the brief's. Every folder that is refused must be
left as it is; every other one must end as the run that was never interrupted.
"""

import re
import shutil


def build_small(units=8, activation="softmax"):
    question = keras.Input((None,), dtype="int32", name="question")
    x = layers.Embedding(vocab_size, units)(question)
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.BatchNormalization()(x)
    x = layers.Dense(num_answers, activation=activation, dtype="float32")(x)
    return keras.Model({"question": question}, x)


def only_question(inputs, target):
    return {"question": inputs["question"]}, target


few_train = train_ds.map(only_question)
few_val = val_ds.map(only_question)
folders = Path(tempfile.mkdtemp())


def run(folder, build=build_small, epochs=3):
    return train(build, folder, few_train, few_val, epochs)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def state(folder):
    model = keras.models.load_model(folder / "epoch_03.keras")
    return [weight.numpy() for weight in model.weights + model.optimizer.variables]


def copy(name):
    return shutil.copytree(folders / "whole", folders / name)


def keep_rows(folder, number):
    log_file = folder / "training_log.csv"
    lines = log_file.read_text().splitlines(keepends=True)
    log_file.write_text("".join(lines[: number + 1]) if number else "")


def truncate(file):
    file.write_bytes(file.read_bytes()[:-100])


def delete_all_but(folder, *names):
    for file in folder.iterdir():
        if file.name not in names:
            file.unlink()


def is_refused(folder, words, **options):
    before = contents(folder)
    try:
        run(folder, epochs=4, **options)
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
    else:
        raise AssertionError(f"{folder.name} was not refused")
    assert contents(folder) == before, folder
    assert str(folder) in message and "\n" not in message, message
    assert re.search(words, message), message
    print(f"{folder.name}: {message}")


def ends_like_the_whole(folder):
    run(folder)
    whole = folders / "whole"
    log = "training_log.csv"
    assert (folder / log).read_text() == (whole / log).read_text(), folder
    assert all(map(np.array_equal, state(folder), state(whole))), folder
    assert contents(folder).keys() == contents(whole).keys(), folder


run(folders / "whole")
assert len(pd.read_csv(folders / "whole" / "training_log.csv")) == 3

# ---- interrupted: resumed from the last row ----

folder = copy("killed between checkpoint and row")
keep_rows(folder, 2)
ends_like_the_whole(folder)

folder = copy("killed while saving")
keep_rows(folder, 2)
truncate(folder / "epoch_03.keras")
ends_like_the_whole(folder)

folder = copy("killed in the first save")
keep_rows(folder, 0)
delete_all_but(folder, "epoch_01.keras", "training_log.csv")
truncate(folder / "epoch_01.keras")
ends_like_the_whole(folder)

folder = copy("finished")
before = contents(folder)
run(folder)
run(folder, epochs=2)
assert contents(folder) == before

# ---- damaged ----

folder = copy("log emptied")
keep_rows(folder, 0)
is_refused(folder, "has no rows, but there are checkpoints")

folder = copy("last line incomplete")
log_file = folder / "training_log.csv"
log_file.write_text(log_file.read_text()[:-9])
is_refused(folder, "row 3 is incomplete or out of order")

folder = copy("log deleted")
(folder / "training_log.csv").unlink()
is_refused(folder, "has no rows, but there are checkpoints")

folder = copy("last checkpoint deleted")
(folder / "epoch_03.keras").unlink()
is_refused(folder, "epoch_03.keras is missing or truncated")

folder = copy("last checkpoint truncated")
truncate(folder / "epoch_03.keras")
is_refused(folder, "epoch_03.keras is missing or truncated")

folder = copy("written by two processes")
log_file = folder / "training_log.csv"
rows = log_file.read_text().splitlines(keepends=True)
log_file.write_text("".join([*rows, rows[2], rows[3]]))
is_refused(folder, "row 4 is incomplete or out of order")

folder = copy("settings deleted")
(folder / "settings.json").unlink()
is_refused(folder, "settings.json")

# ---- of another run ----

others = {
    "SEED": (SEED + 1, f'"seed": {SEED}, .*"seed": {SEED + 1}.'),
    "BATCH_SIZE": (BATCH_SIZE + 1, f'"batch_size": .*"batch_size": {BATCH_SIZE + 1}.'),
    "PRECISION": ("float64", '"precision": .*"precision": "float64".'),
    "VOCABULARY": ([*VOCABULARY, "more"], 'this notebook "more".'),
    "ANSWERS": (ANSWERS[::-1], f'"{ANSWERS[0]}", .*"{ANSWERS[-1]}".'),
    "train_questions": (
        train_questions[::-1],
        '"first_question": .*"first_question": ',
    ),
    "val_answers": (val_answers[1:], '".*": .*".*": '),
    "val_questions": (val_questions[1:], '"images": .*"images": '),
}
for name, (other, words) in others.items():
    value = globals()[name]
    globals()[name] = other
    is_refused(copy(f"other {name}"), words)
    globals()[name] = value

path = film_layers.__file__
changed = folders / "changed_layers.py"
changed.write_text(Path(path).read_text().replace("gamma * h + beta", "gamma * h"))
film_layers.__file__ = str(changed)
is_refused(copy("other film_layers.py"), r"gamma \* h \+ beta.*gamma \* h ")
film_layers.__file__ = path

is_refused(
    copy("other units"),
    '"output_dim": 8, .*"output_dim": 9.',
    build=lambda: build_small(9),
)
is_refused(
    copy("other activation"),
    '"activation": "softmax".*"activation": "sigmoid"',
    build=lambda: build_small(activation="sigmoid"),
)
LEARNING_RATE = LEARNING_RATE / 2
is_refused(copy("other learning rate"), '"learning_rate": .*"learning_rate": ')

shutil.rmtree(folders)
