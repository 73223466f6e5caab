"""Draws model.png and resblock.png, which read downwards. A box is a layer, the text beside an arrow the
shape of what flows there, without the batch axis."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Line
from PIL import Image

INK = "#1f2933"
LANGUAGE, VISION, COORDINATES, FILM, ANSWER = (
    "#f4c77b",
    "#9cc4e4",
    "#c9dfb4",
    "#ef9a8a",
    "#cbb7e2",
)
STEP = 1.25  # from box to box
EDGE = 0.37  # from the middle of a box to its rim
INCH = 0.46  # of one unit


class Drawing:
    """A canvas in units of about one line of text; y grows upwards."""

    def __init__(self, width, height):
        self.figure = Figure(figsize=(width * INCH, height * INCH), dpi=160)
        self.ax = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
        self.ax.set_axis_off()

    def text(self, x, y, text, **style):
        self.ax.text(
            x,
            y,
            text,
            **{"ha": "center", "va": "center", "color": INK, "fontsize": 11.5, **style},
        )

    def note(self, x, y, text):
        self.text(
            x, y, text, ha="left", style="italic", color="#52606d", linespacing=1.5
        )

    def group(self, left, bottom, right, top, title):
        self.ax.add_patch(
            FancyBboxPatch(
                (left, bottom),
                right - left,
                top - bottom,
                "round,pad=0,rounding_size=0.25",
                facecolor="#f3f5f7",
                edgecolor="#9aa5b1",
                linestyle=(0, (4, 3)),
                zorder=0,
            )
        )
        self.note(left + 0.2, top - 0.22, title)

    def arrow(self, *corners, shape=""):
        """A line through `corners` with its head at the last; `shape` stands beside or above its middle."""
        self.ax.add_patch(
            FancyArrowPatch(
                path=Line(corners),
                arrowstyle="-|>",
                mutation_scale=13,
                color=INK,
                linewidth=1.3,
            )
        )
        (x, y), (x_end, y_end) = corners[-2:]
        if x == x_end:
            self.text(x + 0.15, (y + y_end) / 2, shape, ha="left")
        else:
            self.text((x + x_end) / 2, y + 0.1, shape, va="bottom")

    def stack(self, x, top, layers, width):
        """Boxes one below the other, each `(text, colour, shape of its output)`; their heights."""
        heights = [top - i * STEP for i in range(len(layers))]
        for y, (text, colour, shape) in zip(heights, layers, strict=True):
            self.ax.add_patch(
                FancyBboxPatch(
                    (x - width / 2, y - EDGE),
                    width,
                    2 * EDGE,
                    "round,pad=0,rounding_size=0.16",
                    facecolor=colour,
                    edgecolor=INK,
                    linewidth=1.1,
                )
            )
            self.text(x, y, text, va="center_baseline", fontsize=13)
            if y > heights[-1]:
                self.arrow((x, y - EDGE), (x, y - STEP + EDGE), shape=shape)
        return heights

    def save(self, name):
        path = Path(__file__).with_name(name)
        self.figure.savefig(path)
        # A palette is a third of the size; written anew, the file does not carry matplotlib's version.
        Image.open(path).convert("RGB").quantize(128).save(
            path, optimize=True, dpi=(160, 160)
        )


def draw_model():
    drawing = Drawing(14.6, 13.4)
    left, right = 2.95, 10.35
    y = drawing.stack(
        right,
        12.98,
        [
            ("image", "white", "224 × 224 × 3"),
            ("Conv 4×4 /2 · BN · ReLU", VISION, "112 × 112 × 128"),
            ("Conv 4×4 /2 · BN · ReLU", VISION, "56 × 56 × 128"),
            ("AddSpatialCoordinates", COORDINATES, "56 × 56 × 130"),
            ("ResBlock with FiLM", FILM, "56 × 56 × 128"),
            ("AddSpatialCoordinates", COORDINATES, "56 × 56 × 130"),
            ("Conv 1×1 · ReLU", VISION, "56 × 56 × 512"),
            ("global max pooling", VISION, "512"),
            ("Dense · ReLU", VISION, "512"),
            ("Dense · softmax", VISION, "$n_c$"),
            ("answer", ANSWER, ""),
        ],
        5.92,
    )
    words = drawing.stack(
        left,
        y[0],
        [
            ("question", "white", "T"),
            ("Embedding", LANGUAGE, "T × 64"),
            ("GRU, all states", LANGUAGE, "T × 128"),
            ("GRU, last state", LANGUAGE, ""),
        ],
        4.32,
    )
    drawing.arrow(
        (left, words[3] - EDGE),
        (left, y[4]),
        (right - 2.96, y[4]),
        shape=r"$\mathbf{q}$: 128",
    )
    drawing.group(left - 2.8, words[3] - 0.42, left + 2.8, y[1] + 0.82, "generator")
    drawing.group(
        right - 3.4, y[2] - 0.42, right + 4.1, y[1] + 0.82, "feature extractor"
    )
    drawing.group(right - 3.4, y[9] - 0.42, right + 4.1, y[6] + 0.82, "classifier")
    drawing.note(
        left - 2.6,
        y[8],
        "beside the arrows: shape\nof one example\n/2: stride 2\n"
        "T: tokens of a question\n$n_c$: answers",
    )
    drawing.save("model.png")


def draw_resblock():
    drawing = Drawing(12.2, 9.1)
    words, main, shortcut = 1.95, 7.4, 11.0
    y = drawing.stack(
        main,
        8.68,
        [
            (r"$\mathbf{h}$", "white", "56 × 56 × 130"),
            ("Conv 1×1 · ReLU", VISION, "56 × 56 × 128"),
            ("Conv 3×3", VISION, "56 × 56 × 128"),
            (r"BatchNorm, no $\gamma$, $\beta$", VISION, "56 × 56 × 128"),
            ("FiLM", FILM, "56 × 56 × 128"),
            ("ReLU", VISION, ""),
        ],
        4.92,
    )
    drawing.stack(
        words,
        y[3],
        [(r"$\mathbf{q}$", LANGUAGE, "128"), ("Dense, Dense", FILM, "")],
        3.52,
    )
    drawing.arrow((words + 1.76, y[4]), (main - 2.46, y[4]), shape=r"$\gamma$, $\beta$")
    plus, radius = y[5] - 1.0, 0.32
    drawing.arrow((main, y[5] - EDGE), (main, plus + radius))
    drawing.arrow(
        (main + 2.46, y[1]), (shortcut, y[1]), (shortcut, plus), (main + radius, plus)
    )
    drawing.ax.add_patch(
        Circle((main, plus), radius, facecolor="white", edgecolor=INK, linewidth=1.3)
    )
    drawing.text(main, plus + 0.02, "+", fontsize=17)
    drawing.arrow((main, plus - radius), (main, plus - 1.0), shape="56 × 56 × 128")
    drawing.save("resblock.png")


if __name__ == "__main__":
    draw_model()
    draw_resblock()
