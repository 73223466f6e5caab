"""The English of the questions: a small grammar over the 80 words of CLEVR's vocabulary.

`SENTENCES` are patterns; what stands in braces is the wording of a group of objects, which `Mention`
makes out of descriptions and places, with synonyms chosen by chance every time."""

WORDS = {"large": ("large", "big"), "small": ("small", "tiny"),
         "rubber": ("rubber", "matte"), "metal": ("metal", "metallic", "shiny"),
         "cube": ("cube", "block"), "sphere": ("sphere", "ball"), "cylinder": ("cylinder",),
         None: ("thing", "object")}
SIDES = {"left": ("left of", "to the left of", "on the left side of"),
         "right": ("right of", "to the right of", "on the right side of"),
         "front": ("in front of",), "behind": ("behind",)}
ALIKE = {"size": (("have", "the same size as"), ("are", "the same size as")),
         "color": (("have", "the same color as"), ("are", "the same color as")),
         "material": (("have", "the same material as"), ("are", "made of the same material as")),
         "shape": (("have", "the same shape as"), ("are", "the same shape as"))}
SINGULAR = {"are": "is", "have": "has"}
IT_SHARE = 0.3          # of the questions that could first present the object that they start from
BARE_SHARE = 0.25       # of the single places that are told without "that is"

# x, y: the groups that the question is about; of: what x's place is told from; only: outer filter.
SENTENCES = {
    "count": ("How many {x.many} are there?", "What number of {x.many} are there?",
              "How many {x.many} are visible?", "What is the number of {x.many}?"),
    "count placed": ("How many {x.kind} {x.do}?", "How many {x.kind} {x.do}?",
                     "What number of {x.kind} {x.do}?", "How many of the {x.kind} {x.do}?",
                     "How many {x.many} are there?", "What is the number of {x.many}?"),
    "count it": ("There is {of.a}; how many {x.kind} are {x.at_it}?",
                 "There is {of.a}; what number of {x.kind} are {x.at_it}?"),
    "exist": ("Are there any {x.many}?", "Is there {x.a}?", "Are any {x.many} visible?",
              "Is {x.a} visible?"),
    "exist placed": ("Are there any {x.many}?", "Is there {x.anything}?", "{x.do_any}?"),
    "exist it": ("There is {of.a}; are there any {x.kind} {x.at_it}?",
                 "There is {of.a}; is there {x.a_kind} {x.at_it}?"),
    "query_size": ("What size is {x.the}?", "What is the size of {x.the}?", "How big is {x.the}?",
                   "How large is {x.the}?", "There is {x.a}; what size is it?",
                   "There is {x.a}; what is its size?", "There is {x.a}; how big is it?"),
    "query_color": ("What color is {x.the}?", "What is the color of {x.the}?",
                    "What color does {x.the} have?", "{x.the} is what color?",
                    "There is {x.a}; what color is it?", "There is {x.a}; what is its color?"),
    "query_material": ("What material is {x.the}?", "What is the material of {x.the}?",
                       "What is {x.the} made of?", "{x.the} is made of what material?",
                       "There is {x.a}; what is it made of?",
                       "There is {x.a}; what material is it made of?",
                       "There is {x.a}; what is its material?"),
    "query_shape": ("What shape is {x.the}?", "What is the shape of {x.the}?",
                    "What shape does {x.the} have?", "{x.the} has what shape?",
                    "There is {x.a}; what shape is it?", "There is {x.a}; what is its shape?"),
    "equal_size": ("Do {x.the} and {y.the} have the same size?",
                   "Is {x.the} the same size as {y.the}?",
                   "Does {x.the} have the same size as {y.the}?",
                   "Is the size of {x.the} equal to the size of {y.the}?",
                   "There is {x.a}; is it the same size as {y.the}?",
                   "There is {x.a}; does it have the same size as {y.the}?"),
    "equal_color": ("Do {x.the} and {y.the} have the same color?",
                    "Is {x.the} the same color as {y.the}?",
                    "Does {x.the} have the same color as {y.the}?",
                    "Are {x.the} and {y.the} the same color?",
                    "There is {x.a}; is it the same color as {y.the}?",
                    "There is {x.a}; is its color the same as that of {y.the}?"),
    "equal_material": ("Do {x.the} and {y.the} have the same material?",
                       "Are {x.the} and {y.the} made of the same material?",
                       "Is {x.the} made of the same material as {y.the}?",
                       "Is the material of {x.the} the same as that of {y.the}?",
                       "There is {x.a}; is it made of the same material as {y.the}?",
                       "There is {x.a}; does it have the same material as {y.the}?"),
    "equal_shape": ("Do {x.the} and {y.the} have the same shape?",
                    "Is {x.the} the same shape as {y.the}?",
                    "Does {x.the} have the same shape as {y.the}?",
                    "Is the shape of {x.the} the same as that of {y.the}?",
                    "There is {x.a}; is it the same shape as {y.the}?",
                    "There is {x.a}; does it have the same shape as {y.the}?"),
    "equal_integer": ("Are there an equal number of {x.many} and {y.many}?",
                      "Is the number of {x.many} the same as the number of {y.many}?",
                      "Is the number of {x.many} equal to the number of {y.many}?",
                      "Are there the same number of {x.many} and {y.many}?"),
    "less_than": ("Are there fewer {x.many} than {y.many}?",
                  "Is the number of {x.many} less than the number of {y.many}?"),
    "greater_than": ("Are there more {x.many} than {y.many}?",
                     "Is the number of {x.many} greater than the number of {y.many}?"),
    "either": ("How many {only} are either {x.many} or {y.many}?",
               "How many {only} are {x.many} or {y.many}?",
               "What number of {only} are either {x.many} or {y.many}?",
               "What is the number of {only} that are either {x.many} or {y.many}?"),
}


def say(question, rng):
    """One of the ways to put a `questions.Question` into English."""
    places = question.things.places
    kind, of = question.function, None
    if question.outer is not None:
        kind = "either"
    elif kind in ("count", "exist") and places:
        kind += " placed"
        if len(places) == 1 and places[0].function == "relate" and rng.random() < IT_SHARE:
            kind, of = question.function + " it", Mention(places[0].reference, rng)
    text = pick(rng, SENTENCES[kind]).format(
        x=Mention(question.things, rng), y=Mention(question.other, rng), of=of,
        only=question.outer and noun(question.outer, rng, "s"))
    return text[0].upper() + text[1:]


def pick(rng, options):
    return options[int(rng.random() * len(options))]


def noun(description, rng, ending=""):
    """"small red ball": the adjectives that are said, and a noun."""
    words = [pick(rng, WORDS.get(word, (word,))) for word in description[:3] if word]
    return " ".join(words + [pick(rng, WORDS[description[3]]) + ending])


def article(words):
    return ("an " if words[0] in "aeiou" else "a ") + words


class Mention:
    """The wordings of a group of objects (`questions.Things`), for use in `SENTENCES`. Every look at
    a property chooses its synonyms afresh."""

    def __init__(self, things, rng):
        self.things, self.rng = things, rng

    @property
    def alike(self):
        return any(place.function != "relate" for place in self.things.places)

    @property
    def one(self):
        """red ball"""
        return noun(self.things.description, self.rng)

    @property
    def kind(self):
        """red balls; other red balls"""
        return ("other " if self.alike else "") + noun(self.things.description, self.rng, "s")

    @property
    def many(self):
        """red balls [that are] behind the cube; other red balls of the same size as the cube"""
        return self.kind + self.clause("are")

    @property
    def the(self):
        """the red ball [that is] behind the cube; the other red ball of the same size as the cube"""
        return f"the {'other ' * self.alike}{self.one}{self.clause('is')}"

    @property
    def a(self):
        """a red ball [that is] behind the cube; another red ball of the same size as the cube"""
        one = f"another {self.one}" if self.alike else article(self.one)
        return one + self.clause("is")

    @property
    def a_kind(self):
        return article(self.one)

    @property
    def anything(self):
        """As `a`, but a thing of no description is mostly "anything"."""
        if any(self.things.description) or self.rng.random() < 0.3:
            return self.a
        return "anything" + " else" * self.alike + self.clause("is")

    @property
    def do(self):
        """are behind the cube; have the same size as the cube"""
        return " ".join(self.predicate())

    @property
    def do_any(self):
        """are any red balls behind the cube; do any other red balls have the same size as the cube"""
        verb, rest = self.predicate()
        return f"are any {self.kind} {rest}" if verb == "are" else f"do any {self.kind} have {rest}"

    @property
    def at_it(self):
        """behind it"""
        return f"{pick(self.rng, SIDES[self.things.places[0].direction])} it"

    def predicate(self):
        """The verb of the plural, and what follows it."""
        phrases = []
        for place in self.things.places:
            reference = Mention(place.reference, self.rng).the
            if place.function == "relate":
                verb, phrase = "are", pick(self.rng, SIDES[place.direction])
            else:
                verb, phrase = pick(self.rng, ALIKE[place.function.removeprefix("same_")])
            phrases.append(f"{phrase} {reference}")
        if len(phrases) == 2 and self.rng.random() < 0.5:
            phrases[0] = "both " + phrases[0]
        return verb, " and ".join(phrases)

    def clause(self, be):
        """What tells the group's place, with a space in front; nothing if it has none. `be` is "is"
        or "are"."""
        if not self.things.places:
            return ""
        verb, rest = self.predicate()
        if len(self.things.places) == 1 and self.rng.random() < BARE_SHARE:
            return " " + (f"of {rest}" if self.alike and not rest.startswith("made") else rest)
        return f" that {verb if be == 'are' else SINGULAR[verb]} {rest}"
