"""Generates CLEVR's questions about a scene: ten from its 90 families (Johnson et al., CVPR 2017,
section 3), each with its functional program and its answer.

Sets of objects are bit sets, integers whose bit i is 1 if object i is in the set: {0, 2} is 0b101. Then
& is the intersection, | the union, & ~ the difference and bit_count() the size, and one NumPy array
holds the sets of objects that all 324 possible descriptions fit.

A question is made from its first object to its last. Every description is chosen among those that
are minimal, of which no word can be left out: "the red cube" is the only red cube, but neither the
only cube nor the only red thing. Likewise, a relation is told only where it makes a difference."""

import operator
from collections import Counter
from contextlib import suppress
from itertools import product
from typing import NamedTuple

import numpy as np

from .grammar import pick, say

QUESTIONS_PER_SCENE = 10
TRIES = 20  # per family, before the next one is tried

VALUES = {
    "size": ("large", "small"),
    "color": ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"),
    "material": ("rubber", "metal"),
    "shape": ("cube", "sphere", "cylinder"),
}
ATTRIBUTES = tuple(VALUES)
DIRECTIONS = ("left", "right", "behind", "front")

# Every possible description: values of size, color, material and shape, None where it says nothing.
DESCRIPTIONS = list(product(*((None, *VALUES[attribute]) for attribute in ATTRIBUTES)))
INDEX = {description: i for i, description in enumerate(DESCRIPTIONS)}
NOTHING = len(DESCRIPTIONS)  # index of a description that fits no object
# SHORTER[i]: the descriptions with one word less, by index, padded to four with NOTHING
# IMPLIED[i, j]: whether all that fits description i fits j; SILENT[i, a]: whether i is without attribute a
SHORTER = np.array(
    [
        [
            INDEX[description[:i] + (None,) + description[i + 1 :]] if word else NOTHING
            for i, word in enumerate(description)
        ]
        for description in DESCRIPTIONS
    ]
)
WORDS, SILENT = np.array(DESCRIPTIONS), np.equal(DESCRIPTIONS, None)  # (324, 4)
IMPLIED = (SILENT | (WORDS == WORDS[:, None])).all(2)


class Relation(NamedTuple):
    """How objects are related to a single one, their reference."""

    function: str  # relate, same_size, same_color, same_material or same_shape
    direction: str | None  # of relate
    reference: "Group"


class Group(NamedTuple):
    """Objects as a question names them: by a description, and by relations that all hold."""

    description: tuple
    relations: tuple = ()
    members: int = 0  # bit set


class Question(NamedTuple):
    """What is asked, whatever the wording."""

    function: str  # that gives the answer
    group: Group
    other: Group | None = None  # that it is compared with, or that "or" joins to it
    outer: tuple | None = None  # description that holds on both sides of "or"


class NoQuestion(Exception):
    """The random choices led nowhere."""


class SceneSets:
    """The objects of a scene as bit sets: by relation and by description."""

    def __init__(self, scene):
        self.objects = objects = scene["objects"]
        self.all = (1 << len(objects)) - 1
        having = {
            value: sum(
                1 << i for i, thing in enumerate(objects) if thing[attribute] == value
            )
            for attribute in ATTRIBUTES
            for value in VALUES[attribute]
        }
        # related[function, direction][i]: the objects in this relation to object i
        self.related = {
            ("relate", direction): [sum(1 << i for i in indices) for indices in rows]
            for direction, rows in scene["relationships"].items()
        }
        for attribute in ATTRIBUTES:
            self.related[f"same_{attribute}", None] = [
                having[thing[attribute]] & ~(1 << i) for i, thing in enumerate(objects)
            ]
        having[None] = self.all
        fitting = [
            having[a] & having[b] & having[c] & having[d] for a, b, c, d in DESCRIPTIONS
        ]
        self.fitting = np.array([*fitting, 0])  # (325,), by index of description
        self.cache = {}

    def in_all(self, relations):
        """The objects for which all of the relations hold."""
        members = self.all
        for relation in relations:
            members &= self.related[relation[:2]][
                relation.reference.members.bit_length() - 1
            ]
        return members

    def leave_one_out(self, relations):
        """For each relation, the objects for which the others hold, but for its own reference."""
        return [
            self.in_all(relations[:i] + relations[i + 1 :])
            & ~relation.reference.members
            for i, relation in enumerate(relations)
        ]

    def sample_objects(self, rng, relations=(), omit=(), unique=(), exclude=None):
        """A group of objects, possibly empty; with `exclude`, a bit set, one object outside that set. Its
        description is minimal, has no attribute in `omit` and implies none of `unique`: if the question says
        "the red cube", there is only one. Returns None if no description is allowed."""
        key = inside, *rests = self.in_all(relations), *self.leave_one_out(relations)
        if key not in self.cache:
            members = self.fitting & inside
            members[NOTHING] = -1
            minimal = (members[SHORTER] != members[:NOTHING, None]).all(1)
            for rest in rests:
                minimal &= self.fitting[:NOTHING] & rest != members[:NOTHING]
            self.cache[key] = members[:NOTHING], minimal
        members, allowed = self.cache[key]
        for attribute in omit:
            allowed = allowed & SILENT[:, ATTRIBUTES.index(attribute)]
        for description in unique:
            allowed = allowed & ~IMPLIED[:, INDEX[description]]
        if exclude is not None:
            allowed = (
                allowed & (np.bitwise_count(members) == 1) & (members & exclude == 0)
            )
        options = np.flatnonzero(allowed)
        if options.size:
            # Larger groups come more often: evenly drawn groups have 0 or 1 objects more often than CLEVR's.
            cumulative = np.cumsum(1 + np.bitwise_count(members[options]) / 2)
            choice = options[
                np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
            ]
            return Group(DESCRIPTIONS[choice], relations, int(members[choice]))

    def sample_object(self, rng, relations=(), omit=(), exclude=0):
        """A group of a single object, as above; raises NoQuestion if that fails."""
        group = self.sample_objects(rng, relations, omit, exclude=exclude)
        if group is None:
            raise NoQuestion
        return group


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


# One function for each kind of family: it returns a Question; else None, or it raises NoQuestion.


def hops(sets, rng, function, count):
    relations, used = (), 0
    for _ in range(count):
        reference = sets.sample_object(rng, relations, exclude=used)
        used |= reference.members
        relations = (sample_relation(rng, reference),)
    return ask_about(sets, rng, function, relations, used)


def ask_about(sets, rng, function, relations, used=0, omit=()):
    """The last step of a chain: the objects in the relations whose attribute or number is asked."""
    if function.startswith("query"):
        group = sets.sample_object(rng, relations, (*omit, function[6:]), used)
    else:
        group = sets.sample_objects(
            rng,
            relations,
            omit,
            [d for relation in relations for d in unique_descriptions(relation)],
        )
    if group and function == "exist" and group.members == sets.all:
        return None  # "is there a thing?": the answer is known without a look
    return group and Question(function, group)


def single_and(sets, rng, function):
    first = sets.sample_object(rng)
    second = sets.sample_object(rng, exclude=first.members)
    relations = sample_relation(rng, first), sample_relation(rng, second)
    return ask_about(sets, rng, function, relations, first.members | second.members)


def same_relate(sets, rng, function, attribute, described):
    relations = (
        Relation(f"same_{attribute}", None, sets.sample_object(rng, omit=(attribute,))),
    )
    question = ask_about(sets, rng, function, relations, omit=(attribute,))
    if described is None or question and described == any(question.group.description):
        return question


def compare_integer(sets, rng, function, related):
    x, y = two_groups(sets, rng, related)
    if not nested(x, y) and (x.members or y.members):
        return Question(function, x, y)


def nested(x, y):
    """Whether one of two groups contains the other in every scene, as cubes do red cubes."""
    return any(
        not outer.relations
        and IMPLIED[INDEX[inner.description], INDEX[outer.description]]
        for inner, outer in ((x, y), (y, x))
    )


def two_groups(sets, rng, related, omit=()):
    """Two groups of objects; where `related` is true, each is related to an object of its own."""
    relations, unique, used = [(), ()], [], 0
    for i in np.flatnonzero(related):
        reference = sets.sample_object(rng, exclude=used)
        used |= reference.members
        unique.append(reference.description)
        relations[i] = (sample_relation(rng, reference),)
    groups = [
        sets.sample_objects(rng, relation, omit, unique) for relation in relations
    ]
    if None in groups:
        raise NoQuestion
    return groups


def comparison(sets, rng, function, related):
    pair, used = [], 0
    for is_related in related:
        relations = (
            (sample_relation(rng, sets.sample_object(rng)),) if is_related else ()
        )
        pair.append(sets.sample_object(rng, relations, (function[6:],), used))
        used |= pair[-1].members
    return Question(function, *pair)


def single_or(sets, rng, related, attribute):
    groups = two_groups(sets, rng, related, (attribute,) if attribute else ())
    if not nested(*groups):
        outer = tuple(
            pick(rng, VALUES[name]) if name == attribute else None
            for name in ATTRIBUTES
        )
        question = Question("count", *groups, outer)
        return question if is_minimal(sets, question) else None


def is_minimal(sets, question):
    """Whether no word and no relation can be left out on either side of an "or"."""
    x, y = question.group, question.other
    fitting, outer = sets.fitting, sets.fitting[INDEX[question.outer]]
    members = outer & (x.members | y.members)
    relaxed = [x.members | y.members] if any(question.outer) else []
    for group, others in ((x, y.members), (y, x.members)):
        if outer & group.members and not outer & group.members & ~others:
            return False
        index, inside = INDEX[group.description], sets.in_all(group.relations)
        relaxed += [
            outer & (fitting[i] & inside | others)
            for i in SHORTER[index]
            if i != NOTHING
        ]
        relaxed += [
            outer & (fitting[index] & rest | others)
            for rest in sets.leave_one_out(group.relations)
        ]
    return members not in relaxed


ASKED = ("count", "exist", *(f"query_{attribute}" for attribute in ATTRIBUTES))
# In the order in which the release of CLEVR v1.0 numbers them.
FAMILIES = [
    *(
        (compare_integer, function, related)
        for related in ((False, False), (True, False), (True, True))
        for function in ("equal_integer", "less_than", "greater_than")
    ),
    *(
        (comparison, f"equal_{attribute}", related)
        for related in product((False, True), repeat=2)
        for attribute in ATTRIBUTES
    ),
    *((hops, function, 3) for function in ASKED),
    *((single_and, function) for function in ASKED if function != "exist"),
    *(
        (same_relate, function, attribute, described)
        for described in (False, True)
        for function in ("exist", "count")
        for attribute in ATTRIBUTES
    ),
    *(
        (same_relate, f"query_{asked}", attribute, None)
        for attribute in ATTRIBUTES
        for asked in ATTRIBUTES
        if asked != attribute
    ),
    *(
        (single_or, (x, y), attribute)
        for x, y, attribute in (
            (False, False, None),
            (False, False, "size"),
            (False, False, "color"),
            (True, True, None),
            (False, False, "material"),
            (False, False, "shape"),
            (True, False, None),
            (False, True, None),
        )
    ),
    *((hops, function, count) for count in (1, 2) for function in ASKED),
    *(
        (hops, function, 0)
        for function in (
            "count",
            "exist",
            "query_shape",
            "query_material",
            "query_color",
            "query_size",
        )
    ),
]


def answer_to(question, sets):
    """The answer, as a string."""
    verb, _, attribute = question.function.partition("_")
    members = [group.members for group in (question.group, question.other) if group]
    if question.outer:
        members = [int(sets.fitting[INDEX[question.outer]]) & (members[0] | members[1])]
    operands = [
        sets.objects[some.bit_length() - 1][attribute]
        if attribute in ATTRIBUTES
        else some.bit_count()
        for some in members
    ]
    if verb in ("count", "query"):
        return str(*operands)
    test = {
        "exist": bool,
        "equal": operator.eq,
        "less": operator.lt,
        "greater": operator.gt,
    }[verb]
    return "yes" if test(*operands) else "no"


def program(question):
    """The functional program: a list of nodes, each after those that it takes as inputs."""
    nodes, function = [], question.function

    def add(function, *inputs, value=None):
        nodes.append(
            {
                "function": function,
                "inputs": list(inputs),
                "value_inputs": [value] if value else [],
            }
        )
        return len(nodes) - 1

    def add_group(group):
        ends = [
            add(
                relation.function,
                add("unique", add_group(relation.reference)),
                value=relation.direction,
            )
            for relation in group.relations
        ] or [add("scene")]
        return add_filters(
            add("intersect", *ends) if len(ends) == 2 else ends[0], group.description
        )

    def add_filters(node, description):
        for attribute, word in zip(ATTRIBUTES, description, strict=True):
            if word:
                node = add(f"filter_{attribute}", node, value=word)
        return node

    def add_operand(group):
        node = add_group(group)
        if function in ("equal_integer", "less_than", "greater_than"):
            return add("count", node)
        if function.startswith(("query", "equal")):
            node = add("unique", node)
        return (
            add(f"query_{function[6:]}", node) if function.startswith("equal") else node
        )

    ends = [add_operand(group) for group in (question.group, question.other) if group]
    if question.outer:
        ends = [add_filters(add("union", *ends), question.outer)]
    add(function, *ends)
    return nodes


def ask(scene, rng, counts):
    """Ten questions about a scene, or fewer if it allows no more.

    `scene` has the `objects` and `relationships` of CLEVR's scene files; `rng` is a NumPy generator.
    `counts` maps each family to a Counter of its answers. It starts empty and is passed on from scene to
    scene of a split; it keeps families and answers in balance."""
    sets, questions = SceneSets(scene), []
    for family in range(len(FAMILIES)):
        counts.setdefault(family, Counter())
    for family in sorted(
        rng.permutation(len(FAMILIES)).tolist(),
        key=lambda family: counts[family].total(),
    ):
        question, answer = sample_balanced(sets, rng, FAMILIES[family], counts[family])
        if question:
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
    """A question of a family and its answer, which the family has not had too often; else None, None."""
    sample, *arguments = family
    for _ in range(TRIES):
        with suppress(NoQuestion):
            if question := sample(sets, rng, *arguments):
                answer = answer_to(question, sets)
                others = max(
                    (count for other, count in counts.items() if other != answer),
                    default=0,
                )
                if counts[answer] <= 1.1 * others + 1:
                    return question, answer
    return None, None
