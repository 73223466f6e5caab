"""The English of the questions: a small grammar over CLEVR's vocabulary of 80 words.

`SENTENCES` are patterns. Each pair of braces names a group of objects and one of the
`WORDINGS` of it: its description and relations, with randomly chosen synonyms."""

from string import Formatter

WORDS = {
    "large": ("large", "big"),
    "small": ("small", "tiny"),
    "rubber": ("rubber", "matte"),
    "metal": ("metal", "metallic", "shiny"),
    "cube": ("cube", "block"),
    "sphere": ("sphere", "ball"),
    "cylinder": ("cylinder",),
    None: ("thing", "object"),
}
SIDES = {
    "left": ("left of", "to the left of", "on the left side of"),
    "right": ("right of", "to the right of", "on the right side of"),
    "front": ("in front of",),
    "behind": ("behind",),
}
# Fractions of the questions that could:
IT_FRACTION = 0.3  # introduce the reference first: "There is a cube; ..."
BARE_FRACTION = 0.25  # tell a single relation without "that is"
A_THING_FRACTION = 0.3  # ask for "a thing", not for "anything"

# x, y: the groups that the question is about; of: the reference of x; outer: what holds
# on both sides of "or"
SENTENCES = {
    "count": (
        "How many {x:all} are there?",
        "What number of {x:all} are there?",
        "How many {x:all} are visible?",
        "What is the number of {x:all}?",
    ),
    "count related": (
        "How many {x:plural} {x:do}?",
        "How many {x:plural} {x:do}?",
        "What number of {x:plural} {x:do}?",
        "How many of the {x:plural} {x:do}?",
        "How many {x:all} are there?",
        "What is the number of {x:all}?",
    ),
    "count it": (
        "There is {of:a}; how many {x:plural} are {x:at_it}?",
        "There is {of:a}; what number of {x:plural} are {x:at_it}?",
    ),
    "exist": (
        "Are there any {x:all}?",
        "Is there {x:a}?",
        "Are any {x:all} visible?",
        "Is {x:a} visible?",
    ),
    "exist related": (
        "Are there any {x:all}?",
        "Is there {x:anything}?",
        "{x:do_any}?",
    ),
    "exist it": (
        "There is {of:a}; are there any {x:plural} {x:at_it}?",
        "There is {of:a}; is there {x:a_singular} {x:at_it}?",
    ),
    "query_size": (
        "What size is {x:the}?",
        "What is the size of {x:the}?",
        "How big is {x:the}?",
        "How large is {x:the}?",
        "There is {x:a}; what size is it?",
        "There is {x:a}; what is its size?",
        "There is {x:a}; how big is it?",
    ),
    "query_color": (
        "What color is {x:the}?",
        "What is the color of {x:the}?",
        "What color does {x:the} have?",
        "{x:the} is what color?",
        "There is {x:a}; what color is it?",
        "There is {x:a}; what is its color?",
    ),
    "query_material": (
        "What material is {x:the}?",
        "What is the material of {x:the}?",
        "What is {x:the} made of?",
        "{x:the} is made of what material?",
        "There is {x:a}; what is it made of?",
        "There is {x:a}; what material is it made of?",
        "There is {x:a}; what is its material?",
    ),
    "query_shape": (
        "What shape is {x:the}?",
        "What is the shape of {x:the}?",
        "What shape does {x:the} have?",
        "{x:the} has what shape?",
        "There is {x:a}; what shape is it?",
        "There is {x:a}; what is its shape?",
    ),
    "equal_size": (
        "Do {x:the} and {y:the} have the same size?",
        "Is {x:the} the same size as {y:the}?",
        "Does {x:the} have the same size as {y:the}?",
        "Is the size of {x:the} equal to the size of {y:the}?",
        "There is {x:a}; is it the same size as {y:the}?",
        "There is {x:a}; does it have the same size as {y:the}?",
    ),
    "equal_color": (
        "Do {x:the} and {y:the} have the same color?",
        "Is {x:the} the same color as {y:the}?",
        "Does {x:the} have the same color as {y:the}?",
        "Are {x:the} and {y:the} the same color?",
        "There is {x:a}; is it the same color as {y:the}?",
        "There is {x:a}; is its color the same as that of {y:the}?",
    ),
    "equal_material": (
        "Do {x:the} and {y:the} have the same material?",
        "Are {x:the} and {y:the} made of the same material?",
        "Is {x:the} made of the same material as {y:the}?",
        "Is the material of {x:the} the same as that of {y:the}?",
        "There is {x:a}; is it made of the same material as {y:the}?",
        "There is {x:a}; does it have the same material as {y:the}?",
    ),
    "equal_shape": (
        "Do {x:the} and {y:the} have the same shape?",
        "Is {x:the} the same shape as {y:the}?",
        "Does {x:the} have the same shape as {y:the}?",
        "Is the shape of {x:the} the same as that of {y:the}?",
        "There is {x:a}; is it the same shape as {y:the}?",
        "There is {x:a}; does it have the same shape as {y:the}?",
    ),
    "equal_integer": (
        "Are there an equal number of {x:all} and {y:all}?",
        "Is the number of {x:all} the same as the number of {y:all}?",
        "Is the number of {x:all} equal to the number of {y:all}?",
        "Are there the same number of {x:all} and {y:all}?",
    ),
    "less_than": (
        "Are there fewer {x:all} than {y:all}?",
        "Is the number of {x:all} less than the number of {y:all}?",
    ),
    "greater_than": (
        "Are there more {x:all} than {y:all}?",
        "Is the number of {x:all} greater than the number of {y:all}?",
    ),
    "either": (
        "How many {outer:plural} are either {x:all} or {y:all}?",
        "How many {outer:plural} are {x:all} or {y:all}?",
        "What number of {outer:plural} are either {x:all} or {y:all}?",
        "What is the number of {outer:plural} that are either {x:all} or {y:all}?",
    ),
}


def say(question, rng):
    """One of the ways to put a `questions.Question` into English, drawn with `rng`."""
    groups = {"x": question.group, "y": question.other}
    if question.outer is not None:
        kind = "either"
        groups["outer"] = question.outer
    else:
        kind = question.function
    relations = question.group.relations
    if kind in ("count", "exist") and relations:
        could_be_it = len(relations) == 1 and relations[0].function == "relate"
        if could_be_it and rng.random() < IT_FRACTION:
            kind += " it"
            groups["of"] = relations[0].reference
        else:
            kind += " related"
    text = ""
    for literal, name, wording, _ in Formatter().parse(pick(rng, SENTENCES[kind])):
        text += literal
        if name:
            text += WORDINGS[wording](groups[name], rng)
    return text[0].upper() + text[1:]


def pick(rng, options):
    return options[int(rng.random() * len(options))]


# The wordings of a `questions.Group`. Each use chooses its synonyms anew.


def singular(group, rng, ending=""):
    """Red ball: the adjectives of the description, and a noun."""
    *adjectives, shape = group.description
    words = [pick(rng, WORDS.get(word, (word,))) for word in adjectives if word]
    return " ".join([*words, pick(rng, WORDS[shape]) + ending])


def plural(group, rng):
    """Red balls; other red balls."""
    return other(group) + singular(group, rng, "s")


def every(group, rng):
    """Red balls [that are] behind the cube; other red balls of the same size as ..."""
    return plural(group, rng) + clause(group, rng, "are")


def the(group, rng):
    """The red ball [that is] behind the cube; the other red ball of the same ..."""
    return f"the {other(group)}{singular(group, rng)}{clause(group, rng, 'is')}"


def a(group, rng):
    """A red ball [that is] behind the cube; another red ball of the same ..."""
    if is_same(group):
        words = f"another {singular(group, rng)}"
    else:
        words = a_singular(group, rng)
    return words + clause(group, rng, "is")


def a_singular(group, rng):
    """A red ball."""
    words = singular(group, rng)
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def anything(group, rng):
    """As `a`, but an object without description is mostly "anything"."""
    if any(group.description) or rng.random() < A_THING_FRACTION:
        return a(group, rng)
    word = "anything else" if is_same(group) else "anything"
    return word + clause(group, rng, "is")


def do(group, rng):
    """Are behind the cube; have the same size as the cube."""
    return " ".join(predicate(group, rng))


def do_any(group, rng):
    """Are any red balls behind the cube; do any other red balls have the same ..."""
    verb, rest = predicate(group, rng)
    if verb == "are":
        return f"are any {plural(group, rng)} {rest}"
    return f"do any {plural(group, rng)} have {rest}"


def at_it(group, rng):
    """Behind it."""
    return f"{pick(rng, SIDES[group.relations[0].direction])} it"


WORDINGS = {
    "plural": plural,
    "all": every,
    "the": the,
    "a": a,
    "a_singular": a_singular,
    "anything": anything,
    "do": do,
    "do_any": do_any,
    "at_it": at_it,
}


def is_same(group):
    """Whether the objects have something in common with another one."""
    return any(relation.function != "relate" for relation in group.relations)


def other(group):
    return "other " if is_same(group) else ""


def predicate(group, rng):
    """The verb of the plural, and what follows it."""
    verb = None
    phrases = []
    for relation in group.relations:
        reference = the(relation.reference, rng)
        if relation.function == "relate":
            verb = "are"
            phrase = pick(rng, SIDES[relation.direction])
        else:
            verb = pick(rng, ("have", "are"))
            name = relation.function.removeprefix("same_")
            phrase = f"the same {name} as"
            if verb == "are" and name == "material":
                phrase = f"made of {phrase}"
        phrases.append(f"{phrase} {reference}")
    if len(phrases) == 2 and rng.random() < 0.5:
        phrases[0] = "both " + phrases[0]
    return verb, " and ".join(phrases)


def clause(group, rng, be):
    """The relations behind a space, or nothing. `be` is "is" or "are"."""
    if not group.relations:
        return ""
    verb, rest = predicate(group, rng)
    if len(group.relations) == 1 and rng.random() < BARE_FRACTION:
        of_same = is_same(group) and not rest.startswith("made")
        return f" of {rest}" if of_same else f" {rest}"
    if be == "is":
        verb = {"are": "is", "have": "has"}[verb]
    return f" that {verb} {rest}"
