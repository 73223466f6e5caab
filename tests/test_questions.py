"""Checks the questions against two readers that share nothing with the code under test:
an interpreter of the official functions over plain sets, and a parser of the
English."""

import re
from collections import Counter
from functools import cache
from itertools import takewhile

import numpy as np
import pytest

from clevr.questions import ask
from clevr.scenes import sample_scene

SCENES = 200
VALUES = {
    "size": {"large", "small"},
    "material": {"rubber", "metal"},
    "shape": {"cube", "sphere", "cylinder"},
    "color": {"gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"},
}


@pytest.fixture(scope="module")
def asked():
    """Pairs of a scene and a question about it."""
    counts = {}
    pairs = []
    for i in range(SCENES):
        scene = sample_scene(np.random.default_rng([11, i]))
        graph = {"objects": scene.objects, "relationships": scene.relationships}
        for question in ask(graph, np.random.default_rng([0, i]), counts):
            pairs.append((graph, question))
    return pairs


def run(program, scene):
    """The output of every node: a set of objects, one object, a number, a value, or a
    boolean."""
    outputs = []
    for node in program:
        inputs = [outputs[i] for i in node["inputs"]]
        outputs.append(execute(node["function"], node["value_inputs"], scene, *inputs))
    return outputs


def execute(function, values, scene, x=None, y=None):
    """The output of one node, whose inputs are x and y."""
    objects = scene["objects"]
    verb, _, attribute = function.partition("_")
    assert len(values) == (verb == "filter" or function == "relate"), function
    if function == "unique":
        assert len(x) == 1  # or "the" is ill-posed
        return min(x)
    return {
        "scene": lambda: set(range(len(objects))),
        "filter": lambda: {i for i in x if objects[i][attribute] == values[0]},
        "relate": lambda: set(scene["relationships"][values[0]][x]),
        "same": lambda: same(objects, attribute, x),
        "query": lambda: objects[x][attribute],
        "count": lambda: len(x),
        "exist": lambda: bool(x),
        "union": lambda: x | y,
        "intersect": lambda: x & y,
        "equal": lambda: x == y,
        "less": lambda: x < y,
        "greater": lambda: x > y,
    }[verb]()


def same(objects, attribute, x):
    value = objects[x][attribute]
    return {i for i, thing in enumerate(objects) if thing[attribute] == value} - {x}


# A parser of the English. Capitals stand for phrases: N is a noun in the plural, n in
# the singular; G and S are a noun and where its objects are, D is "the S"; X says where
# by relations, O by "or"; V and W are whole questions; T is an attribute. Braces hold
# alternatives. All possible readings are followed.

NOUNS = {
    "thing": [],
    "object": [],
    "cube": ["cube"],
    "block": ["cube"],
    "sphere": ["sphere"],
    "ball": ["sphere"],
    "cylinder": ["cylinder"],
}
ADJECTIVES = {
    "big": "large",
    "tiny": "small",
    "matte": "rubber",
    "metallic": "metal",
    "shiny": "metal",
    **{
        value: value for name in ("size", "material", "color") for value in VALUES[name]
    },
}
PLACES = {
    "{left,to the left,on the left side} of": "relate_left",
    "behind": "relate_behind",
    "{right,to the right,on the right side} of": "relate_right",
    "in front of": "relate_front",
    **{"{,of} the same " + name + " as": f"same_{name}" for name in VALUES},
    "made of the same material as": "same_material",
}


def filtered(values, base):
    return ("filter", values, base) if values else base


def group(noun, place=("scene",)):
    """Objects are called "other" if they are the same as an object in something, and
    only then."""
    values, other = noun
    return filtered(values, place) if other == place[0].startswith("same") else None


PHRASES = {
    "X": [
        ("P", lambda place: place),
        ("{,both} P and P", lambda *places: ("intersect", *places)),
    ],
    "P": [
        (f"{words} D", lambda thing, name=name: (name, thing))
        for words, name in PLACES.items()
    ],
    "O": [("{,either} G or G", lambda *groups: ("union", *groups))],
    "G": [("N", group), ("N {,that are,that have} X", group)],
    "S": [("n", group), ("n {,that is,that has} X", group)],
    "D": [("the S", lambda thing: thing)],
    "V": [
        ("{how many,how many of the,what number of} N {are,have} X", group),
        (
            "{how many N are,what number of N are,what is the number of N that are} O",
            group,
        ),
    ],
    "W": [("do any N have X", group)],
}
QUESTIONS = {
    "count": (
        "{how many,what number of} G are {there,visible}",
        "what is the number of G",
        "V",
    ),
    "exist": ("are {there,} any G {,visible}", "is {there,} {a,an} S {,visible}", "W"),
    "query_size": ("how {big,large} is D",),
    "query_material": ("what {,material} is D made of", "D is made of what material"),
    "query_T": ("what {T is,is the T of} D", "what T does D have", "D {is,has} what T"),
    "equal_T": (
        "{do D and D have,are D and D {,made of}} the same T",
        "{is D {,made of},does D have} the same T as D",
        "is the T of D {equal to the T of,the same as that of} D",
    ),
    "equal_integer": (
        "are there {an equal,the same} number of G and G",
        "is the number of G {the same as,equal to} the number of G",
    ),
    "less_than": (
        "are there fewer G than G",
        "is the number of G less than the number of G",
    ),
    "greater_than": (
        "are there more G than G",
        "is the number of G greater than the number of G",
    ),
}


@cache
def expand(pattern):
    """All alternatives of a pattern, as lists of words and phrases."""
    head, brace, tail = pattern.rpartition("{")
    if not brace:
        return [pattern.split()]
    choices, _, tail = tail.partition("}")
    return [
        items for choice in choices.split(",") for items in expand(head + choice + tail)
    ]


def match(words, items):
    """Yields (meanings of the phrases, words behind them) for all readings of a
    pattern."""
    if not items:
        yield (), words
    elif items[0] in (*PHRASES, "N", "n"):
        for meaning, rest in phrase(words, items[0]):
            for meanings, end in match(rest, items[1:]):
                yield (meaning, *meanings), end
    elif words[:1] == items[:1]:
        yield from match(words[1:], items[1:])


def phrase(words, symbol):
    """Yields (meaning, words behind it) for all readings of a phrase."""
    if symbol in ("N", "n"):
        yield from noun(words, symbol == "N")
        return
    for pattern, action in PHRASES[symbol]:
        for items in expand(pattern):
            for parts, rest in match(words, items):
                meaning = action(*parts)
                if meaning:
                    yield meaning, rest


def noun(words, is_plural):
    """Yields ((values, whether "other" is said), words behind it), or nothing."""
    other = words[0] == "other"
    words = words[other:]
    adjectives = list(takewhile(ADJECTIVES.__contains__, words))
    last, *rest = words[len(adjectives) :]
    if last.endswith("s") == is_plural and last.removesuffix("s") in NOUNS:
        values = {ADJECTIVES[word] for word in adjectives}
        yield (frozenset(values.union(NOUNS[last.removesuffix("s")])), other), rest


def read(text):
    """All meanings of a question."""
    text = text.lower().replace("?", " ?").replace("another", "a other")
    text = text.replace("anything else", "a other thing").replace("anything", "a thing")
    # There is a cube; what is its size? -> what is the size of the cube?
    text = re.sub(r"there is an? (.*); (.*)\bits (\w+)", r"\2the \3 of the \1", text)
    text = re.sub(r"there is an? (.*); (.*)\bit\b", r"\2the \1", text)
    readings = set()
    for function, patterns in QUESTIONS.items():
        for name in VALUES if "T" in function else [""]:
            for pattern in patterns:
                for items in expand(pattern.replace("T", name) + " ?"):
                    for meanings, end in match(text.split(), items):
                        if not end:
                            readings.add((function.replace("T", name), *meanings))
    return readings


def meaning_of(program, i=-1):
    """Node i of a program in the parser's terms: filters gathered, and no nodes for
    which English has no word."""
    node = program[i]
    function = node["function"]
    inputs = [meaning_of(program, j) for j in node["inputs"]]
    if function.startswith("filter"):
        base = inputs[0]
        values = frozenset(node["value_inputs"])
        if base[0] == "filter":
            values |= base[1]
            base = base[2]
        return filtered(values, base)
    if function == "unique":
        return inputs[0]
    if i != -1 and function.startswith(("count", "query")):
        return inputs[0]
    return ("_".join((function, *node["value_inputs"])), *inputs)


def test_the_english_says_what_the_program_asks_and_nothing_else(asked):
    for _, question in asked:
        text = question["question"]
        assert read(text) == {meaning_of(question["program"])}, text
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text.lower())


def test_the_parser_tells_meanings_apart():
    chain = read("How many balls are left of the cube that is behind the big thing?")
    both = read("How many balls are left of the cube and behind the big thing?")
    assert len(chain) == len(both) == 1
    assert chain != both
    assert not read("How many balls are left of a cube?")


def test_answers_are_what_the_programs_give(asked):
    for scene, question in asked:
        output = str(run(question["program"], scene)[-1])
        answer = {"True": "yes", "False": "no"}.get(output, output)
        assert answer == question["answer"], question


def test_no_filter_or_relation_can_be_left_out(asked):
    """Replaces each by a node that lets all pass; the set that it helps to describe
    must change."""
    for scene, question in asked:
        program = question["program"]
        users = {j: i for i, node in enumerate(program) for j in node["inputs"]}
        outputs = run(program, scene)
        for i, node in enumerate(program):
            if node["function"].startswith("filter"):
                passing = {"function": "union", "inputs": node["inputs"] * 2}
            elif node["function"].startswith(("relate", "same")):
                passing = {"function": "scene", "inputs": []}
            else:
                continue
            passing["value_inputs"] = []
            end = i
            while program[users[end]]["function"] not in ("unique", "count", "exist"):
                end = users[end]
            changed = run([*program[:i], passing, *program[i + 1 : end + 1]], scene)
            assert changed[end] != outputs[end], (question["question"], node)


def test_families_are_balanced(asked):
    texts = {(id(scene), question["question"]) for scene, question in asked}
    assert len(texts) == 10 * SCENES
    families = Counter(question["question_family_index"] for _, question in asked)
    assert sorted(families) == list(range(90))
    assert max(families.values()) - min(families.values()) <= 2


def test_answers_are_balanced(asked):
    answers = {}
    for _, question in asked:
        function = question["program"][-1]["function"]
        answers.setdefault(function, Counter())[question["answer"]] += 1
    for function, counts in answers.items():
        options = VALUES.get(function.removeprefix("query_"), ("yes", "no"))
        fair = 1 / len(options)
        if function == "count":
            fair = 0.347  # of the most frequent count of CLEVR's release
        error = (fair * (1 - fair) / counts.total()) ** 0.5
        fraction = max(counts.values()) / counts.total()
        assert fraction < fair + 3 * error + 0.02, function
