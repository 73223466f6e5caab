"""Draws model.png and resblock.png, which read downwards: python figures/draw.py

A box is a layer. The text beside the arrow below it is the shape of its output for one
example; a test compares these shapes with those of the notebook's layers.
"""

from pathlib import Path
from typing import NamedTuple

import matplotlib.path
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from PIL import Image

FOLDER = Path(__file__).parent
INK = "#1f2933"
WHITE = "white"
LANGUAGE = "#f4c77b"
VISION = "#9cc4e4"
COORDINATES = "#c9dfb4"
FILM = "#ef9a8a"
ANSWER = "#cbb7e2"

INCH = 0.46  # of one unit, which is about a line of text
STEP = 1.25  # from box to box
EDGE = 0.37  # from the middle of a box to its upper and lower edge


class Box(NamedTuple):
    text: str
    color: str
    shape: tuple = ()


NUM_TOKENS = "T"
NUM_ANSWERS = "$n_c$"
GENERATOR = [
    Box("question", WHITE, (NUM_TOKENS,)),
    Box("Embedding", LANGUAGE, (NUM_TOKENS, 64)),
    Box("GRU, all states", LANGUAGE, (NUM_TOKENS, 128)),
    Box("GRU, last state", LANGUAGE, (128,)),
]
IMAGE_TO_ANSWER = [
    Box("image", WHITE, (224, 224, 3)),
    Box("Conv 4×4 /2 · BN · ReLU", VISION, (112, 112, 128)),
    Box("Conv 4×4 /2 · BN · ReLU", VISION, (56, 56, 128)),
    Box("AddSpatialCoordinates", COORDINATES, (56, 56, 130)),
    Box("ResBlock with FiLM", FILM, (56, 56, 128)),
    Box("AddSpatialCoordinates", COORDINATES, (56, 56, 130)),
    Box("Conv 1×1 · ReLU", VISION, (56, 56, 512)),
    Box("global max pooling", VISION, (512,)),
    Box("Dense · ReLU", VISION, (512,)),
    Box("Dense · softmax", VISION, (NUM_ANSWERS,)),
    Box("answer", ANSWER),
]
RESBLOCK = [
    Box(r"$\mathbf{h}$", WHITE, (56, 56, 130)),
    Box("Conv 1×1 · ReLU", VISION, (56, 56, 128)),
    Box("Conv 3×3", VISION, (56, 56, 128)),
    Box(r"BatchNorm, no $\gamma$, $\beta$", VISION, (56, 56, 128)),
    Box("FiLM", FILM, (56, 56, 128)),
    Box("ReLU", VISION, (56, 56, 128)),
]
CONDITION = [Box(r"$\mathbf{q}$", LANGUAGE, (128,)), Box("Dense, Dense", FILM)]


def as_text(shape):
    return " × ".join(map(str, shape))


class Drawing:
    """A canvas; y grows upwards."""

    def __init__(self, width, height):
        self.figure = Figure(figsize=(width * INCH, height * INCH), dpi=160)
        self.ax = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
        self.ax.set_axis_off()

    def text(self, x, y, text, ha="center", va="center", fontsize=11.5, **style):
        style = {"color": INK} | style
        self.ax.text(x, y, text, ha=ha, va=va, fontsize=fontsize, **style)

    def note(self, x, y, text):
        style = {"style": "italic", "color": "#52606d", "linespacing": 1.5}
        self.text(x, y, text, ha="left", **style)

    def rectangle(self, left, bottom, right, top, radius, **style):
        boxstyle = f"round,pad=0,rounding_size={radius}"
        size = (right - left, top - bottom)
        self.ax.add_patch(FancyBboxPatch((left, bottom), *size, boxstyle, **style))

    def group(self, left, right, first_y, last_y, title):
        """A frame with a title around the boxes at heights `first_y` to `last_y`."""
        top = first_y + 0.82
        style = {"facecolor": "#f3f5f7", "edgecolor": "#9aa5b1", "zorder": 0}
        style["linestyle"] = (0, (4, 3))
        self.rectangle(left, last_y - 0.42, right, top, 0.25, **style)
        self.note(left + 0.2, top - 0.22, title)

    def arrow(self, *corners, text=""):
        """A line through `corners`; `text` stands beside or above its last part."""
        path = matplotlib.path.Path(corners)
        style = {"arrowstyle": "-|>", "mutation_scale": 13, "linewidth": 1.3}
        self.ax.add_patch(FancyArrowPatch(path=path, color=INK, **style))
        (x, y), (x_end, y_end) = corners[-2:]
        if x == x_end:
            self.text(x + 0.15, (y + y_end) / 2, text, ha="left")
        else:
            self.text((x + x_end) / 2, y + 0.1, text, va="bottom")

    def stack(self, x, top, width, boxes):
        """Draws boxes one below the other, joined by arrows; returns their heights."""
        heights = [top - i * STEP for i in range(len(boxes))]
        style = {"edgecolor": INK, "linewidth": 1.1}
        left, right = x - width / 2, x + width / 2
        for y, box in zip(heights, boxes, strict=True):
            edges = (left, y - EDGE, right, y + EDGE)
            self.rectangle(*edges, 0.16, facecolor=box.color, **style)
            self.text(x, y, box.text, va="center_baseline", fontsize=13)
            if y > heights[-1]:
                ends = (x, y - EDGE), (x, y - STEP + EDGE)
                self.arrow(*ends, text=as_text(box.shape))
        return heights

    def save(self, path):
        self.figure.savefig(path)
        # A palette is a third of the size, and the file loses Matplotlib's version.
        image = Image.open(path).convert("RGB").quantize(128)
        image.save(path, optimize=True, dpi=(160, 160))


def draw_model(folder):
    drawing = Drawing(14.6, 13.4)
    question_x = 2.95
    image_x, image_width = 10.35, 5.92
    y = drawing.stack(image_x, 12.98, image_width, IMAGE_TO_ANSWER)
    drawing.stack(question_x, y[0], 4.32, GENERATOR)
    resblock_y = y[4]
    drawing.arrow(
        (question_x, y[3] - EDGE),
        (question_x, resblock_y),
        (image_x - image_width / 2, resblock_y),
        text=rf"$\mathbf{{q}}$: {as_text(GENERATOR[-1].shape)}",
    )
    drawing.group(question_x - 2.8, question_x + 2.8, y[1], y[3], "generator")
    drawing.group(image_x - 3.4, image_x + 4.1, y[1], y[2], "feature extractor")
    drawing.group(image_x - 3.4, image_x + 4.1, y[6], y[9], "classifier")
    legend = (
        "beside the arrows: shape\n"
        "of one example\n"
        "/2: stride 2\n"
        f"{NUM_TOKENS}: tokens of a question\n"
        f"{NUM_ANSWERS}: answers"
    )
    drawing.note(question_x - 2.6, y[8], legend)
    drawing.save(folder / "model.png")


def draw_resblock(folder):
    drawing = Drawing(12.2, 9.1)
    q_x, q_width = 1.95, 3.52
    h_x, h_width = 7.4, 4.92
    shortcut_x = 11.0
    y = drawing.stack(h_x, 8.68, h_width, RESBLOCK)
    conv1_y, film_y, relu_y = y[1], y[4], y[5]
    plus_y, radius = relu_y - 1.0, 0.32

    drawing.stack(q_x, y[3], q_width, CONDITION)
    dense_edge, film_edge = q_x + q_width / 2, h_x - h_width / 2
    text = r"$\gamma$, $\beta$"
    drawing.arrow((dense_edge, film_y), (film_edge, film_y), text=text)

    drawing.arrow((h_x, relu_y - EDGE), (h_x, plus_y + radius))
    drawing.arrow(
        (h_x + h_width / 2, conv1_y),
        (shortcut_x, conv1_y),
        (shortcut_x, plus_y),
        (h_x + radius, plus_y),
    )
    style = {"facecolor": WHITE, "edgecolor": INK, "linewidth": 1.3}
    drawing.ax.add_patch(Circle((h_x, plus_y), radius, **style))
    drawing.text(h_x, plus_y + 0.02, "+", fontsize=17)
    text = as_text(RESBLOCK[-1].shape)
    drawing.arrow((h_x, plus_y - radius), (h_x, plus_y - 1.0), text=text)
    drawing.save(folder / "resblock.png")


if __name__ == "__main__":
    draw_model(FOLDER)
    draw_resblock(FOLDER)
