"""The three layers of Question 2 against references in NumPy and SciPy, on TensorFlow and on JAX."""

import ast
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from keras import ops
from scipy.signal import correlate

from film_layers import AddSpatialCoordinates, FiLM, ResBlock

# (batch, height, width, channels), units: not square, one image, axes of length one.
SHAPES = [((2, 5, 8, 3), 4), ((1, 6, 3, 5), 2), ((3, 1, 4, 2), 3), ((2, 4, 1, 1), 1)]
MIXED = ["mixed_float16", "mixed_bfloat16"]
pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # of Keras's own calls of NumPy


@pytest.fixture
def tf():
    """TensorFlow, imported by the tests that need it, so that the others run on JAX without it."""
    import tensorflow
    return tensorflow


@pytest.fixture(autouse=True, scope="module")
def full_float32():
    """No TensorFloat-32, which NVIDIA GPUs multiply by default: it has 10 bits of float32's 23."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    from tensorflow.config import experimental
    experimental.enable_tensor_float_32_execution(False)
    yield
    experimental.enable_tensor_float_32_execution(True)


# The references, in float64. `w` holds the weights of a layer by the ends of their paths.

def weights_of(layer):
    return {"/".join(weight.path.split("/")[-2:]): ops.convert_to_numpy(weight).astype("float64")
            for weight in layer.weights}


def film_reference(w, h, q):
    gamma = q @ w["gamma/kernel"] + w["gamma/bias"]
    beta = q @ w["beta/kernel"] + w["beta/bias"]
    return np.einsum("bc,bhwc->bhwc", gamma, h) + beta[:, None, None]


def same_convolution(h, kernel, bias):
    """Stride one and zero padding, one cross-correlation for each image and filter."""
    rim = kernel.shape[0] // 2
    padded = np.pad(h, ((0, 0), (rim, rim), (rim, rim), (0, 0)))
    maps = [[correlate(image, kernel[..., f], "valid", "direct")[..., 0] for image in padded]
            for f in range(kernel.shape[-1])]
    return np.stack(maps, axis=-1) + bias


def resblock_reference(w, h, q, training):
    """The outputs, and the statistics that the normalisation used."""
    shortcut = np.maximum(same_convolution(h, w["conv1/kernel"], w["conv1/bias"]), 0)
    maps = same_convolution(shortcut, w["conv2/kernel"], w["conv2/bias"])
    mean, variance = w["norm/moving_mean"], w["norm/moving_variance"]
    if training:
        mean, variance = maps.mean((0, 1, 2)), maps.var((0, 1, 2))
    normal = (maps - mean) / np.sqrt(variance + 1e-3)
    return shortcut + np.maximum(film_reference(w, normal, q), 0), mean, variance


def coordinates_reference(h):
    batch, height, width, _ = h.shape
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    place = np.broadcast_to(np.stack([x, y], axis=-1), (batch, height, width, 2))
    return np.concatenate([h, place], axis=-1)


def random_inputs(shape, units, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=size).astype("float32") for size in (shape, (shape[0], units))]


def randomise(layer, seed=1):
    """Sets every weight of a built layer or model, the moving statistics too, to random numbers."""
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
        if "variance" in weight.path:
            weight.assign(rng.uniform(0.5, 2, weight.shape))


def built(layer, h, q):
    layer.build([h.shape, q.shape])
    randomise(layer)
    return layer


def numpy(outputs):
    return ops.convert_to_numpy(outputs)


@pytest.mark.parametrize("shape, units", SHAPES)
def test_film_scales_and_shifts_each_map(shape, units):
    h, q = random_inputs(shape, units)
    layer = built(FiLM(), h, q)
    outputs = numpy(layer([h, q]))
    assert outputs.shape == layer.compute_output_shape([h.shape, q.shape])
    np.testing.assert_allclose(outputs, film_reference(weights_of(layer), h, q), rtol=1e-5, atol=1e-5)


def test_new_film_lets_the_maps_through_where_q_is_zero():
    h, q = random_inputs((2, 3, 4, 5), 6)
    np.testing.assert_array_equal(numpy(FiLM()([h, 0 * q])), h)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape, units", SHAPES)
def test_resblock_follows_figure_3(shape, units, training):
    h, q = random_inputs(shape, units)
    layer = built(ResBlock(4, momentum=0.8), h, q)
    before = weights_of(layer)
    outputs = numpy(layer([h, q], training=training))
    expected, mean, variance = resblock_reference(before, h, q, training)
    assert outputs.shape == layer.compute_output_shape([h.shape, q.shape])
    np.testing.assert_allclose(outputs, expected, rtol=2e-5, atol=2e-5)
    after = weights_of(layer)
    for name, now in (("norm/moving_mean", mean), ("norm/moving_variance", variance)):
        np.testing.assert_allclose(after[name], 0.8 * before[name] + 0.2 * now, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [shape for shape, _ in SHAPES] + [(1, 1, 1, 1), (1, 7, 300, 2)])
def test_coordinates_are_x_along_the_width_then_y_along_the_height(shape):
    h, _ = random_inputs(shape, 1)
    layer = AddSpatialCoordinates()
    outputs = numpy(layer(h))
    assert outputs.shape == layer.compute_output_shape(h.shape)
    assert not layer.weights
    np.testing.assert_allclose(outputs, coordinates_reference(h), atol=1e-6)


def test_corners_of_a_picture():
    outputs = numpy(AddSpatialCoordinates()(np.zeros((1, 3, 5, 0), "float32")))[0]
    corners = outputs[[0, 0, -1, -1], [0, -1, 0, -1]]  # top left, top right, bottom left, bottom right
    assert corners.tolist() == [[-1, -1], [1, -1], [-1, 1], [1, 1]]


@pytest.mark.parametrize("policy", MIXED)
def test_mixed_precision_computes_in_half_and_keeps_weights_in_float32(policy):
    h, q = random_inputs((2, 5, 8, 3), 4)
    half = policy.removeprefix("mixed_")
    film, block = built(FiLM(dtype=policy), h, q), built(ResBlock(4, dtype=policy), h, q)
    for layer, expected in ((film, film_reference(weights_of(film), h, q)),
                            (block, resblock_reference(weights_of(block), h, q, False)[0])):
        outputs = layer([h, q])
        assert keras.backend.standardize_dtype(outputs.dtype) == half
        assert {weight.dtype for weight in layer.weights} == {"float32"}
        assert {sub.compute_dtype for sub in layer._flatten_layers()} == {half}
        found, scale = numpy(outputs).astype("float64"), np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.02 * scale)


@pytest.mark.parametrize("policy, rounding", zip(MIXED, [2**-12, 2**-9]))
def test_coordinates_in_half_precision_are_the_nearest_numbers(policy, rounding):
    h = np.zeros((1, 2, 300, 1), "float32")  # bfloat16 cannot count to 300
    outputs = AddSpatialCoordinates(dtype=policy)(h)
    assert keras.backend.standardize_dtype(outputs.dtype) == policy.removeprefix("mixed_")
    error = numpy(outputs).astype("float64") - coordinates_reference(h)
    assert np.abs(error).max() <= 1.01 * rounding


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_config_makes_an_equal_layer(policy):
    h, q = random_inputs((2, 5, 8, 3), 4)
    for layer in (FiLM(name="a", dtype=policy), ResBlock(7, momentum=0.8, name="b", dtype=policy)):
        config = json.loads(json.dumps(layer.get_config()))
        again = type(layer).from_config(config)
        assert again.get_config() == layer.get_config()
        assert not isinstance(again, ResBlock) or again.norm.momentum == 0.8
        built(layer, h, q)
        again.build([h.shape, q.shape])
        again.set_weights(layer.get_weights())
        np.testing.assert_array_equal(numpy(again([h, q])), numpy(layer([h, q])))


def small_model(policy="float32"):
    """All three layers, on maps of any height and width."""
    h, q = keras.Input((None, None, 3)), keras.Input((4,))
    maps = AddSpatialCoordinates(dtype=policy)(h)
    maps = ResBlock(5, dtype=policy)([maps, q])
    return keras.Model([h, q], FiLM(dtype=policy)([maps, q]))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_saved_model_loads_equal(policy, tmp_path):
    model = small_model(policy)
    randomise(model)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for new, old in zip(again.layers, model.layers, strict=True):
        assert new.dtype_policy == old.dtype_policy
    h, q = random_inputs((2, 5, 8, 3), 4)
    np.testing.assert_array_equal(numpy(again([h, q])), numpy(model([h, q])))


def test_unknown_sizes_stay_unknown():
    h, q = (None, None, 7, 3), (None, 4)
    assert FiLM().compute_output_shape([h, q]) == (None, None, 7, 3)
    assert ResBlock(6).compute_output_shape([h, q]) == (None, None, 7, 6)
    assert AddSpatialCoordinates().compute_output_shape(h) == (None, None, 7, 5)
    assert AddSpatialCoordinates().compute_output_shape((2, 3, 4, None)) == (2, 3, 4, None)
    assert small_model().output.shape == (None, None, None, 5)


def test_one_model_takes_maps_of_all_sizes(tf):
    model = small_model()
    randomise(model)
    w, w_block = (weights_of(layer) for layer in (model.layers[-1], model.layers[-2]))
    signature = [tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([None, 4])]
    predict = tf.function(model, input_signature=[signature])
    for shape, _ in SHAPES:
        h, q = random_inputs((*shape[:3], 3), 4)
        maps, _, _ = resblock_reference(w_block, coordinates_reference(h), q, False)
        np.testing.assert_allclose(predict([h, q]), film_reference(w, maps, q), rtol=1e-4, atol=1e-4)


def test_coordinates_where_no_size_is_known(tf):
    add = tf.function(AddSpatialCoordinates(), input_signature=[tf.TensorSpec([None] * 4)])
    h, _ = random_inputs((2, 3, 5, 4), 1)
    np.testing.assert_allclose(add(h), coordinates_reference(h), atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("make", [FiLM, lambda: ResBlock(4)])
def test_gradients_are_those_of_the_reference(make, training, tf):
    """Along a random direction in each weight, against a central difference."""
    h, q = random_inputs((2, 5, 8, 3), 4)
    layer = built(make(), h, q)
    w, rng = weights_of(layer), np.random.default_rng(2)
    with tf.GradientTape() as tape:
        outputs = layer([h, q], training=training)
        towards = rng.normal(size=outputs.shape)
        loss = tf.reduce_sum(outputs * towards.astype("float32"))
    gradients = tape.gradient(loss, [weight.value for weight in layer.trainable_weights])

    def reference(w):
        film = isinstance(layer, FiLM)
        found = film_reference(w, h, q) if film else resblock_reference(w, h, q, training)[0]
        return np.sum(found * towards)

    for weight, gradient in zip(layer.trainable_weights, gradients, strict=True):
        name = "/".join(weight.path.split("/")[-2:])
        step = 1e-6 * rng.normal(size=weight.shape)
        above, below = (reference({**w, name: w[name] + sign * step}) for sign in (1, -1))
        expected = (above - below) / 2e-6
        found = np.sum(gradient * step) / 1e-6
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-3), name
        # Batch statistics take away whatever constant the convolution before them adds.
        assert abs(expected) > 0.01 or (training and name == "conv2/bias"), name


def test_wrong_inputs_are_refused_with_what_was_received():
    h, q = random_inputs((4, 5, 6, 3), 3)
    used = FiLM()
    used([h, q])
    calls = [(FiLM(), q), (FiLM(), h), (FiLM(), [q, h]), (FiLM(), [h, q, q]),
             (FiLM(), keras.Input((3,))), (used, [h[..., :1], q]), (used, [h, q[:, :2]]),
             (used, [h, h]), (ResBlock(4), [q, h]), (ResBlock(4), h), (AddSpatialCoordinates(), q),
             (AddSpatialCoordinates(), keras.Input((5,))), (AddSpatialCoordinates(), [h, h])]
    for layer, inputs in calls:
        with pytest.raises(ValueError, match="(?i)received"):
            layer(inputs)
    with pytest.raises(ValueError, match=r"FiLM takes .* Received: \[\(4, 3\), \(4, 5, 6, 3\)\]"):
        FiLM()([q, h])


# Question 2's model, from the notebook that defines it.

def builders(V, n, side):
    """The notebook's functions that build the model, for V tokens, n answers and square pictures."""
    names = ["build_film_generator", "build_feature_extractor", "build_classifier", "build_model"]
    space = {"V": V, "n": n, "SIDE": side, "MOMENTUM": 0.99, "keras": keras, "layers": keras.layers, "np": np,
             "FiLM": FiLM, "ResBlock": ResBlock, "AddSpatialCoordinates": AddSpatialCoordinates}
    for cell in json.loads((ROOT / "coursework2.ipynb").read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and any(f"def {name}(" in source for name in names):
            functions = [node for node in ast.parse(source).body if getattr(node, "name", "") in names]
            exec(compile(ast.Module(functions, []), "coursework2.ipynb", "exec"), space)
    return [space[name] for name in names]


def counts(layer):
    """All parameters, and those that training leaves alone."""
    fixed = sum(int(np.prod(weight.shape)) for weight in layer.non_trainable_weights)
    return layer.count_params(), fixed


@pytest.mark.parametrize("V, n", [(82, 28), (9, 5)])
def test_parameter_counts(V, n):
    generator, extractor, classifier, model = builders(V, n, 32)
    block = ResBlock(128)
    block.build([(None, 8, 8, 130), (None, 128)])
    assert counts(generator()) == (64 * V + 173_568, 0)
    assert counts(extractor()) == (269_568, 512)
    assert counts(block) == (197_632, 256)
    assert counts(classifier(130)) == (329_728 + 513 * n, 0)
    assert counts(model()) == (64 * V + 513 * n + 970_496, 768)


def test_gradients_reach_every_weight_of_the_model(tf):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model = builders(9, 5, 32)[-1]()
    inputs = {"question": rng.integers(1, 9, (4, 6)), "image": rng.random((4, 32, 32, 3), "float32")}
    with tf.GradientTape() as tape:
        answers = model(inputs)
        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(np.arange(4), answers))
    gradients = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    np.testing.assert_allclose(np.sum(answers, axis=1), 1, rtol=1e-5)
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        assert gradient is not None and np.any(tf.convert_to_tensor(gradient)), weight.path


def test_layers_do_the_same_on_jax():
    """The tests above that name no backend, in a process where Keras runs on JAX and TensorFlow is
    not loaded."""
    tests = [test_film_scales_and_shifts_each_map, test_resblock_follows_figure_3,
             test_coordinates_are_x_along_the_width_then_y_along_the_height,
             test_mixed_precision_computes_in_half_and_keeps_weights_in_float32]
    script = ("import sys, keras, film_layers, pytest; assert keras.backend.backend() == 'jax'; "
              "assert 'tensorflow' not in sys.modules; sys.exit(pytest.main(sys.argv[1:]))")
    names = [f"{__file__}::{test.__name__}" for test in tests]
    done = subprocess.run([sys.executable, "-c", script, *names], cwd=ROOT,
                          env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
