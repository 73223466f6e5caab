"""Checks the questions against two readers that share nothing with the code under test: an
interpreter of the official functions over plain sets, and a parser of the English."""

import re
from collections import Counter

import numpy as np
import pytest

from clevr.questions import ask
from clevr.scenes import sample_scene

SCENES = 300
FAMILIES = 90
INTEGER = ("equal_integer", "less_than", "greater_than")
VALUES = {"size": {"large", "small"}, "material": {"rubber", "metal"},
          "shape": {"cube", "sphere", "cylinder"},
          "color": {"gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"}}
WORDS = set("""a an and another any anything are as ball balls behind big block blocks blue both brown
color cube cubes cyan cylinder cylinders do does either else equal fewer front gray greater green has
have how in is it its large left less made many material matte metal metallic more number object
objects of on or other purple red right rubber same shape shiny side size small sphere spheres than
that the there thing things tiny to visible what yellow""".split())


@pytest.fixture(scope="module")
def scenes():
    drawn = (sample_scene(np.random.default_rng([11, i])) for i in range(SCENES))
    return [{"objects": scene.objects, "relationships": scene.relationships} for scene in drawn]


def ask_all(scenes, seed=0):
    counts = {}
    return [ask(scene, np.random.default_rng([seed, i]), counts) for i, scene in enumerate(scenes)]


@pytest.fixture(scope="module")
def asked(scenes):
    """Pairs of a scene and a question about it."""
    return [(scene, question) for scene, ten in zip(scenes, ask_all(scenes)) for question in ten]


# An interpreter of the official functions.

def run(program, scene):
    """What every node gives: a set of objects, one object, a number, a value, or yes or no."""
    outputs = []
    for node in program:
        inputs = [outputs[i] for i in node["inputs"]]
        outputs.append(execute(node["function"], inputs, node["value_inputs"], scene))
    return outputs


def execute(function, inputs, values, scene):
    objects, verb, attribute = scene["objects"], *function.partition("_")[::2]
    assert len(values) == (verb == "filter" or function == "relate"), function
    if function == "scene":
        assert not inputs
        return set(range(len(objects)))
    if verb in ("filter", "query", "same") or function in ("unique", "relate", "count", "exist"):
        (x,) = inputs
    else:
        x, y = inputs
    if verb == "filter":
        assert values[0] in VALUES[attribute]
        return {i for i in x if objects[i][attribute] == values[0]}
    if verb == "query":
        return objects[x][attribute]
    if verb == "same":
        alike = (i for i, thing in enumerate(objects) if thing[attribute] == objects[x][attribute])
        return set(alike) - {x}
    if function == "equal_integer" or attribute in VALUES and verb == "equal":
        return x == y
    return {"unique": lambda: only(x), "relate": lambda: set(scene["relationships"][values[0]][x]),
            "count": lambda: len(x), "exist": lambda: bool(x),
            "union": lambda: x | y, "intersect": lambda: x & y,
            "less_than": lambda: x < y, "greater_than": lambda: x > y}[function]()


def only(things):
    (thing,) = things       # fails where "the" is ill-posed
    return thing


def spoken(output):
    return {True: "yes", False: "no"}[output] if isinstance(output, bool) else str(output)


def test_each_answer_is_what_the_program_gives(asked):
    for scene, question in asked:
        assert spoken(run(question["program"], scene)[-1]) == question["answer"], question


# A parser of the English. A pattern's capitals stand for phrases: G for a group in the plural, its
# noun first (N is the noun alone, S is singular), D for "the" and a single thing, A for "a", P for a
# place, I for a place told from "it", ATTR for an attribute. Every reading is followed.

NOUNS = {"thing": None, "object": None, "cube": "cube", "block": "cube", "sphere": "sphere",
         "ball": "sphere", "cylinder": "cylinder"}
ADJECTIVES = {"large": "large", "big": "large", "small": "small", "tiny": "small", "rubber": "rubber",
              "matte": "rubber", "metal": "metal", "metallic": "metal", "shiny": "metal",
              **{color: color for color in VALUES["color"]}}
PLACES = {"left of": "left", "to the left of": "left", "on the left side of": "left",
          "right of": "right", "to the right of": "right", "on the right side of": "right",
          "in front of": "front", "behind": "behind"}
ALIKE = {f"{phrase}the same {attribute} as": attribute
         for attribute in VALUES for phrase in ("", "of ")} | {
         "made of the same material as": "material"}
EVERYTHING = ("scene",)
PATTERNS = {
    "count": ["how many G are there", "what number of G are there", "how many G are visible",
              "what is the number of G", "how many N VP", "what number of N VP",
              "how many of the N VP", "there is A ; how many N are I",
              "there is A ; what number of N are I"],
    "exist": ["are there any G", "is there A", "are any G visible", "is A visible", "are any N P",
              "do any N have P", "there is A ; are there any N I",
              "there is A ; is there a S I", "there is A ; is there an S I"],
    "query_size": ["how big is D", "how large is D", "there is A ; how big is it"],
    "query_material": ["what is D made of", "D is made of what material",
                       "there is A ; what is it made of", "there is A ; what material is it made of"],
    "query": ["what ATTR is D", "what is the ATTR of D", "what ATTR does D have", "D is what ATTR",
              "D has what ATTR", "there is A ; what ATTR is it", "there is A ; what is its ATTR"],
    "equal": ["do D and D have the same ATTR", "are D and D the same ATTR",
              "are D and D made of the same ATTR", "is D the same ATTR as D",
              "does D have the same ATTR as D", "is D made of the same ATTR as D",
              "is the ATTR of D equal to the ATTR of D", "is the ATTR of D the same as that of D",
              "there is A ; is it the same ATTR as D", "there is A ; does it have the same ATTR as D",
              "there is A ; is its ATTR the same as that of D",
              "there is A ; is it made of the same ATTR as D"],
    "equal_integer": ["are there an equal number of G and G", "are there the same number of G and G",
                      "is the number of G the same as the number of G",
                      "is the number of G equal to the number of G"],
    "less_than": ["are there fewer G than G", "is the number of G less than the number of G"],
    "greater_than": ["are there more G than G", "is the number of G greater than the number of G"],
    "or": ["how many N are either G or G", "how many N are G or G", "what number of N are either G or G",
           "what is the number of N that are either G or G"],
}


class Reader:
    """Finds the phrases of a sentence: each method yields (meaning, end) for all readings at `i`."""

    def __init__(self, text):
        self.words = text.lower().rstrip("?").replace(";", " ;").split()

    def at(self, phrase, i):
        """The end of the phrase if it stands at `i`, else None."""
        words = phrase.split()
        return i + len(words) if self.words[i:i + len(words)] == words else None

    def noun(self, i, plural):
        """Meaning: the values that are told, and whether it says "other"."""
        other = self.at("other", i) is not None
        i, values = i + other, []
        while i < len(self.words) and self.words[i] in ADJECTIVES:
            values.append(ADJECTIVES[self.words[i]])
            i += 1
        word = self.words[i] if i < len(self.words) else ""
        if word.endswith("s") == plural and word.removesuffix("s") in NOUNS:
            values += [v for v in [NOUNS[word.removesuffix("s")]] if v]
            assert len(set(values)) == len(values)
            yield (frozenset(values), other), i + 1

    def place(self, i):
        """Meaning: relate or same_..., and what it is told from."""
        for phrases, name in ((PLACES, "relate_{}"), (ALIKE, "same_{}")):
            for phrase, value in phrases.items():
                if end := self.at(phrase, i):
                    for thing, end in self.definite(end):
                        yield (name.format(value), thing), end

    def places(self, i):
        """One place, or two of them joined by "and"."""
        start = self.at("both", i)
        for place, end in self.place(start or i):
            if start is None:
                yield place, end
            if (second := self.at("and", end)):
                for other, end in self.place(second):
                    yield ("intersect", place, other), end

    def group(self, i, plural=True):
        for (values, other), end in self.noun(i, plural):
            yield from self.with_clause(values, other, end, "are" if plural else "is", plural)

    def with_clause(self, values, other, i, be, plural):
        if not other:
            yield grouped(values), i
        for lead in ("", f"that {be}", "that have" if plural else "that has"):
            if (start := self.at(lead, i)) is not None:
                for place, end in self.places(start):
                    if is_same(place) == other:
                        yield grouped(values, place), end

    def definite(self, i):
        if start := self.at("the", i):
            yield from self.group(start, plural=False)

    def indefinite(self, i):
        for start in filter(None, (self.at("a", i), self.at("an", i), self.at("another", i))):
            another = self.words[i] == "another"
            for (values, _), end in self.noun(start, False):
                assert self.words[i] != "an" or self.words[i + 1] == "object"
                yield from self.with_clause(values, another, end, "is", False)
        if start := self.at("anything", i):
            other = self.at("else", start)
            yield from self.with_clause(frozenset(), bool(other), other or start, "is", False)

    def from_it(self, i):
        for phrase, value in PLACES.items():
            if end := self.at(phrase + " it", i):
                yield f"relate_{value}", end

    def predicate(self, i):
        for verb in ("are", "have"):
            if start := self.at(verb, i):
                yield from self.places(start)

    def phrase(self, item, i):
        if item == "ATTR":
            if i < len(self.words) and self.words[i] in VALUES:
                yield self.words[i], i + 1
        elif item in ("N", "S"):
            yield from self.noun(i, item == "N")
        elif item.isupper():
            yield from {"G": self.group, "D": self.definite, "A": self.indefinite, "P": self.places,
                        "I": self.from_it, "VP": self.predicate}[item](i)
        elif end := self.at(item, i):
            yield None, end

    def match(self, items, i=0):
        """The meanings of a pattern's phrases, for each way to read all words."""
        if not items:
            if i == len(self.words):
                yield ()
            return
        for meaning, end in self.phrase(items[0], i):
            for rest in self.match(items[1:], end):
                yield ((meaning,) if items[0].isupper() else ()) + rest


def is_same(place):
    return place[0].startswith("same")


def grouped(values, base=EVERYTHING):
    return ("filter", values, base) if values else base


def read(text):
    """All meanings of a question."""
    reader, meanings = Reader(text), set()
    for kind, patterns in PATTERNS.items():
        for pattern in patterns:
            for found in reader.match(pattern.split()):
                meanings.add(combine(kind, pattern, found))
    return meanings


def combine(kind, pattern, found):
    if "ATTR" in pattern:
        asked = {part for part in found if isinstance(part, str)}
        assert len(asked) == 1
        kind = f"{kind}_{asked.pop()}"
        found = [part for part in found if not isinstance(part, str)]
    if kind == "or":
        (values, other), *sides = found
        assert not other
        return ("count", grouped(values, ("union", *sides)))
    if pattern.endswith(" I"):
        reference, (values, _), direction = found
        return (kind, grouped(values, (direction, reference)))
    if kind in ("count", "exist") and len(found) == 2:
        (values, other), place = found
        assert other == is_same(place)
        return (kind, grouped(values, place))
    return (kind, *found)


def meaning_of(program):
    """A program in the parser's terms: filters gathered, and no nodes where English has no word."""
    def at(i):
        node = program[i]
        function, inputs = node["function"], [at(j) for j in node["inputs"]]
        if function.startswith("filter"):
            (base,) = inputs
            told, base = base[1:] if base[0] == "filter" else (frozenset(), base)
            return grouped(told | {*node["value_inputs"]}, base)
        if function == "unique" or function == "count" and i < len(program) - 1:
            return inputs[0]
        if function.startswith("query") and i < len(program) - 1:
            return inputs[0]
        return ("_".join((function, *node["value_inputs"])), *inputs)
    return at(len(program) - 1)


def test_the_english_says_what_the_program_asks_and_nothing_else(asked):
    for _, question in asked:
        assert read(question["question"]) == {meaning_of(question["program"])}, question["question"]


def test_the_parser_tells_wordings_apart():
    one, two = (read(f"How many balls are left of the cube {join} behind the big thing?")
                for join in ("that is", "and"))
    assert len(one) == len(two) == 1 and one != two
    assert not read("How many balls are left of a cube?")


# Well-posed, not degenerate, and balanced.

def group_end(program, i):
    """The last node of the set that node `i` helps to describe."""
    users = {j: k for k, node in enumerate(program) for j in node["inputs"]}
    while program[users[i]]["function"] not in ("unique", "count", "exist"):
        i = users[i]
    return i


def without(program, i):
    """The program with one filter that lets all pass, or one relation that holds for the scene."""
    node = {"function": "scene", "inputs": [], "value_inputs": []}
    if program[i]["function"].startswith("filter"):
        node = {"function": "union", "inputs": program[i]["inputs"] * 2, "value_inputs": []}
    return [*program[:i], node, *program[i + 1:]]


def test_no_filter_and_no_relation_can_be_spared(asked):
    for scene, question in asked:
        program = question["program"]
        groups = run(program, scene)
        for i, node in enumerate(program):
            if node["function"].startswith(("filter", "relate", "same")):
                end = group_end(program, i)
                changed = run(without(program, i)[:end + 1], scene)
                assert changed[end] != groups[end], (question["question"], node)


def parts(group):
    """The values that are told of a group, and where it is."""
    return group[1:] if group[0] == "filter" else (frozenset(), group)


def holds(outer, inner):
    """Whether one group holds another in any scene."""
    return outer[0] <= inner[0] and outer[1] in (EVERYTHING, inner[1])


def single(place, straight=True):
    """Descriptions of which the question itself leaves no second thing, or none that way."""
    for reference in place[1:]:
        if place[0] == "intersect":
            yield from single(reference)
            continue
        told, origin = parts(reference)
        onward = straight and origin[0] == place[0]
        if onward or origin == EVERYTHING:
            yield told
        yield from single(origin, onward)


def test_no_question_answers_itself(asked):
    """What is asked is not told, nor what is the same; nothing is asked of all things but their
    number; no group is compared with, or joined to, a part of itself; there are no red cubes to
    count beside "the red cube"."""
    for _, question in asked:
        kind, *groups = meaning_of(question["program"])
        assert kind != "exist" or groups != [EVERYTHING]
        asked_for = VALUES.get(kind.partition("_")[2], set())
        for told, base in map(parts, groups):
            assert not told & asked_for, question["question"]
            if is_same(base):
                told |= parts(base[1])[0]
                assert not told & VALUES[base[0].removeprefix("same_")], question["question"]
            if base[0] == "union":
                groups = base[1:]
        if kind in ("count", "exist", *INTEGER):
            for told, base in map(parts, groups):
                assert not any(one <= told for one in single(base)), question["question"]
        if kind == "count" and len(groups) == 2 or kind in INTEGER:
            x, y = map(parts, groups)
            assert not holds(x, y) and not holds(y, x), question["question"]


def test_ten_different_questions_a_scene_spread_over_all_families(asked):
    assert len(asked) == 10 * SCENES
    assert len({(id(scene), question["question"]) for scene, question in asked}) == len(asked)
    families = Counter(question["question_family_index"] for _, question in asked)
    assert sorted(families) == list(range(FAMILIES))
    assert max(families.values()) - min(families.values()) <= 2


def test_families_fall_into_clevr_s_classes(asked):
    asks = {(question["question_family_index"], question["program"][-1]["function"])
            for _, question in asked}
    assert len(asks) == FAMILIES
    classes = Counter("integer" if function in INTEGER else function.partition("_")[0]
                      for _, function in asks)
    assert classes == {"count": 21, "exist": 12, "query": 32, "equal": 16, "integer": 9}


def test_answers_are_balanced(asked):
    answers = {}
    for _, question in asked:
        function = question["program"][-1]["function"]
        answers.setdefault(function, Counter())[question["answer"]] += 1
    for function, counts in answers.items():
        fair = (0.347 if function == "count" else        # the most frequent count of CLEVR's release
                1 / len(VALUES.get(function.removeprefix("query_"), ("yes", "no"))))
        share = max(counts.values()) / counts.total()
        assert share < fair + 3 * (fair * (1 - fair) / counts.total()) ** 0.5 + 0.02, function
    assert answers["count"]["0"] > answers["count"]["2"] > answers["count"]["4"]
    assert answers["count"]["1"] > answers["count"]["3"] > answers["count"]["5"]


def test_words_are_clevr_s(asked):
    texts = [re.sub(r"[;?]", "", question["question"].lower()).split() for _, question in asked]
    assert {word for text in texts for word in text} == WORDS
    assert len(WORDS) == 80
    assert max(map(len, texts)) <= 46
    assert all(question["question"][0].isupper() and question["question"].count("?") == 1
               for _, question in asked)


def test_the_same_seed_asks_the_same(scenes):
    assert ask_all(scenes[:50]) == ask_all(scenes[:50])
    assert ask_all(scenes[:50]) != ask_all(scenes[:50], seed=1)
