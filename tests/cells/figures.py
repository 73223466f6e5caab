"""Follows the notebook's 2f in a copy: the figures show the layers of build_film."""

import re

from PIL import Image

from figures import draw

model = build_film()
generator = model.get_layer("film_generator").layers
extractor = model.get_layer("feature_extractor").layers
classifier = model.get_layer("classifier").layers
block = model.get_layer("resblock")
sizes = {draw.NUM_TOKENS: None, draw.NUM_ANSWERS: num_answers}


def drawn_shapes(boxes):
    return [tuple(sizes.get(size, size) for size in box.shape) for box in boxes]


def drawn_kernels(boxes):
    text = " ".join(box.text for box in boxes)
    kernels = re.findall(r"Conv (\d)×(\d)", text)
    return [(int(height), int(width)) for height, width in kernels]


def output_shapes(*some_layers):
    return [layer.output.shape[1:] for layer in some_layers]


# ---- model.png ----

assert drawn_shapes(draw.GENERATOR) == output_shapes(
    model.get_layer("question"), *generator
)
*path, answer = draw.IMAGE_TO_ANSWER
assert drawn_shapes(path) == output_shapes(
    model.get_layer("image"),
    extractor[2],
    extractor[5],
    model.get_layer("coordinates_1"),
    block,
    model.get_layer("coordinates_2"),
    *classifier,
)
convolutions = [extractor[0], extractor[3], classifier[0]]
assert drawn_kernels(path) == [layer.kernel_size for layer in convolutions]

# ---- resblock.png: what flows between its layers is seen when it is called ----

shapes = {}


def record(layer):
    call = layer.call

    def recording_call(*inputs, **options):
        output = call(*inputs, **options)
        shapes[layer.name] = tuple(output.shape[1:])
        return output

    layer.call = recording_call


for layer in (block.conv1, block.conv2, block.norm, block.film):
    record(layer)
h, q = (np.zeros((1, *tensor.shape[1:]), "float32") for tensor in block.input)
output = block(h, q)
assert list(shapes) == ["conv1", "conv2", "norm", "film"]
assert drawn_shapes(draw.RESBLOCK) == [
    h.shape[1:],
    *shapes.values(),
    tuple(output.shape[1:]),
]
assert draw.CONDITION[0].shape == q.shape[1:]
convolutions = [block.conv1, block.conv2]
assert drawn_kernels(draw.RESBLOCK) == [layer.kernel_size for layer in convolutions]

# ---- the pictures are those that draw.py draws ----


def pixels(file):
    return np.asarray(Image.open(file).convert("RGB"), "int16")


with tempfile.TemporaryDirectory() as folder:
    draw.draw_model(Path(folder))
    draw.draw_resblock(Path(folder))
    for name in ("model.png", "resblock.png"):
        difference = np.abs(pixels(draw.FOLDER / name) - pixels(Path(folder, name)))
        assert (difference > 64).sum() < 20, f"{name}: python figures/draw.py"
