"""Follows the notebook's 1b in a copy: tokens, labels, batches and the sampling."""

import collections
import string


def words_of(question):
    """The brief's words: lower-case, no punctuation, split on white space."""
    kept = [letter for letter in question.lower() if letter not in string.punctuation]
    return "".join(kept).split()


# ---- tokens and labels, against plain Python ----

counter = collections.Counter()
for questions in train_questions:
    for question in questions:
        counter.update(words_of(question))
assert VOCABULARY[:2] == ["", "[UNK]"]
assert sorted(VOCABULARY[2:]) == sorted(counter)

for text in ("  Is the BIG, shiny (cube)  left-of\tit?", val_questions[0][0]):
    words = [word if word in counter else "[UNK]" for word in words_of(text)]
    assert [VOCABULARY[token] for token in tokenize(text)] == words

assert sorted({answer for answers in train_answers for answer in answers}) == ANSWERS
assert [ANSWERS[label] for label in encode_answers(ANSWERS)] == ANSWERS

# ---- train_ds and val_ds, against the records ----


def decode(dataset):
    """{image in bytes: (words of the question, answer)}, and the number of examples."""
    found = {}
    examples = 0
    for inputs, targets in dataset.as_numpy_iterator():
        assert len(targets) <= BATCH_SIZE
        for image, tokens, target in zip(
            inputs["image"], inputs["question"], targets, strict=True
        ):
            assert 0 <= image.min() < image.max() <= 1
            words = [VOCABULARY[token] for token in tokens if token]
            key = np.rint(255 * image).astype("uint8").tobytes()
            found[key] = (words, ANSWERS[target])
            examples += 1
    return found, examples


for split, dataset in (("train", train_ds), ("val", val_ds)):
    found, examples = decode(dataset)
    records = tf.data.TFRecordDataset(find_files(split))
    number = 0
    for record in records.as_numpy_iterator():
        number += 1
        feature = tf.train.Example.FromString(record).features.feature
        image = np.frombuffer(feature["image"].bytes_list.value[0], "<i4")
        questions = feature["question"].bytes_list.value
        answers = feature["answer"].bytes_list.value
        pairs = [
            (words_of(question.decode()), answer.decode())
            for question, answer in zip(questions, answers, strict=True)
        ]
        assert found.pop(image.astype("uint8").tobytes()) in pairs
    assert not found and examples == number

# ---- val_ds is always the same, train_ds is another one in each epoch ----


def contents(dataset):
    return [
        targets.tobytes() + inputs["question"].tobytes() for inputs, targets in dataset
    ]


epoch.assign(0)
val_before, train_before = (
    contents(val_ds.as_numpy_iterator()),
    contents(train_ds.as_numpy_iterator()),
)
epoch.assign(1)
assert contents(val_ds.as_numpy_iterator()) == val_before
assert contents(train_ds.as_numpy_iterator()) != train_before
epoch.assign(0)
assert contents(train_ds.as_numpy_iterator()) == train_before

# ---- draws are uniform and independent: 1,000 images in 20 epochs ----

counts = np.array([1, 2, 3, 7, 10] * 200)
ranges = [list(range(count)) for count in counts]
texts = [[str(k) for k in positions] for positions in ranges]
indices = tf.data.Dataset.range(1000).map(lambda i: tf.cast(i, tf.int32))
sampled = sample_pairs(indices, tf.range(1000), ranges, texts, epoch)
pair = np.empty((20, 1000), int)
for number in range(20):
    epoch.assign(number)
    for i, position, text in sampled.as_numpy_iterator():
        assert int(text) == position
        pair[number, i] = position
for count in (1, 2, 3, 7, 10):
    table = np.bincount(pair[:, counts == count].ravel(), minlength=count)
    assert (abs(table - table.mean()) < 5 * np.sqrt(table.mean())).all()
centred = (pair + 0.5) / counts - 0.5
for a, b in ((centred[1:], centred[:-1]), (centred[:, 1:], centred[:, :-1])):
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / np.sqrt(a.size)

orders = []
for number in range(200):
    epoch.assign(number)
    order = np.array([int(i) for i in train_order])
    assert sorted(order) == list(range(len(train_images)))
    orders.append(order)
orders = np.array(orders)
first = np.bincount(orders[:, 0], minlength=len(train_images))
assert first.max() < 5 * 200 / len(train_images) + 5
assert abs(np.corrcoef(orders[1:].ravel(), orders[:-1].ravel())[0, 1]) < 0.05
epoch.assign(0)
