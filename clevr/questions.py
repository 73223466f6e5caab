"""Asks about a scene what CLEVR asks: ten questions of its 90 families (Johnson et al., CVPR 2017,
section 3), each with its functional program and its answer.

Sets of objects are bit sets, integers whose bit i is 1 if object i is in the set: {0, 2} is 0b101. Then
& is the intersection, | the union, & ~ the difference and bit_count() the size, and one NumPy array
holds the sets of objects that all 324 possible descriptions fit.

A question is made from its first object to its last. Every description is chosen among those that
are minimal, of which no word can be left out: "the red cube" is the only red cube, but neither the
only cube nor the only red thing. Likewise, a relation is told only where it makes a difference."""

from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

from .grammar import pick, say

QUESTIONS_PER_SCENE = 10
TRIES = 20              # per family, before the next one is tried

VALUES = {"size": ("large", "small"),
          "color": ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"),
          "material": ("rubber", "metal"),
          "shape": ("cube", "sphere", "cylinder")}
ATTRIBUTES = tuple(VALUES)
DIRECTIONS = ("left", "right", "behind", "front")

# Every possible description: values of size, color, material and shape, None where it says nothing.
DESCRIPTIONS = list(product(*((None, *VALUES[attribute]) for attribute in ATTRIBUTES)))
INDEX = {description: i for i, description in enumerate(DESCRIPTIONS)}
ANYTHING = DESCRIPTIONS[0]
NOTHING = len(DESCRIPTIONS)     # index of a description that fits no object


class Relation(NamedTuple):
    """How objects are related to a single one, their reference."""

    function: str               # relate, same_size, same_color, same_material or same_shape
    direction: str | None       # of relate
    reference: "Group"


class Group(NamedTuple):
    """Objects as a question names them: by a description, and by relations that all hold."""

    description: tuple
    relations: tuple = ()
    members: int = 0            # bit set


class Question(NamedTuple):
    """What is asked, whatever the wording."""

    function: str               # that gives the answer
    group: Group
    other: Group | None = None      # that it is compared with, or that "or" joins to it
    outer: tuple | None = None      # description that holds on both sides of "or"


def shorter(description):
    """The descriptions with one word less, by index, padded to four with NOTHING."""
    return [INDEX[description[:i] + (None,) + description[i + 1:]] if word else NOTHING
            for i, word in enumerate(description)]


def implies(description, other):
    """Whether all that fits `description` fits `other`."""
    return all(word in (None, own) for own, word in zip(description, other, strict=True))


SHORTER = np.array([shorter(description) for description in DESCRIPTIONS])      # (324, 4)
IMPLIED = np.array([[implies(description, other) for other in DESCRIPTIONS]
                    for description in DESCRIPTIONS])                           # (324, 324)


@cache
def says_nothing_of(*attributes):
    """Which descriptions say nothing of these attributes: bool (324,)."""
    return np.array([not any(description[ATTRIBUTES.index(attribute)] for attribute in attributes)
                     for description in DESCRIPTIONS])


def bit_set(indices):
    return sum(1 << i for i in indices)


class SceneSets:
    """The objects of a scene as bit sets: by relation and by description."""

    def __init__(self, scene):
        self.objects = objects = scene["objects"]
        self.all = (1 << len(objects)) - 1
        having = {value: bit_set(i for i, thing in enumerate(objects) if thing[attribute] == value)
                  for attribute in ATTRIBUTES for value in VALUES[attribute]}
        # related[function, direction][i]: the objects in this relation to object i
        self.related = {("relate", direction): [bit_set(indices) for indices in rows]
                        for direction, rows in scene["relationships"].items()}
        for attribute in ATTRIBUTES:
            self.related[f"same_{attribute}", None] = [
                having[thing[attribute]] & ~(1 << i) for i, thing in enumerate(objects)]
        having[None] = self.all
        size, color, material, shape = (np.array([having[value] for value in (None, *VALUES[attribute])])
                                        for attribute in ATTRIBUTES)
        fitting = size[:, None, None, None] & color[:, None, None] & material[:, None] & shape
        self.fitting = np.append(fitting, 0)        # (325,), by index of description
        self.cache = {}

    def in_all(self, relations):
        """The objects for which all of the relations hold."""
        members = self.all
        for relation in relations:
            members &= self.related[relation[:2]][relation.reference.members.bit_length() - 1]
        return members

    def leave_one_out(self, relations):
        """For each relation, the objects for which the others hold, but for its own reference."""
        return [self.in_all(relations[:i] + relations[i + 1:]) & ~relation.reference.members
                for i, relation in enumerate(relations)]

    def candidates(self, relations):
        """The objects that fit each description and the relations, int (324,), and whether neither a
        word nor a relation can be left out without changing them, bool (324,)."""
        key = inside, *rests = self.in_all(relations), *self.leave_one_out(relations)
        if key not in self.cache:
            members = self.fitting & inside
            members[NOTHING] = -1
            minimal = (members[SHORTER] != members[:NOTHING, None]).all(1)
            for rest in rests:
                minimal &= self.fitting[:NOTHING] & rest != members[:NOTHING]
            self.cache[key] = members[:NOTHING], minimal
        return self.cache[key]

    def sample_object(self, rng, relations=(), omit=(), exclude=0):
        """A group of a single object, not one of `exclude`, described without the attributes in `omit`;
        None if there is none."""
        members, minimal = self.candidates(relations)
        single = (members > 0) & (members & members - 1 == 0) & (members & exclude == 0)
        return sample_group(rng, minimal & single & says_nothing_of(*omit), members, relations)

    def sample_objects(self, rng, relations=(), omit=(), unique=()):
        """A group of any number of objects, also none. Descriptions that imply one of `unique` are left
        out: there is but one red cube if the question speaks of "the red cube"."""
        members, minimal = self.candidates(relations)
        allowed = minimal & says_nothing_of(*omit)
        for description in unique:
            allowed &= ~IMPLIED[:, INDEX[description]]
        return sample_group(rng, allowed, members, relations)


def sample_group(rng, allowed, members, relations):
    """A Group with one of the descriptions that are `allowed`, bool (324,); None if none is.

    Larger groups come more often: evenly drawn groups have 0 or 1 objects more often than CLEVR's."""
    options = np.flatnonzero(allowed)
    if not options.size:
        return None
    cumulative = np.cumsum(1 + np.bitwise_count(members[options]) / 2)
    choice = options[np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")]
    return Group(DESCRIPTIONS[choice], relations, int(members[choice]))


def sample_relation(rng, reference):
    return Relation("relate", pick(rng, DIRECTIONS), reference)


def unique_descriptions(relation):
    """Descriptions of which the question itself says that at most one object in `relation` has them."""
    descriptions, same_direction, reference = [], True, relation.reference
    while reference.relations:
        # Left of the ball that is the only one left of the cube, there is no other ball.
        same_direction &= reference.relations[0][:2] == relation[:2]
        if same_direction:
            descriptions.append(reference.description)
        reference = reference.relations[0].reference
    return descriptions + [reference.description]


# One function for each kind of family: it returns a Question, or None if the random choices lead nowhere.

def hops(sets, rng, function, count):
    relations, used = (), 0
    for _ in range(count):
        reference = sets.sample_object(rng, relations, exclude=used)
        if reference is None:
            return None
        used |= reference.members
        relations = (sample_relation(rng, reference),)
    return ask_about(sets, rng, function, relations, used)


def ask_about(sets, rng, function, relations, used=0, omit=()):
    """The last step of a chain: the objects in the relations whose attribute or number is asked."""
    if function.startswith("query"):
        group = sets.sample_object(rng, relations, (*omit, function[6:]), used)
    else:
        group = sets.sample_objects(rng, relations, omit,
                                    [d for relation in relations for d in unique_descriptions(relation)])
    if group and function == "exist" and group.members == sets.all:
        return None     # "is there a thing?": the answer is known without a look
    return group and Question(function, group)


def single_and(sets, rng, function):
    first = sets.sample_object(rng)
    second = first and sets.sample_object(rng, exclude=first.members)
    if second is None:
        return None
    relations = sample_relation(rng, first), sample_relation(rng, second)
    return ask_about(sets, rng, function, relations, first.members | second.members)


def same_relate(sets, rng, function, attribute, described):
    reference = sets.sample_object(rng, omit=(attribute,))
    if reference is None:
        return None
    relations = (Relation(f"same_{attribute}", None, reference),)
    question = ask_about(sets, rng, function, relations, omit=(attribute,))
    if described is None or question and described == any(question.group.description):
        return question


def compare_integer(sets, rng, function, related):
    groups = two_groups(sets, rng, related)
    if groups is None:
        return None
    x, y = groups
    if not nested(x, y) and (x.members or y.members):
        return Question(function, x, y)


def nested(x, y):
    """Whether one of two groups contains the other in any scene, like cubes and red cubes."""
    return any(not outer.relations and implies(inner.description, outer.description)
               for inner, outer in ((x, y), (y, x)))


def two_groups(sets, rng, related, omit=()):
    """Two groups of objects; where `related` is true, each is related to an object of its own."""
    relations, used = [], 0
    for is_related in related:
        reference = sets.sample_object(rng, exclude=used) if is_related else None
        if is_related and reference is None:
            return None
        if is_related:
            used |= reference.members
        relations.append((sample_relation(rng, reference),) if is_related else ())
    unique = [relation[0].reference.description for relation in relations if relation]
    groups = [sets.sample_objects(rng, relation, omit, unique) for relation in relations]
    return None if None in groups else groups


def comparison(sets, rng, function, related):
    pair, used = [], 0
    for is_related in related:
        relations = ()
        if is_related:
            reference = sets.sample_object(rng)
            if reference is None:
                return None
            relations = (sample_relation(rng, reference),)
        group = sets.sample_object(rng, relations, (function[6:],), used)
        if group is None:
            return None
        used |= group.members
        pair.append(group)
    return Question(function, *pair)


def single_or(sets, rng, function, related, attribute):
    groups = two_groups(sets, rng, related, (attribute,) if attribute else ())
    if groups is None or nested(*groups):
        return None
    outer = list(ANYTHING)
    if attribute:
        outer[ATTRIBUTES.index(attribute)] = pick(rng, VALUES[attribute])
    question = Question(function, *groups, tuple(outer))
    return question if is_minimal(sets, question) else None


def is_minimal(sets, question):
    """Whether no word and no relation can be left out on either side of an "or"."""
    x, y = question.group, question.other
    outer, fitting = int(sets.fitting[INDEX[question.outer]]), sets.fitting
    members = outer & (x.members | y.members)
    relaxed = [x.members | y.members] if any(question.outer) else []
    for group, others in ((x, y.members), (y, x.members)):
        if outer & group.members and not outer & group.members & ~others:
            return False
        inside = sets.in_all(group.relations)
        relaxed += [outer & (int(fitting[i]) & inside | others)
                    for i in shorter(group.description) if i != NOTHING]
        relaxed += [outer & (int(fitting[INDEX[group.description]]) & rest | others)
                    for rest in sets.leave_one_out(group.relations)]
    return members not in relaxed


ASKED = ("count", "exist", *(f"query_{attribute}" for attribute in ATTRIBUTES))
# In the order in which the release of CLEVR v1.0 numbers them.
FAMILIES = [
    *((compare_integer, function, related) for related in ((False, False), (True, False), (True, True))
      for function in ("equal_integer", "less_than", "greater_than")),
    *((comparison, f"equal_{attribute}", related) for related in product((False, True), repeat=2)
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


def answer_to(question, sets):
    """The answer, as a string."""
    def size(group):
        return group.members.bit_count()

    def value(group):
        return sets.objects[group.members.bit_length() - 1][attribute]

    function, x, y = question.function, question.group, question.other
    attribute = function.partition("_")[2]
    if question.outer:
        return str((int(sets.fitting[INDEX[question.outer]]) & (x.members | y.members)).bit_count())
    if function == "count":
        return str(size(x))
    if function.startswith("query"):
        return value(x)
    if function == "exist":
        is_true = x.members > 0
    elif function == "equal_integer":
        is_true = size(x) == size(y)
    elif function == "less_than":
        is_true = size(x) < size(y)
    elif function == "greater_than":
        is_true = size(x) > size(y)
    else:
        is_true = value(x) == value(y)
    return "yes" if is_true else "no"


def program(question):
    """The functional program: a list of nodes, each after those that it takes as inputs."""
    nodes, function = [], question.function

    def add(function, *inputs, value=None):
        nodes.append({"function": function, "inputs": list(inputs),
                      "value_inputs": [value] if value else []})
        return len(nodes) - 1

    def add_group(group):
        ends = [add(relation.function, add("unique", add_group(relation.reference)), value=relation.direction)
                for relation in group.relations] or [add("scene")]
        return add_filters(add("intersect", *ends) if len(ends) == 2 else ends[0], group.description)

    def add_filters(node, description):
        for attribute, word in zip(ATTRIBUTES, description, strict=True):
            if word:
                node = add(f"filter_{attribute}", node, value=word)
        return node

    def add_operand(group):
        node = add_group(group)
        if function.startswith("query"):
            return add("unique", node)
        if function in ("equal_integer", "less_than", "greater_than"):
            return add("count", node)
        if function.startswith("equal"):
            return add(f"query_{function[6:]}", add("unique", node))
        return node

    ends = [add_operand(group) for group in (question.group, question.other) if group]
    if question.outer:
        ends = [add_filters(add("union", *ends), question.outer)]
    add(function, *ends)
    return nodes


def ask(scene, rng, counts):
    """Ten questions about a scene, or fewer if it allows no more.

    `scene` has the `objects` and `relationships` of CLEVR's scene files; `rng` is a NumPy generator.
    `counts` maps (family, answer) to how often it was given. It starts empty and is passed on from scene
    to scene of a split; it keeps families and answers in balance."""
    sets = SceneSets(scene)
    asked = [0] * len(FAMILIES)
    for (family, _), count in counts.items():
        asked[family] += count
    order = sorted(rng.permutation(len(FAMILIES)).tolist(), key=asked.__getitem__)
    questions = []
    for family in order:
        question, answer = sample_balanced(sets, rng, family, counts)
        if question is None:
            continue
        text = say(question, rng)
        counts[family, answer] = counts.get((family, answer), 0) + 1
        questions.append({"question": text, "answer": answer, "program": program(question),
                          "question_family_index": family})
        if len(questions) == QUESTIONS_PER_SCENE:
            break
    return questions


def sample_balanced(sets, rng, family, counts):
    """A question of a family, and an answer that the family has not had too often; else None, None."""
    sample, *arguments = FAMILIES[family]
    for _ in range(TRIES):
        if question := sample(sets, rng, *arguments):
            answer = answer_to(question, sets)
            others = [count for (other, name), count in counts.items() if other == family and name != answer]
            if counts.get((family, answer), 0) <= 1.1 * max(others, default=0) + 1:
                return question, answer
    return None, None
