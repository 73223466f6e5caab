"""Asks about a scene what CLEVR asks: ten questions of its 90 families (Johnson et al., CVPR 2017,
section 3), each with its functional program and its answer.

A question is made from its first object to its last. Every description is chosen among those of
which no word can be spared: "the red cube" is the only red cube, but neither the only cube nor the
only red thing; and a place is told only where it makes a difference."""

from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

from .grammar import pick, say

QUESTIONS_PER_SCENE = 10
TRIES = 20              # at one family, before the next has its turn

VALUES = {"size": ("large", "small"),
          "color": ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"),
          "material": ("rubber", "metal"),
          "shape": ("cube", "sphere", "cylinder")}
ATTRIBUTES = tuple(VALUES)
DIRECTIONS = ("left", "right", "behind", "front")

# Every description there is: words for size, color, material and shape, None where nothing is said.
DESCRIPTIONS = list(product(*((None, *VALUES[attribute]) for attribute in ATTRIBUTES)))
INDEX = {description: i for i, description in enumerate(DESCRIPTIONS)}
ANYTHING = DESCRIPTIONS[0]
NOTHING = len(DESCRIPTIONS)     # stands for a description that nothing fits


class Place(NamedTuple):
    """Where things are, seen from a single thing."""

    function: str               # relate, same_size, same_color, same_material or same_shape
    direction: str | None       # of relate
    reference: "Things"


class Things(NamedTuple):
    """Objects as a question names them: what they are like, and where (at all of the places)."""

    description: tuple
    places: tuple = ()
    found: int = 0              # bit i is set: object i is one of them


class Question(NamedTuple):
    """What is asked, whatever the wording."""

    function: str               # that gives the answer
    things: Things
    other: Things | None = None     # that they are compared with, or that "or" joins to them
    outer: tuple | None = None      # description that holds on both sides of "or"


def shorter(description):
    """The descriptions with one word less, made up to four with NOTHING."""
    return [INDEX[description[:i] + (None,) + description[i + 1:]] if word else NOTHING
            for i, word in enumerate(description)]


def implies(description, other):
    """Whether all that fits `description` fits `other`."""
    return all(word in (None, said) for said, word in zip(description, other))


SHORTER = np.array([shorter(description) for description in DESCRIPTIONS])      # (324, 4)
IMPLIED = np.array([[implies(description, other) for other in DESCRIPTIONS]
                    for description in DESCRIPTIONS])                           # (324, 324)


@cache
def silent(*attributes):
    """Which descriptions say nothing of these attributes: bool (324,)."""
    return np.array([not any(description[ATTRIBUTES.index(attribute)] for attribute in attributes)
                     for description in DESCRIPTIONS])


class World:
    """A scene as sets of objects, held as the bits of integers."""

    def __init__(self, scene):
        self.objects = objects = scene["objects"]
        self.everything = (1 << len(objects)) - 1
        having = {value: bits(i for i, thing in enumerate(objects) if thing[attribute] == value)
                  for attribute in ATTRIBUTES for value in VALUES[attribute]}
        self.beside = {("relate", direction): [bits(indices) for indices in rows]
                       for direction, rows in scene["relationships"].items()}
        for attribute in ATTRIBUTES:
            self.beside[f"same_{attribute}", None] = [
                having[thing[attribute]] & ~(1 << i) for i, thing in enumerate(objects)]
        having[None] = self.everything
        size, color, material, shape = (
            np.array([having[value] for value in (None, *VALUES[attribute])])
            for attribute in ATTRIBUTES)
        fitting = size[:, None, None, None] & color[:, None, None] & material[:, None] & shape
        self.fitting = np.append(fitting, 0)        # (325,), by number of description
        self.known = {}

    def at(self, places):
        """The objects that are at all of the places."""
        found = self.everything
        for place in places:
            found &= self.beside[place[:2]][place.reference.found.bit_length() - 1]
        return found

    def but_for(self, places):
        """For each place, the objects at the others (its own reference is not meant by any)."""
        return [self.at(places[:i] + places[i + 1:]) & ~place.reference.found
                for i, place in enumerate(places)]

    def options(self, places):
        """What each description picks out at the places, int (324,), and whether no word of it and
        no place can be spared, bool (324,)."""
        key = inside, *rests = self.at(places), *self.but_for(places)
        if key not in self.known:
            found = self.fitting & inside
            found[NOTHING] = -1
            sharp = (found[SHORTER] != found[:NOTHING, None]).all(1)
            for rest in rests:
                sharp &= self.fitting[:NOTHING] & rest != found[:NOTHING]
            self.known[key] = found[:NOTHING], sharp
        return self.known[key]

    def one(self, rng, places=(), unsaid=(), but=0):
        """A single object at the places, none of `but`, in words that say nothing of the attributes
        `unsaid`; None if there is none."""
        found, sharp = self.options(places)
        single = (found > 0) & (found & found - 1 == 0) & (found & but == 0)
        return draw(rng, sharp & single & silent(*unsaid), found, places)

    def some(self, rng, places=(), unsaid=(), settled=()):
        """Any number of objects, also none. Words that fit a `settled` thing only are left out: there
        is but one red cube if the question speaks of "the red cube"."""
        found, sharp = self.options(places)
        good = sharp & silent(*unsaid)
        for description in settled:
            good &= ~IMPLIED[:, INDEX[description]]
        return draw(rng, good, found, places)


def bits(indices):
    return sum(1 << i for i in indices)


def draw(rng, good, found, places):
    """One of the descriptions that are `good`, bool (324,), as Things; None if there is none.

    Larger groups come more often, for evenly drawn groups hold 0 or 1 more often than CLEVR's."""
    options = np.flatnonzero(good)
    if not options.size:
        return None
    reach = np.cumsum(1 + np.bitwise_count(found[options]) / 2)
    choice = options[np.searchsorted(reach, rng.random() * reach[-1], side="right")]
    return Things(DESCRIPTIONS[choice], places, int(found[choice]))


def settled(place):
    """Descriptions that the question itself leaves no second object for at `place`."""
    descriptions, straight, reference = [], True, place.reference
    while reference.places:
        # Left of the ball that is the only one left of the cube, there is no other ball.
        straight &= reference.places[0][:2] == place[:2]
        if straight:
            descriptions.append(reference.description)
        reference = reference.places[0].reference
    return descriptions + [reference.description]


# The makers: each returns a Question of its families, or None if chance led it astray.

def hops(world, rng, function, count):
    places, passed = (), 0
    for _ in range(count):
        reference = world.one(rng, places, but=passed)
        if reference is None:
            return None
        passed |= reference.found
        places = (Place("relate", pick(rng, DIRECTIONS), reference),)
    return ask_about(world, rng, function, places, passed)


def ask_about(world, rng, function, places, passed=0, unsaid=()):
    """The last step of a chain: the objects at the places whose attribute or number is asked."""
    if function.startswith("query"):
        things = world.one(rng, places, (*unsaid, function[6:]), passed)
    else:
        things = world.some(rng, places, unsaid, [d for place in places for d in settled(place)])
    if things and function == "exist" and things.found == world.everything:
        return None     # is there a thing? The answer is known without a look.
    return things and Question(function, things)


def single_and(world, rng, function):
    first = world.one(rng)
    second = first and world.one(rng, but=first.found)
    if second is None:
        return None
    places = (Place("relate", pick(rng, DIRECTIONS), first),
              Place("relate", pick(rng, DIRECTIONS), second))
    return ask_about(world, rng, function, places, first.found | second.found)


def same_relate(world, rng, function, attribute, described):
    reference = world.one(rng, unsaid=(attribute,))
    if reference is None:
        return None
    places = (Place(f"same_{attribute}", None, reference),)
    question = ask_about(world, rng, function, places, unsaid=(attribute,))
    if described is None or question and described == any(question.things.description):
        return question


def compare_integer(world, rng, function, sides):
    groups = two_groups(world, rng, sides)
    if groups is None:
        return None
    x, y = groups
    if not nested(x, y) and (x.found or y.found):
        return Question(function, x, y)


def nested(x, y):
    """Whether one of two groups holds the other in any scene, like cubes and red cubes."""
    return any(not outer.places and implies(inner.description, outer.description)
               for inner, outer in ((x, y), (y, x)))


def two_groups(world, rng, sides, unsaid=()):
    """Two groups of objects; where `sides` is true, at the side of an object, each of another."""
    places, passed = [], 0
    for told in sides:
        reference = world.one(rng, but=passed) if told else None
        if told and reference is None:
            return None
        if told:
            passed |= reference.found
        places.append((Place("relate", pick(rng, DIRECTIONS), reference),) if told else ())
    known = [place[0].reference.description for place in places if place]
    groups = [world.some(rng, place, unsaid, known) for place in places]
    return None if None in groups else groups


def comparison(world, rng, function, sides):
    pair, passed = [], 0
    for told in sides:
        places = ()
        if told:
            reference = world.one(rng)
            if reference is None:
                return None
            places = (Place("relate", pick(rng, DIRECTIONS), reference),)
        things = world.one(rng, places, (function[6:],), passed)
        if things is None:
            return None
        passed |= things.found
        pair.append(things)
    return Question(function, *pair)


def single_or(world, rng, function, sides, attribute):
    unsaid = (attribute,) if attribute else ()
    groups = two_groups(world, rng, sides, unsaid)
    if groups is None or nested(*groups):
        return None
    outer = list(ANYTHING)
    if attribute:
        outer[ATTRIBUTES.index(attribute)] = pick(rng, VALUES[attribute])
    question = Question(function, *groups, tuple(outer))
    return question if all_needed(world, question) else None


def all_needed(world, question):
    """Whether no word and no place can be spared on either side of an "or"."""
    x, y = question.things, question.other
    fits = int(world.fitting[INDEX[question.outer]])
    found = fits & (x.found | y.found)
    looser = [x.found | y.found] if any(question.outer) else []
    for mine, others in ((x, y.found), (y, x.found)):
        if fits & mine.found and not fits & mine.found & ~others:
            return False
        inside, fitting = world.at(mine.places), world.fitting
        looser += [fits & (int(fitting[i]) & inside | others)
                   for i in shorter(mine.description) if i != NOTHING]
        looser += [fits & (int(fitting[INDEX[mine.description]]) & rest | others)
                   for rest in world.but_for(mine.places)]
    return found not in looser


ASKED = ("count", "exist", *(f"query_{attribute}" for attribute in ATTRIBUTES))
# In the order in which the release of CLEVR v1.0 numbers them.
FAMILIES = [
    *((compare_integer, function, sides) for sides in ((False, False), (True, False), (True, True))
      for function in ("equal_integer", "less_than", "greater_than")),
    *((comparison, f"equal_{attribute}", sides) for sides in product((False, True), repeat=2)
      for attribute in ATTRIBUTES),
    *((hops, function, 3) for function in ASKED),
    *((single_and, function) for function in ASKED if function != "exist"),
    *((same_relate, function, attribute, described) for described in (False, True)
      for function in ("exist", "count") for attribute in ATTRIBUTES),
    *((same_relate, f"query_{asked}", attribute, None) for attribute in ATTRIBUTES
      for asked in ATTRIBUTES if asked != attribute),
    *((single_or, "count", (False, False), attribute) for attribute in (None, "size", "color")),
    (single_or, "count", (True, True), None),
    *((single_or, "count", (False, False), attribute) for attribute in ("material", "shape")),
    (single_or, "count", (True, False), None),
    (single_or, "count", (False, True), None),
    *((hops, function, count) for count in (1, 2) for function in ASKED),
    *((hops, function, 0) for function in ("count", "exist", "query_shape", "query_material",
                                           "query_color", "query_size")),
]


def answer(world, question):
    """The answer, as a string."""
    function, x, y = question.function, question.things, question.other
    if question.outer:
        fits = int(world.fitting[INDEX[question.outer]])
        return str((fits & (x.found | y.found)).bit_count())
    if function == "count":
        return str(x.found.bit_count())
    if function.startswith("query"):
        return attribute_of(world, x, function[6:])
    if function == "exist":
        true = x.found > 0
    elif function == "equal_integer":
        true = x.found.bit_count() == y.found.bit_count()
    elif function == "less_than":
        true = x.found.bit_count() < y.found.bit_count()
    elif function == "greater_than":
        true = x.found.bit_count() > y.found.bit_count()
    else:
        true = attribute_of(world, x, function[6:]) == attribute_of(world, y, function[6:])
    return "yes" if true else "no"


def attribute_of(world, thing, attribute):
    return world.objects[thing.found.bit_length() - 1][attribute]


def program(question):
    """The functional program: nodes in an order in which inputs come before their use."""
    nodes, function = [], question.function

    def add(function, *inputs, value=None):
        nodes.append({"function": function, "inputs": list(inputs),
                      "value_inputs": [value] if value else []})
        return len(nodes) - 1

    def group(things):
        ends = [add(place.function, add("unique", group(place.reference)), value=place.direction)
                for place in things.places]
        if not ends:
            ends = [add("scene")]
        return fit(add("intersect", *ends) if len(ends) == 2 else ends[0], things.description)

    def fit(node, description):
        for attribute, word in zip(ATTRIBUTES, description):
            if word:
                node = add(f"filter_{attribute}", node, value=word)
        return node

    def operand(things):
        node = group(things)
        if function.startswith("query"):
            return add("unique", node)
        if function in ("equal_integer", "less_than", "greater_than"):
            return add("count", node)
        if function.startswith("equal"):
            return add(f"query_{function[6:]}", add("unique", node))
        return node

    ends = [operand(things) for things in (question.things, question.other) if things]
    if question.outer:
        ends = [fit(add("union", *ends), question.outer)]
    add(function, *ends)
    return nodes


def ask(scene, rng, counts):
    """Ten questions about a scene, or as many as can be asked of a scene that shows next to nothing.

    `scene` has the `objects` and `relationships` of CLEVR's scene files; `rng` is a NumPy generator.
    `counts` maps (family, answer) to how often it was given; an empty dict for the first scene, and
    the same for all scenes of a split, it keeps families and answers in balance."""
    world = World(scene)
    asked = [0] * len(FAMILIES)
    for (family, _), number in counts.items():
        asked[family] += number
    order = sorted(rng.permutation(len(FAMILIES)).tolist(), key=asked.__getitem__)
    questions = []
    for family in order:
        made = balanced(world, rng, family, counts)
        if made is None:
            continue
        question, reply = made
        text = say(question, rng)
        counts[family, reply] = counts.get((family, reply), 0) + 1
        questions.append({"question": text, "answer": reply, "program": program(question),
                          "question_family_index": family})
        if len(questions) == QUESTIONS_PER_SCENE:
            break
    return questions


def balanced(world, rng, family, counts):
    """A question of a family with an answer that the family has not had too often yet."""
    make, *arguments = FAMILIES[family]
    for _ in range(TRIES):
        question = make(world, rng, *arguments)
        if question:
            reply = answer(world, question)
            if not too_often(family, reply, counts):
                return question, reply
    return None


def too_often(family, reply, counts):
    rivals = [number for (other, name), number in counts.items() if other == family and name != reply]
    return counts.get((family, reply), 0) > 1.1 * max(rivals, default=0) + 1
