"""The layers of Question 2 against references in NumPy and SciPy, on TensorFlow and on JAX."""

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

from film_layers import AddSpatialCoordinates, BatchNormalization, FiLM, ResBlock

# (batch, height, width, channels), units: not square, one image, axes of length one.
SHAPES = [((2, 5, 8, 3), 4), ((1, 6, 3, 5), 2), ((3, 1, 4, 2), 3), ((2, 4, 1, 1), 1)]
MIXED = {"mixed_float16": 2**-11, "mixed_bfloat16": 2**-8}  # and their rounding
pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # of Keras's own calls of NumPy



@pytest.fixture
def tf():
    """TensorFlow, imported by the tests that need it, so that the others run on JAX without it."""
    import tensorflow
    tensorflow.config.experimental.enable_tensor_float_32_execution(False)
    return tensorflow


@pytest.fixture(autouse=True, scope="module")
def on_jax():
    """A process of its own, meanwhile, where Keras runs on JAX and TensorFlow is not loaded."""
    if keras.backend.backend() == "jax":
        yield
        return
    tests = [test_resblock_follows_figure_3, test_mixed_precision_computes_in_half_with_float32_weights,
             test_coordinates_in_half_precision_are_the_nearest_numbers]
    script = ("import sys, keras, film_layers, pytest; assert keras.backend.backend() == 'jax'; "
              "status = pytest.main(sys.argv[1:]); assert 'tensorflow' not in sys.modules; sys.exit(status)")
    process = subprocess.Popen(
        [sys.executable, "-c", script, *(f"{__file__}::{test.__name__}" for test in tests)], cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()


# ---- references in float64; `w` holds the weights of a layer by the ends of their paths ----

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
    channels = [[correlate(image, kernel[..., f], "valid", "direct")[..., 0] for image in padded]
                for f in range(kernel.shape[-1])]
    return np.stack(channels, axis=-1) + bias


def resblock_reference(w, h, q, training):
    """The outputs, and the statistics that the normalisation used."""
    shortcut = np.maximum(same_convolution(h, w["conv1/kernel"], w["conv1/bias"]), 0)
    features = same_convolution(shortcut, w["conv2/kernel"], w["conv2/bias"])
    mean, variance = w["norm/moving_mean"], w["norm/moving_variance"]
    if training:
        mean, variance = features.mean((0, 1, 2)), features.var((0, 1, 2))
    normalised = (features - mean) / np.sqrt(variance + 1e-3)
    return shortcut + np.maximum(film_reference(w, normalised, q), 0), mean, variance


def coordinates_reference(h):
    batch, height, width, _ = h.shape
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    return np.concatenate([h, np.broadcast_to(np.stack([x, y], -1), (batch, height, width, 2))], axis=-1)


def random_inputs(shape, units):
    rng = np.random.default_rng(0)
    return [rng.normal(size=size).astype("float32") for size in (shape, (shape[0], units))]


def randomise(layer):
    """Sets every weight of a built layer or model, moving statistics included, to random numbers."""
    rng = np.random.default_rng(1)
    for weight in layer.weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
        if "variance" in weight.path:
            weight.assign(rng.uniform(0.5, 2, weight.shape))


def built(layer, *inputs):
    layer.build(*(each.shape for each in inputs))
    randomise(layer)
    return layer


numpy = ops.convert_to_numpy


# ---- outputs ----

@pytest.mark.parametrize("shape, units", SHAPES)
def test_film_scales_and_shifts_each_channel(shape, units):
    h, q = random_inputs(shape, units)
    layer = built(FiLM(), h, q)
    outputs = numpy(layer(h, q))
    assert outputs.shape == layer.compute_output_shape(h.shape, q.shape)
    np.testing.assert_allclose(outputs, film_reference(weights_of(layer), h, q), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(numpy(FiLM()(h, 0 * q)), h)  # a new layer, gamma 1 and beta 0


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape, units", SHAPES)
def test_resblock_follows_figure_3(shape, units, training):
    h, q = random_inputs(shape, units)
    layer = built(ResBlock(4), h, q)
    before = weights_of(layer)
    outputs = numpy(layer(h, q, training=training))
    expected, mean, variance = resblock_reference(before, h, q, training)
    assert outputs.shape == layer.compute_output_shape(h.shape, q.shape)
    np.testing.assert_allclose(outputs, expected, rtol=2e-5, atol=2e-5)
    after = weights_of(layer)
    for name, now in (("norm/moving_mean", mean), ("norm/moving_variance", variance)):
        np.testing.assert_allclose(after[name], 0.9 * before[name] + 0.1 * now, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [shape for shape, _ in SHAPES] + [(1, 1, 1, 1), (1, 7, 300, 2)])
def test_coordinates_are_x_along_the_width_then_y_along_the_height(shape):
    h, _ = random_inputs(shape, 1)
    layer = AddSpatialCoordinates()
    outputs = numpy(layer(h))
    assert outputs.shape == layer.compute_output_shape(h.shape) and not layer.weights
    np.testing.assert_allclose(outputs, coordinates_reference(h), atol=1e-6)


@pytest.mark.parametrize("policy", MIXED)
def test_mixed_precision_computes_in_half_with_float32_weights(policy):
    h, q = random_inputs((2, 5, 8, 3), 4)
    half = policy.removeprefix("mixed_")
    film, block = built(FiLM(dtype=policy), h, q), built(ResBlock(4, dtype=policy), h, q)
    for layer, expected in ((film, film_reference(weights_of(film), h, q)),
                            (block, resblock_reference(weights_of(block), h, q, False)[0])):
        outputs = layer(h, q)
        assert keras.backend.standardize_dtype(outputs.dtype) == half
        assert {weight.dtype for weight in layer.weights} == {"float32"}
        assert {part.compute_dtype for part in layer._flatten_layers()} == {half}
        found, scale = numpy(outputs).astype("float64"), np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.02 * scale)


@pytest.mark.parametrize("policy", MIXED)
def test_coordinates_in_half_precision_are_the_nearest_numbers(policy):
    h = np.zeros((1, 2, 300, 1), "float32")  # bfloat16 cannot count to 300
    outputs = AddSpatialCoordinates(dtype=policy)(h)
    assert keras.backend.standardize_dtype(outputs.dtype) == policy.removeprefix("mixed_")
    error = numpy(outputs).astype("float64") - coordinates_reference(h)
    assert np.abs(error).max() <= 0.51 * MIXED[policy]


# ---- configs, sizes, wrong inputs ----

def small_model(policy="float32"):
    """All three layers, on feature maps of any height and width."""
    h, q = keras.Input((None, None, 3)), keras.Input((4,))
    x = AddSpatialCoordinates(dtype=policy)(h)
    x = ResBlock(5, dtype=policy)(x, q)
    return keras.Model([h, q], FiLM(dtype=policy)(x, q))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_config_and_saved_model_give_equal_layers(policy, tmp_path):
    h, q = random_inputs((2, 5, 8, 3), 4)
    for layer in (FiLM(name="a", dtype=policy), ResBlock(7, name="b", dtype=policy)):
        again = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
        assert again.get_config() == layer.get_config()
        built(layer, h, q)
        again.build(h.shape, q.shape)
        again.set_weights(layer.get_weights())
        np.testing.assert_array_equal(numpy(again(h, q)), numpy(layer(h, q)))
    norm = BatchNormalization.from_config(BatchNormalization(momentum=0.7, scale=False).get_config())
    assert (norm.momentum, norm.scale, BatchNormalization().momentum) == (0.7, False, 0.9)

    model = small_model(policy)
    randomise(model)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for new, old in zip(again.layers, model.layers, strict=True):
        assert new.dtype_policy == old.dtype_policy
    np.testing.assert_array_equal(numpy(again([h, q])), numpy(model([h, q])))


def test_unknown_sizes_stay_unknown_and_one_model_takes_all(tf):
    h, q = (None, None, 7, 3), (None, 4)
    assert FiLM().compute_output_shape(h, q) == (None, None, 7, 3)
    assert ResBlock(6).compute_output_shape(h, q) == (None, None, 7, 6)
    assert AddSpatialCoordinates().compute_output_shape(h) == (None, None, 7, 5)
    assert AddSpatialCoordinates().compute_output_shape((2, 3, 4, None)) == (2, 3, 4, None)
    model = small_model()
    assert model.output.shape == (None, None, None, 5)
    randomise(model)
    w_block, w = (weights_of(layer) for layer in model.layers[-2:])
    predict = tf.function(model, input_signature=[[tf.TensorSpec([None, None, None, 3]),
                                                   tf.TensorSpec([None, 4])]])
    add = tf.function(AddSpatialCoordinates(), input_signature=[tf.TensorSpec([None] * 4)])
    for shape, _ in SHAPES:
        h, q = random_inputs((*shape[:3], 3), 4)
        np.testing.assert_allclose(add(h), coordinates_reference(h), atol=1e-6)
        x, _, _ = resblock_reference(w_block, coordinates_reference(h), q, False)
        np.testing.assert_allclose(predict([h, q]), film_reference(w, x, q), rtol=1e-4, atol=1e-4)


def test_wrong_inputs_are_refused():
    h, q = random_inputs((4, 5, 6, 3), 3)
    film, block = FiLM(), ResBlock(4)
    film(h, q), block(h, q)
    calls = [(FiLM(), q, h), (FiLM(), q, q), (FiLM(), keras.Input((3,)), q), (film, h[..., :1], q),
             (film, h, q[:, :2]), (ResBlock(4), q, h), (block, h[..., :1], q), (block, h, q[:, :2]),
             (AddSpatialCoordinates(), q), (AddSpatialCoordinates(), keras.Input((5,)))]
    for layer, *inputs in calls:
        with pytest.raises(ValueError):
            layer(*inputs)
    for layer, inputs in ((FiLM(), h), (FiLM(), [h, q]), (ResBlock(4), h), (ResBlock(4), [h, q])):
        with pytest.raises(TypeError, match="'q'"):
            layer(inputs)


# ---- gradients ----

@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("make", [FiLM, lambda: ResBlock(4)])
def test_gradients_are_those_of_the_reference(make, training, tf):
    """Along a random direction in each weight, against a central difference."""
    h, q = random_inputs((2, 5, 8, 3), 4)
    layer = built(make(), h, q)
    is_film, w, rng = isinstance(layer, FiLM), weights_of(layer), np.random.default_rng(2)
    with tf.GradientTape() as tape:
        outputs = layer(h, q) if is_film else layer(h, q, training=training)
        direction = rng.normal(size=outputs.shape)
        loss = tf.reduce_sum(outputs * direction.astype("float32"))
    gradients = tape.gradient(loss, [weight.value for weight in layer.trainable_weights])

    def reference(w):
        found = film_reference(w, h, q) if is_film else resblock_reference(w, h, q, training)[0]
        return np.sum(found * direction)

    for weight, gradient in zip(layer.trainable_weights, gradients, strict=True):
        name = "/".join(weight.path.split("/")[-2:])
        step = 1e-6 * rng.normal(size=weight.shape)
        above, below = (reference({**w, name: w[name] + sign * step}) for sign in (1, -1))
        expected = (above - below) / 2e-6
        assert np.sum(gradient * step) / 1e-6 == pytest.approx(expected, rel=1e-3, abs=1e-3), name
        # Batch statistics cancel whatever constant the convolution before them adds.
        assert abs(expected) > 0.01 or (training and name == "conv2/bias"), name


# ---- the fused batch normalisation and Keras's own ----

def after_steps(make, shape, training, steps=3, **arguments):
    """Outputs and gradients of inputs and weights at each step, then the moving statistics."""
    import tensorflow as tf
    layer, rng, found = make(momentum=0.9, **arguments), np.random.default_rng(0), []
    layer.build((None, *shape[1:]))
    randomise(layer)
    weights = [weight.value for weight in layer.weights[:layer.scale + layer.center]]
    for _ in range(steps):
        inputs, direction = (tf.constant(rng.normal(mean, 2, shape), layer.compute_dtype) for mean in (3, 0))
        with tf.GradientTape() as tape:
            tape.watch([inputs, *weights])
            outputs = layer(inputs, training=training)
            loss = tf.reduce_sum(tf.cast(outputs * direction, "float32"))
        assert outputs.dtype == layer.compute_dtype
        found += [outputs, *tape.gradient(loss, [inputs, *weights])]
    return [np.asarray(tf.cast(value, "float32"))
            for value in (*found, layer.moving_mean.value, layer.moving_variance.value)]


def assert_equals_keras(tolerance, *arguments, **options):
    ours, theirs = (after_steps(make, *arguments, **options)
                    for make in (BatchNormalization, keras.layers.BatchNormalization))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(1, np.abs(other).max()))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(4, 5, 3, 6), (1, 2, 7, 1), (3, 2, 1, 3), (1, 1, 1, 2)])
@pytest.mark.parametrize("form", [{}, {"center": False}, {"scale": False}, {"center": False, "scale": False},
                                  {"trainable": False}])
def test_fused_normalisation_equals_keras(form, shape, training):
    assert_equals_keras(2e-5, shape, training, **form)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("policy", MIXED)
def test_fused_normalisation_in_half_precision(policy, training):
    assert_equals_keras(4 * MIXED[policy], (4, 5, 3, 6), training, dtype=policy)


@pytest.mark.parametrize("shape, axis", [((6, 4), -1), ((5, 3, 4), -1), ((2, 3, 4, 2, 5), -1),
                                         ((3, 4, 5, 2), 1)])
def test_other_ranks_and_axes_take_keras_own_path(shape, axis):
    assert_equals_keras(0, shape, True, axis=axis)


def test_a_mask_takes_keras_own_path():
    inputs, mask = np.random.default_rng(0).normal(size=(2, 3, 3, 4)), np.eye(3, dtype=bool)[[[0, 1, 2]] * 2]
    ours, theirs = BatchNormalization(), keras.layers.BatchNormalization(momentum=0.9)
    outputs = [numpy(layer(inputs, mask=mask, training=True)) for layer in (ours, theirs)]
    np.testing.assert_array_equal(*outputs)
    np.testing.assert_array_equal(ours.moving_mean, theirs.moving_mean)
    assert not np.allclose(outputs[0], numpy(BatchNormalization()(inputs, training=True)))


# ---- the notebook's model ----

@pytest.mark.parametrize("vocab_size, num_answers", [(82, 28), (9, 5)])
def test_parameter_counts_and_gradients_reach_every_weight(vocab_size, num_answers, tf):
    from notebook import run_cells
    policy = keras.config.dtype_policy()
    model = run_cells("imports", "model", vocab_size=vocab_size, num_answers=num_answers)["build_film"]()
    keras.config.set_dtype_policy(policy)  # which the notebook sets
    counts = {layer.name: (layer.count_params(), sum(np.prod(w.shape) for w in layer.non_trainable_weights))
              for layer in [*model.layers, model] if layer.weights}
    assert counts == {
        "film_generator": (64 * vocab_size + 173_568, 0), "feature_extractor": (269_568, 512),
        "resblock": (197_632, 256), "classifier": (329_728 + 513 * num_answers, 0),
        "film": (64 * vocab_size + 513 * num_answers + 970_496, 768)}

    rng = np.random.default_rng(0)
    inputs = {"question": rng.integers(1, vocab_size, (4, 6)),
              "image": rng.random((4, 224, 224, 3), "float32")}
    with tf.GradientTape() as tape:
        answers = model(inputs)
        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(np.arange(4), answers))
    gradients = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    np.testing.assert_allclose(np.sum(answers, axis=1), 1, rtol=1e-5)
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        assert gradient is not None and np.any(tf.convert_to_tensor(gradient)), weight.path


def test_layers_do_the_same_on_jax(on_jax):
    output, _ = on_jax.communicate()
    assert on_jax.returncode == 0, output
