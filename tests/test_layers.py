"""The layers of Question 2 against references in NumPy, on TensorFlow and on JAX."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from keras import ops

from film_layers import AddSpatialCoordinates, FiLM, FusedBatchNormalization, ResBlock

PRECISIONS = {"float32": 2e-5, "mixed_float16": 0.02, "mixed_bfloat16": 0.02}
SHAPES = [((2, 5, 8, 3), (2, 4)), ((3, 1, 4, 2), (3, 3)), ((1, 4, 1, 1), (1, 1))]
needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="needs TensorFlow"
)


def random_array(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def randomise(layer):
    """Sets all weights, moving statistics included; {end of the path: value}."""
    rng = np.random.default_rng(1)
    values = {}
    for weight in layer.weights:
        low = 0.5 if "variance" in weight.path else -1
        weight.assign(rng.uniform(low, 1.5, weight.shape))
        name = "/".join(weight.path.split("/")[-2:])
        values[name] = to_float64(weight)
    return values


def to_float64(tensor):
    return ops.convert_to_numpy(tensor).astype("float64")


def compute_dtype(precision):
    return precision.removeprefix("mixed_")


# ---- references in float64; w holds a layer's weights by the end of their paths ----


def film_reference(w, h, q, training=False):
    gamma = q @ w["gamma/kernel"] + w["gamma/bias"]
    beta = q @ w["beta/kernel"] + w["beta/bias"]
    return gamma[:, None, None, :] * h + beta[:, None, None, :]


def same_convolution(h, kernel, bias):
    size = kernel.shape[0]
    rim = size // 2
    padded = np.pad(h, ((0, 0), (rim, rim), (rim, rim), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, (size, size), axis=(1, 2)
    )
    return np.einsum("bhwcij,ijcf->bhwf", windows, kernel) + bias


def resblock_reference(w, h, q, training=False):
    shortcut = same_convolution(h, w["conv1/kernel"], w["conv1/bias"])
    shortcut = np.maximum(shortcut, 0)
    x = same_convolution(shortcut, w["conv2/kernel"], w["conv2/bias"])
    mean = x.mean((0, 1, 2)) if training else w["norm/moving_mean"]
    variance = x.var((0, 1, 2)) if training else w["norm/moving_variance"]
    x = (x - mean) / np.sqrt(variance + 1e-3)
    return shortcut + np.maximum(film_reference(w, x, q), 0)


def coordinates_reference(h):
    x, y = np.meshgrid(np.linspace(-1, 1, h.shape[2]), np.linspace(-1, 1, h.shape[1]))
    coordinates = np.broadcast_to(np.stack([x, y], axis=-1), (*h.shape[:3], 2))
    return np.concatenate([h, coordinates], axis=-1)


# ---- FiLM and ResBlock ----


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["FiLM", "ResBlock"])
@pytest.mark.parametrize("h_shape, q_shape", SHAPES)
def test_outputs_are_those_of_the_reference(
    name, h_shape, q_shape, training, precision
):
    layer = FiLM(dtype=precision) if name == "FiLM" else ResBlock(4, dtype=precision)
    reference = film_reference if name == "FiLM" else resblock_reference
    h, q = random_array(h_shape), random_array(q_shape)
    layer.build(h_shape, q_shape)
    w = randomise(layer)
    outputs = layer(h, q, training=training)
    assert outputs.shape == layer.compute_output_shape(h_shape, q_shape)
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    assert keras.backend.standardize_dtype(outputs.dtype) == compute_dtype(precision)
    expected = reference(w, h, q, training)
    tolerance = PRECISIONS[precision] * max(1, np.abs(expected).max())
    np.testing.assert_allclose(to_float64(outputs), expected, rtol=0, atol=tolerance)


def test_a_new_film_layer_with_a_zero_question_changes_nothing():
    h = random_array((2, 5, 8, 3))
    outputs = FiLM()(h, np.zeros((2, 4), "float32"))
    np.testing.assert_array_equal(ops.convert_to_numpy(outputs), h)


def test_wrong_inputs_are_refused():
    h, q = random_array((4, 5, 6, 3)), random_array((4, 3))
    for make in (FiLM, ResBlock):
        built = make()
        built(h, q)
        wrong = [
            (make(), q, h),
            (make(), q, q),
            (built, h[..., :1], q),
            (built, h, q[:, :2]),
        ]
        for layer, *inputs in wrong:
            with pytest.raises(ValueError):
                layer(*inputs)
    for layer in (AddSpatialCoordinates(), FusedBatchNormalization()):
        with pytest.raises(ValueError):
            layer(q)
    with pytest.raises(ValueError, match="axis 1"):
        FusedBatchNormalization(axis=1)(h)


# ---- AddSpatialCoordinates ----


@pytest.mark.parametrize("precision", PRECISIONS)
def test_coordinates_are_x_along_the_width_then_y_along_the_height(precision):
    layer = AddSpatialCoordinates(dtype=precision)
    rounding = {"float32": 2**-22, "mixed_float16": 2**-12, "mixed_bfloat16": 2**-9}
    for shape in [*(h_shape for h_shape, _ in SHAPES), (1, 7, 300, 2)]:
        h = np.round(random_array(shape))  # whole numbers have no rounding error
        outputs = layer(h)
        assert outputs.shape == layer.compute_output_shape(shape)
        assert keras.backend.standardize_dtype(outputs.dtype) == compute_dtype(
            precision
        )
        error = to_float64(outputs) - coordinates_reference(h)
        assert np.abs(error).max() <= 1.02 * rounding[precision]
    assert not layer.weights


# ---- saved models, and another backend ----


@needs_tensorflow
def test_saved_model_takes_all_sizes(tmp_path):
    import tensorflow as tf

    h, q = keras.Input((None, None, 3)), keras.Input((4,))
    x = AddSpatialCoordinates()(h)
    x = ResBlock(5)(x, q)
    model = keras.Model([h, q], FiLM()(x, q))
    block, film = model.layers[-2:]
    block_weights, film_weights = randomise(block), randomise(film)
    model.save(tmp_path / "model.keras")
    saved = keras.models.load_model(tmp_path / "model.keras")
    assert saved.to_json() == model.to_json()
    signature = [tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([None, 4])]
    call = tf.function(saved, input_signature=[signature])
    for h_shape, _ in SHAPES:
        h, q = random_array((*h_shape[:3], 3)), random_array((h_shape[0], 4))
        x = resblock_reference(block_weights, coordinates_reference(h), q)
        expected = film_reference(film_weights, x, q)
        tolerance = 2e-5 * np.abs(expected).max()
        np.testing.assert_allclose(call([h, q]), expected, rtol=0, atol=tolerance)


def test_layers_do_the_same_on_jax():
    """The tests that need no TensorFlow, in a process that does not load it."""
    script = (
        "import sys, keras, pytest; assert keras.backend.backend() == 'jax'; "
        "status = pytest.main(sys.argv[1:]); "
        "assert 'tensorflow' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, __file__, "-k", "not the_same_on_jax"],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# ---- FusedBatchNormalization against Keras's own layer ----


def train_step(make, shape, training, **options):
    """Outputs, all gradients, and the moving statistics, which the step changes."""
    import tensorflow as tf

    layer = make(momentum=0.7, **options)
    layer.build(shape)
    randomise(layer)
    variables = [
        weight.value for weight in layer.weights if "moving" not in weight.path
    ]
    inputs = tf.constant(3 + 2 * random_array(shape), layer.compute_dtype)
    direction = tf.constant(random_array(shape, seed=2), layer.compute_dtype)
    with tf.GradientTape() as tape:
        tape.watch([inputs, *variables])
        outputs = layer(inputs, training=training)
        loss = tf.reduce_sum(tf.cast(outputs * direction, "float32"))
    assert outputs.dtype == layer.compute_dtype
    gradients = tape.gradient(loss, [inputs, *variables])
    found = [outputs, *gradients, layer.moving_mean, layer.moving_variance]
    return [np.asarray(tf.cast(x, "float32")) for x in found]


@needs_tensorflow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "shape, options",
    [
        ((4, 5, 3, 6), {}),
        ((4, 5, 3, 6), {"scale": False}),
        ((4, 5, 3, 6), {"center": False, "scale": False}),
        ((4, 5, 3, 6), {"trainable": False}),
        ((4, 5, 3, 6), {"dtype": "mixed_float16"}),
        ((4, 5, 3, 6), {"dtype": "mixed_bfloat16"}),
        ((1, 1, 1, 2), {}),
    ],
)
def test_normalisation_equals_keras(shape, options, training):
    ours = train_step(FusedBatchNormalization, shape, training, **options)
    theirs = train_step(keras.layers.BatchNormalization, shape, training, **options)
    tolerance = PRECISIONS[options.get("dtype", "float32")]
    for one, other in zip(ours, theirs, strict=True):
        scale = max(1, np.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)


@needs_tensorflow
def test_options_that_the_op_lacks_are_computed_by_keras():
    inputs = 3 + 2 * random_array((4, 5, 3, 6))
    outputs = []
    for make in (FusedBatchNormalization, keras.layers.BatchNormalization):
        layer = make(renorm=True)
        layer.build(inputs.shape)
        randomise(layer)
        outputs.append(to_float64(layer(inputs, training=True)))
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-5)
