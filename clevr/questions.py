"""Generates CLEVR's questions about a scene: ten from its 90 families (Johnson et al.,
CVPR 2017, section 3), each with its functional program and its answer.

Sets of objects are bit sets, integers whose bit i is 1 if object i is in the set:
{0, 2} is 0b101. Then & is the intersection, | the union, & ~ the difference and
bit_count() the size, and one NumPy array holds the sets of objects that all 324
possible descriptions fit.

A question is made from its first object to its last. Every description is chosen among
those that are minimal, of which no word can be left out: "the red cube" is the only red
cube, but neither the only cube nor the only red thing. Likewise, a relation is told
only where it makes a difference."""

from collections import Counter
from contextlib import suppress
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np

from .attributes import ATTRIBUTES, DIRECTIONS, VALUES
from .grammar import pick, say

QUESTIONS_PER_SCENE = 10
TRIES = 20  # per family, before the next one is tried

# Every possible description: values of size, color, material and shape, None where it
# says nothing.
DESCRIPTIONS = list(product(*((None, *VALUES[attribute]) for attribute in ATTRIBUTES)))
INDEX = {description: i for i, description in enumerate(DESCRIPTIONS)}
NOTHING = len(DESCRIPTIONS)  # index of a description that fits no object


def shorter_descriptions(description):
    """The indices of those with one word less, padded to four with NOTHING."""
    indices = [NOTHING] * len(description)
    for i, word in enumerate(description):
        if word:
            indices[i] = INDEX[description[:i] + (None,) + description[i + 1 :]]
    return indices


SHORTER = np.array([shorter_descriptions(text) for text in DESCRIPTIONS])  # (324, 4)
WORDS = np.array(DESCRIPTIONS)
# SILENT[i, a]: whether description i is without attribute a
SILENT = np.equal(DESCRIPTIONS, None)
# IMPLIED[i, j]: whether all that fits description i fits j
IMPLIED = (SILENT | (WORDS == WORDS[:, None])).all(2)


class Relation(NamedTuple):
    """How objects are related to a single one, their reference."""

    function: str  # relate, same_size, same_color, same_material or same_shape
    direction: str | None  # of relate
    reference: "Group"


class Group(NamedTuple):
    """Objects as a question names them: by a description, and relations that all
    hold."""

    description: tuple
    relations: tuple = ()
    members: int = 0  # bit set


class Question(NamedTuple):
    """What is asked, whatever the wording."""

    function: str  # that gives the answer
    group: Group
    other: Group | None = None  # that it is compared with, or that "or" joins to it
    outer: Group | None = None  # what holds on both sides of "or"


class NoQuestion(Exception):
    """The random choices led nowhere. All that samples raises it."""


class SceneSets:
    """The objects of a scene as bit sets: by relation and by description."""

    def __init__(self, scene):
        self.objects = scene["objects"]
        self.all = (1 << len(self.objects)) - 1
        having = {
            value: bit_set(
                i for i, thing in enumerate(self.objects) if thing[attribute] == value
            )
            for attribute in ATTRIBUTES
            for value in VALUES[attribute]
        }
        # related[function, direction][i]: the objects in this relation to object i
        self.related = {
            ("relate", direction): [bit_set(indices) for indices in rows]
            for direction, rows in scene["relationships"].items()
        }
        for attribute in ATTRIBUTES:
            self.related[f"same_{attribute}", None] = [
                having[thing[attribute]] & ~(1 << i)
                for i, thing in enumerate(self.objects)
            ]
        having[None] = self.all
        fitting = [
            having[size] & having[color] & having[material] & having[shape]
            for size, color, material, shape in DESCRIPTIONS
        ]
        self.fitting = np.array([*fitting, 0])  # (325,), by index of description
        self.cache = {}

    def in_all(self, relations):
        """The objects for which all of the relations hold."""
        members = self.all
        for relation in relations:
            related = self.related[relation.function, relation.direction]
            members &= related[index_of(relation.reference.members)]
        return members

    def leave_one_out(self, relations):
        """For each relation, the objects for which the others hold, but for its own
        reference."""
        rests = []
        for i, relation in enumerate(relations):
            others = relations[:i] + relations[i + 1 :]
            rests.append(self.in_all(others) & ~relation.reference.members)
        return rests

    def minimal_descriptions(self, relations):
        """What each description leaves together with the relations, bit sets (324,),
        and whether it is minimal, bool (324,)."""
        inside = self.in_all(relations)
        rests = self.leave_one_out(relations)
        key = (inside, *rests)
        if key not in self.cache:
            members = self.fitting & inside
            members[NOTHING] = -1
            minimal = (members[SHORTER] != members[:NOTHING, None]).all(1)
            for rest in rests:
                minimal &= self.fitting[:NOTHING] & rest != members[:NOTHING]
            self.cache[key] = members[:NOTHING], minimal
        return self.cache[key]

    def sample_objects(self, rng, relations=(), omit=(), unique=(), exclude=None):
        """A group of objects, possibly empty; with `exclude`, a bit set, one object
        outside that set. Its description is minimal, has no attribute in `omit` and
        implies none of `unique`: if the question says "the red cube", there is only
        one."""
        members, allowed = self.minimal_descriptions(relations)
        for attribute in omit:
            allowed = allowed & SILENT[:, ATTRIBUTES.index(attribute)]
        for description in unique:
            allowed = allowed & ~IMPLIED[:, INDEX[description]]
        if exclude is not None:
            allowed = allowed & (np.bitwise_count(members) == 1)
            allowed = allowed & (members & exclude == 0)
        options = np.flatnonzero(allowed)
        if not options.size:
            raise NoQuestion
        # Larger groups come more often: evenly drawn groups have 0 or 1 objects more
        # often than CLEVR's.
        cumulative = np.cumsum(1 + np.bitwise_count(members[options]) / 2)
        drawn = rng.random() * cumulative[-1]
        choice = options[np.searchsorted(cumulative, drawn, side="right")]
        return Group(DESCRIPTIONS[choice], relations, int(members[choice]))

    def sample_object(self, rng, relations=(), omit=(), exclude=0):
        """A group of a single object, as above."""
        return self.sample_objects(rng, relations, omit, exclude=exclude)


def bit_set(indices):
    return sum(1 << i for i in indices)


def index_of(members):
    """The index of the only object in a bit set."""
    return members.bit_length() - 1


def sample_relation(rng, reference):
    return Relation("relate", pick(rng, DIRECTIONS), reference)


def unique_descriptions(relation):
    """Descriptions of which the question itself says that at most one object in
    `relation` has them."""
    descriptions = []
    same_direction = True
    reference = relation.reference
    while reference.relations:
        inner = reference.relations[0]
        if (inner.function, inner.direction) != (relation.function, relation.direction):
            same_direction = False
        if same_direction:
            # Left of the ball that is the only one left of the cube is no other ball.
            descriptions.append(reference.description)
        reference = inner.reference
    return [*descriptions, reference.description]


# One function for each kind of family. Each returns a Question or raises NoQuestion.


def hops(sets, rng, function, count):
    relations = ()
    used = 0
    for _ in range(count):
        reference = sets.sample_object(rng, relations, exclude=used)
        used |= reference.members
        relations = (sample_relation(rng, reference),)
    return ask_about(sets, rng, function, relations, used)


def ask_about(sets, rng, function, relations, used=0, omit=()):
    """The last step of a chain: the objects in the relations whose attribute or number
    is asked."""
    if function.startswith("query_"):
        attribute = function.removeprefix("query_")
        group = sets.sample_object(rng, relations, (*omit, attribute), used)
        return Question(function, group)
    unique = []
    for relation in relations:
        unique += unique_descriptions(relation)
    group = sets.sample_objects(rng, relations, omit, unique)
    if function == "exist" and group.members == sets.all:
        raise NoQuestion  # "is there a thing?": the answer is known without a look
    return Question(function, group)


def single_and(sets, rng, function):
    first = sets.sample_object(rng)
    second = sets.sample_object(rng, exclude=first.members)
    relations = (sample_relation(rng, first), sample_relation(rng, second))
    return ask_about(sets, rng, function, relations, first.members | second.members)


def same_relate(sets, rng, function, attribute, described):
    reference = sets.sample_object(rng, omit=(attribute,))
    relations = (Relation(f"same_{attribute}", None, reference),)
    question = ask_about(sets, rng, function, relations, omit=(attribute,))
    if described not in (None, any(question.group.description)):
        raise NoQuestion
    return question


def compare_integer(sets, rng, function, related):
    x, y = two_groups(sets, rng, related)
    if nested(x, y) or not (x.members or y.members):
        raise NoQuestion
    return Question(function, x, y)


def nested(x, y):
    """Whether one of two groups contains the other in every scene, as cubes do red
    cubes."""
    return contains(x, y) or contains(y, x)


def contains(outer, inner):
    implied = IMPLIED[INDEX[inner.description], INDEX[outer.description]]
    return not outer.relations and implied


def two_groups(sets, rng, related, omit=()):
    """Two groups of objects; where `related` is true, each is related to an object of
    its own."""
    relations = [(), ()]
    unique = []
    used = 0
    for i in np.flatnonzero(related):
        reference = sets.sample_object(rng, exclude=used)
        used |= reference.members
        unique.append(reference.description)
        relations[i] = (sample_relation(rng, reference),)
    groups = []
    for relation in relations:
        # The second is drawn even if the first fails: a seed is to keep its data.
        with suppress(NoQuestion):
            groups.append(sets.sample_objects(rng, relation, omit, unique))
    if len(groups) < 2:
        raise NoQuestion
    return groups


def comparison(sets, rng, attribute, related):
    pair = []
    used = 0
    for is_related in related:
        relations = ()
        if is_related:
            relations = (sample_relation(rng, sets.sample_object(rng)),)
        group = sets.sample_object(rng, relations, (attribute,), used)
        used |= group.members
        pair.append(group)
    return Question(f"equal_{attribute}", pair[0], pair[1])


def single_or(sets, rng, related, attribute):
    x, y = two_groups(sets, rng, related, (attribute,) if attribute else ())
    if nested(x, y):
        raise NoQuestion
    outer = [None] * len(ATTRIBUTES)
    if attribute:
        outer[ATTRIBUTES.index(attribute)] = pick(rng, VALUES[attribute])
    question = Question("count", x, y, Group(tuple(outer)))
    if not is_minimal(sets, question):
        raise NoQuestion
    return question


def is_minimal(sets, question):
    """Whether no word and no relation can be left out on either side of an "or"."""
    x, y = question.group, question.other
    described = any(question.outer.description)
    outer = sets.fitting[INDEX[question.outer.description]]
    members = outer & (x.members | y.members)
    relaxed = [x.members | y.members] if described else []
    for group, other in ((x, y), (y, x)):
        if outer & group.members and not outer & group.members & ~other.members:
            return False
        relaxed += [outer & (looser | other.members) for looser in relax(sets, group)]
    return members not in relaxed


def relax(sets, group):
    """The members of a group if one of its words or relations is left out, for each."""
    index = INDEX[group.description]
    inside = sets.in_all(group.relations)
    without_word = [sets.fitting[i] & inside for i in SHORTER[index] if i != NOTHING]
    without_relation = [
        sets.fitting[index] & rest for rest in sets.leave_one_out(group.relations)
    ]
    return without_word + without_relation


ASKED = ("count", "exist", *(f"query_{attribute}" for attribute in ATTRIBUTES))


def make_families():
    """All families, functions of (sets, rng), in the order in which the release of
    CLEVR v1.0 numbers them."""
    families = []
    for related in ((False, False), (True, False), (True, True)):
        for function in ("equal_integer", "less_than", "greater_than"):
            families.append(
                partial(compare_integer, function=function, related=related)
            )
    for related in product((False, True), repeat=2):
        for attribute in ATTRIBUTES:
            families.append(partial(comparison, attribute=attribute, related=related))
    families += [partial(hops, function=function, count=3) for function in ASKED]
    families += [
        partial(single_and, function=function)
        for function in ASKED
        if function != "exist"
    ]
    families += make_same_relate_families()
    for related, attribute in (
        ((False, False), None),
        ((False, False), "size"),
        ((False, False), "color"),
        ((True, True), None),
        ((False, False), "material"),
        ((False, False), "shape"),
        ((True, False), None),
        ((False, True), None),
    ):
        families.append(partial(single_or, related=related, attribute=attribute))
    for count in (1, 2):
        families += [
            partial(hops, function=function, count=count) for function in ASKED
        ]
    for function in ("count", "exist", *reversed(ASKED[2:])):
        families.append(partial(hops, function=function, count=0))
    return families


def make_same_relate_families():
    families = []
    for described in (False, True):
        for function in ("exist", "count"):
            for attribute in ATTRIBUTES:
                families.append(
                    partial(
                        same_relate,
                        function=function,
                        attribute=attribute,
                        described=described,
                    )
                )
    for attribute in ATTRIBUTES:
        for asked in ATTRIBUTES:
            if asked != attribute:
                families.append(
                    partial(
                        same_relate,
                        function=f"query_{asked}",
                        attribute=attribute,
                        described=None,
                    )
                )
    return families


FAMILIES = make_families()


def answer_to(question, sets):
    """The answer, as a string."""
    function = question.function
    x = question.group.members
    y = question.other.members if question.other else 0
    if question.outer:
        outer = int(sets.fitting[INDEX[question.outer.description]])
        return str((outer & (x | y)).bit_count())
    if function == "count":
        return str(x.bit_count())
    verb, _, attribute = function.partition("_")
    if verb == "query":
        return sets.objects[index_of(x)][attribute]
    is_true = {
        "exist": lambda: x != 0,
        "equal_integer": lambda: x.bit_count() == y.bit_count(),
        "less_than": lambda: x.bit_count() < y.bit_count(),
        "greater_than": lambda: x.bit_count() > y.bit_count(),
    }
    if function in is_true:
        return "yes" if is_true[function]() else "no"
    first = sets.objects[index_of(x)][attribute]
    second = sets.objects[index_of(y)][attribute]
    return "yes" if first == second else "no"


def program(question):
    """The functional program: a list of nodes, each after those that it takes as
    inputs."""
    nodes = []
    function = question.function
    ends = [add_operand(nodes, question.group, function)]
    if question.other:
        ends.append(add_operand(nodes, question.other, function))
    if question.outer:
        union = add_node(nodes, "union", ends)
        ends = [add_filters(nodes, union, question.outer.description)]
    add_node(nodes, function, ends)
    return nodes


# These append to `nodes` and return the index of the last one.


def add_node(nodes, function, inputs, value=None):
    nodes.append(
        {
            "function": function,
            "inputs": inputs,
            "value_inputs": [value] if value else [],
        }
    )
    return len(nodes) - 1


def add_operand(nodes, group, function):
    """What the last function takes: objects, or the number or an attribute of them."""
    node = add_group(nodes, group)
    verb, _, attribute = function.partition("_")
    if function in ("equal_integer", "less_than", "greater_than"):
        return add_node(nodes, "count", [node])
    if verb in ("query", "equal"):
        node = add_node(nodes, "unique", [node])
    if verb == "equal":
        node = add_node(nodes, f"query_{attribute}", [node])
    return node


def add_group(nodes, group):
    ends = []
    for relation in group.relations:
        reference = add_group(nodes, relation.reference)
        unique = add_node(nodes, "unique", [reference])
        ends.append(add_node(nodes, relation.function, [unique], relation.direction))
    if not ends:
        node = add_node(nodes, "scene", [])
    elif len(ends) == 1:
        node = ends[0]
    else:
        node = add_node(nodes, "intersect", ends)
    return add_filters(nodes, node, group.description)


def add_filters(nodes, node, description):
    for attribute, word in zip(ATTRIBUTES, description, strict=True):
        if word:
            node = add_node(nodes, f"filter_{attribute}", [node], word)
    return node


def ask(scene, rng, counts):
    """Ten questions about a scene, or fewer if it allows no more: a list of dicts.

    `scene` has the `objects` and `relationships` of CLEVR's scene files; `rng` is a
    NumPy generator. `counts` maps each family to a Counter of its answers. It starts
    empty and is passed on from scene to scene of a split; it keeps families and answers
    in balance."""
    sets = SceneSets(scene)
    questions = []
    for family in range(len(FAMILIES)):
        counts.setdefault(family, Counter())
    order = rng.permutation(len(FAMILIES)).tolist()
    order.sort(key=lambda family: counts[family].total())
    for family in order:
        try:
            question, answer = sample_balanced(
                sets, rng, FAMILIES[family], counts[family]
            )
        except NoQuestion:
            continue
        counts[family][answer] += 1
        questions.append(
            {
                "question": say(question, rng),
                "answer": answer,
                "program": program(question),
                "question_family_index": family,
            }
        )
        if len(questions) == QUESTIONS_PER_SCENE:
            break
    return questions


def sample_balanced(sets, rng, family, counts):
    """A question of a family and its answer, which the family has not had too often."""
    for _ in range(TRIES):
        with suppress(NoQuestion):
            question = family(sets, rng)
            answer = answer_to(question, sets)
            others = [count for other, count in counts.items() if other != answer]
            if counts[answer] <= 1.1 * max(others, default=0) + 1:
                return question, answer
    raise NoQuestion
