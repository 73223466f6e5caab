"""The English of the questions: a small grammar over the 80 words of CLEVR's vocabulary.

`SENTENCES` are patterns. Each pair of braces is filled by `Mention` with the wording of a group of
objects: its description and relations, with randomly chosen synonyms."""

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
IT_FRACTION = 0.3  # of the questions that could, introduce the reference first: "There is a cube; ..."
BARE_FRACTION = 0.25  # of single relations are told without "that is"

# x, y: the groups that the question is about; of: the reference of x; outer: of both sides of "or"
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
        "How many {outer} are either {x:all} or {y:all}?",
        "How many {outer} are {x:all} or {y:all}?",
        "What number of {outer} are either {x:all} or {y:all}?",
        "What is the number of {outer} that are either {x:all} or {y:all}?",
    ),
}


def say(question, rng):
    """One of the ways to put a `questions.Question` into English."""
    relations = question.group.relations
    pattern, of = question.function, None
    if question.outer is not None:
        pattern = "either"
    elif pattern in ("count", "exist") and relations:
        pattern += " related"
        if (
            len(relations) == 1
            and relations[0].function == "relate"
            and rng.random() < IT_FRACTION
        ):
            pattern, of = (
                question.function + " it",
                Mention(relations[0].reference, rng),
            )
    text = pick(rng, SENTENCES[pattern]).format(
        x=Mention(question.group, rng),
        y=Mention(question.other, rng),
        of=of,
        outer=question.outer and noun(question.outer, rng, "s"),
    )
    return text[0].upper() + text[1:]


def pick(rng, options):
    return options[int(rng.random() * len(options))]


def noun(description, rng, ending=""):
    """ "small red ball": the adjectives of a description, and a noun."""
    words = [pick(rng, WORDS.get(word, (word,))) for word in description[:3] if word]
    return " ".join(words + [pick(rng, WORDS[description[3]]) + ending])


def article(words):
    return ("an " if words[0] in "aeiou" else "a ") + words


class Mention:
    """The wordings of a `questions.Group`, for use in `SENTENCES`. Each use chooses its synonyms anew."""

    def __init__(self, group, rng):
        self.group, self.rng = group, rng
        self.same = group is not None and any(
            relation.function != "relate" for relation in group.relations
        )

    def __format__(self, wording):
        match wording:
            case "singular":  # red ball
                return noun(self.group.description, self.rng)
            case "plural":  # red balls; other red balls
                return "other " * self.same + noun(
                    self.group.description, self.rng, "s"
                )
            case (
                "all"
            ):  # red balls [that are] behind the cube; other red balls of the same ...
                return f"{self:plural}{self.clause('are')}"
            case (
                "the"
            ):  # the red ball [that is] behind the cube; the other red ball of the ...
                return f"the {'other ' * self.same}{self:singular}{self.clause('is')}"
            case (
                "a"
            ):  # a red ball [that is] behind the cube; another red ball of the same ...
                words = (
                    f"another {self:singular}"
                    if self.same
                    else article(f"{self:singular}")
                )
                return words + self.clause("is")
            case "a_singular":  # a red ball
                return article(f"{self:singular}")
            case (
                "anything"
            ):  # as "a", but an object without description is mostly "anything"
                if any(self.group.description) or self.rng.random() < 0.3:
                    return f"{self:a}"
                return "anything" + " else" * self.same + self.clause("is")
            case "do":  # are behind the cube; have the same size as the cube
                return " ".join(self.predicate())
            case (
                "do_any"
            ):  # are any red balls behind the cube; do any other red balls have the ...
                verb, rest = self.predicate()
                begin, have = ("are", "") if verb == "are" else ("do", "have ")
                return f"{begin} any {self:plural} {have}{rest}"
            case "at_it":  # behind it
                return f"{pick(self.rng, SIDES[self.group.relations[0].direction])} it"

    def predicate(self):
        """The verb of the plural, and what follows it."""
        phrases = []
        for relation in self.group.relations:
            reference = f"{Mention(relation.reference, self.rng):the}"
            if relation.function == "relate":
                verb, phrase = "are", pick(self.rng, SIDES[relation.direction])
            else:
                verb, name = (
                    pick(self.rng, ("have", "are")),
                    relation.function.removeprefix("same_"),
                )
                made_of = "made of " * (verb == "are" and name == "material")
                phrase = f"{made_of}the same {name} as"
            phrases.append(f"{phrase} {reference}")
        if len(phrases) == 2 and self.rng.random() < 0.5:
            phrases[0] = "both " + phrases[0]
        return verb, " and ".join(phrases)

    def clause(self, be):
        """The relations, with a space in front; "" if there are none. `be` is "is" or "are"."""
        if not self.group.relations:
            return ""
        verb, rest = self.predicate()
        if len(self.group.relations) == 1 and self.rng.random() < BARE_FRACTION:
            return " " + (
                f"of {rest}" if self.same and not rest.startswith("made") else rest
            )
        verb = verb if be == "are" else {"are": "is", "have": "has"}[verb]
        return f" that {verb} {rest}"
