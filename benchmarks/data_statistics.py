"""Statistics of the questions beside those of CLEVR v1.0.

    python benchmarks/data_statistics.py                      1,000 scenes, sampled and asked about
    python benchmarks/data_statistics.py --scenes 15000
    python benchmarks/data_statistics.py FOLDER               what a folder in CLEVR v1.0's layout holds

A majority is the accuracy of always giving the most frequent answer to a question's type, the
function that ends its program; CLEVR's are those printed by Perez et al., AAAI 2018, table 1."""

import argparse
import re
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from clevr.official import SPLITS, DataError, questions_file, read_records
from clevr.questions import ask
from clevr.scenes import sample_scene

CLASSES = {"count": ("count",), "exist": ("exist",),
           "compare integer": ("equal_integer", "less_than", "greater_than"),
           "query": ("query_color", "query_shape", "query_size", "query_material"),
           "compare attribute": ("equal_color", "equal_shape", "equal_size", "equal_material")}
# Families and majority (per cent) of CLEVR v1.0.
CLEVR = {"count": (21, 34.6), "exist": (12, 50.2), "compare integer": (9, 51.0), "query": (32, 36.0),
         "compare attribute": (16, 51.3), "overall": (90, 41.8)}


class Statistics:
    """Counts over a stream of questions."""

    def __init__(self, questions):
        self.words, self.lengths = set(), Counter()
        self.families, self.answers = defaultdict(set), defaultdict(Counter)
        for question in questions:
            words = re.sub(r"[^\w\s]", "", question["question"].lower()).split()
            function = question["program"][-1]["function"]
            self.words.update(words)
            self.lengths[len(words)] += 1
            self.families[function].add(question["question_family_index"])
            self.answers[function][question["answer"]] += 1

    def report(self):
        total = self.lengths.total()
        mean = sum(length * number for length, number in self.lengths.items()) / total
        answers = set().union(*self.answers.values())
        yield f"{'':24}{'here':>10}{'CLEVR v1.0':>12}"
        for name, value, official in (("questions", f"{total:,}", "849,980"),
                                      ("words", len(self.words), 80), ("answers", len(answers), 28),
                                      ("longest question, words", max(self.lengths), 44),
                                      ("mean question, words", f"{mean:.1f}", "")):
            yield f"{name:24}{value:>10}{official:>12}"
        yield from ("", f"{'class':24}{'families':>10}{'CLEVR':>12}{'share %':>10}{'majority %':>12}"
                        f"{'CLEVR %':>10}")
        for name, functions in (*CLASSES.items(), ("overall", tuple(self.answers))):
            yield self.class_line(name, functions, total)
        yield from ("", "answers, % of those with the same last function")
        for function in (name for functions in CLASSES.values() for name in functions):
            asked = self.answers[function].total() or 1
            yield f"{function:16}" + " ".join(f"{answer} {100 * number / asked:.1f}" for answer, number
                                              in self.answers[function].most_common())

    def class_line(self, name, functions, total):
        """Families, share and majority of the questions that end in these functions."""
        asked = sum(self.answers[function].total() for function in functions)
        best = sum(max(self.answers[function].values(), default=0) for function in functions)
        families = len(set().union(*(self.families[function] for function in functions)))
        official_families, official_majority = CLEVR[name]
        return (f"{name:24}{families:>10}{official_families:>12}{100 * asked / total:>10.1f}"
                f"{100 * best / max(asked, 1):>12.1f}{official_majority:>10}")


def sample(count, seed):
    """The questions about newly sampled scenes, and how many were made in a second."""
    scenes = [sample_scene(np.random.default_rng([seed, i]))
              for i in tqdm(range(count), "scenes", unit="scene")]
    counts, questions, begin = {}, [], time.perf_counter()
    for i, scene in enumerate(tqdm(scenes, "questions", unit="scene")):
        graph = {"objects": scene.objects, "relationships": scene.relationships}
        questions += ask(graph, np.random.default_rng([seed, i, 1]), counts)
    return questions, len(questions) / (time.perf_counter() - begin)


def stored(folder):
    """Streams the questions of a folder, all of its splits that have answers."""
    files = [path for path in (questions_file(folder, split) for split in SPLITS) if path.exists()]
    if not files:
        raise DataError(f"{questions_file(folder, SPLITS[0])} is not there: name a folder in the "
                        "layout of CLEVR v1.0")
    for path in files:
        with open(path, "rb") as file:
            yield from tqdm(read_records(file, "questions"), path.name, unit=" questions")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="a folder in the layout of CLEVR v1.0; without it, "
                        "scenes are sampled")
    parser.add_argument("--scenes", type=int, default=1000, help="how many to sample (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampled scenes (default 0)")
    arguments = parser.parse_args()
    if arguments.scenes < 1:
        parser.error(f"--scenes must be at least 1, not {arguments.scenes}")
    if arguments.folder:
        print(*Statistics(stored(arguments.folder)).report(), sep="\n")
        return
    questions, speed = sample(arguments.scenes, arguments.seed)
    print(*Statistics(questions).report(), "", f"asked at {speed:,.0f} questions/s on one core", sep="\n")


if __name__ == "__main__":
    try:
        main()
    except DataError as fault:
        sys.exit(f"error: {fault}")
