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
ROUNDING = {"float32": 2**-24, "mixed_float16": 2**-11, "mixed_bfloat16": 2**-8}
MIXED = [policy for policy in ROUNDING if "mixed" in policy]
pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # of Keras's own calls of NumPy
numpy = ops.convert_to_numpy


@pytest.fixture
def tf():
    """TensorFlow, imported by the tests that need it, so that the others run on JAX without it."""
    import tensorflow
    tensorflow.config.experimental.enable_tensor_float_32_execution(False)
    return tensorflow


# ---- references in float64; `w` holds the weights of a layer by the ends of their paths ----

def film_reference(w, h, q, training=False):
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


def resblock_reference(w, h, q, training=False):
    shortcut = np.maximum(same_convolution(h, w["conv1/kernel"], w["conv1/bias"]), 0)
    x = same_convolution(shortcut, w["conv2/kernel"], w["conv2/bias"])
    mean, variance = w["norm/moving_mean"], w["norm/moving_variance"]
    if training:
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return shortcut + np.maximum(film_reference(w, (x - mean) / np.sqrt(variance + 1e-3), q), 0)


def coordinates_reference(h):
    batch, height, width, _ = h.shape
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    return np.concatenate([h, np.broadcast_to(np.stack([x, y], -1), (batch, height, width, 2))], axis=-1)


LAYERS = [(FiLM, film_reference), (lambda **options: ResBlock(4, **options), resblock_reference)]


def random_inputs(shape, units):
    rng = np.random.default_rng(0)
    return [rng.normal(size=size).astype("float32") for size in (shape, (shape[0], units))]


def randomised(layer, *inputs):
    """The layer or model with random numbers for all weights, moving statistics included; and these."""
    if inputs:
        layer.build(*(each.shape for each in inputs))
    rng, weights = np.random.default_rng(1), {}
    for weight in layer.weights:
        value = rng.uniform(0.5, 2, weight.shape) if "variance" in weight.path else rng.normal(
            0, 0.5, weight.shape)
        weight.assign(value)
        weights["/".join(weight.path.split("/")[-2:])] = numpy(weight).astype("float64")
    return layer, weights


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape, units", SHAPES)
@pytest.mark.parametrize("make, reference", LAYERS)
def test_outputs_are_those_of_the_reference(make, reference, shape, units, training):
    h, q = random_inputs(shape, units)
    layer, w = randomised(make(), h, q)
    outputs = numpy(layer(h, q, training=training))
    assert outputs.shape == layer.compute_output_shape(h.shape, q.shape)
    np.testing.assert_allclose(outputs, reference(w, h, q, training), rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(numpy(FiLM()(h, 0 * q)), h)  # a new layer has gamma 1 and beta 0


@pytest.mark.parametrize("policy", MIXED)
@pytest.mark.parametrize("make, reference", LAYERS)
def test_mixed_precision_computes_in_half_with_float32_weights(make, reference, policy):
    h, q = random_inputs((2, 5, 8, 3), 4)
    layer, w = randomised(make(dtype=policy), h, q)
    outputs, expected = layer(h, q), reference(w, h, q)
    assert keras.backend.standardize_dtype(outputs.dtype) == policy.removeprefix("mixed_")
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    assert {part.compute_dtype for part in layer._flatten_layers()} == {policy.removeprefix("mixed_")}
    error = numpy(outputs).astype("float64") - expected
    assert np.abs(error).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("policy", ROUNDING)
@pytest.mark.parametrize("shape", [shape for shape, _ in SHAPES] + [(1, 1, 1, 1), (1, 7, 300, 2)])
def test_coordinates_are_x_along_the_width_then_y_along_the_height(shape, policy):
    h = np.round(random_inputs(shape, 1)[0])  # bfloat16 cannot count to 300
    layer = AddSpatialCoordinates(dtype=policy)
    outputs = layer(h)
    assert outputs.shape == layer.compute_output_shape(h.shape) and not layer.weights
    assert keras.backend.standardize_dtype(outputs.dtype) == policy.removeprefix("mixed_")
    error = numpy(outputs).astype("float64") - coordinates_reference(h)
    assert np.abs(error).max() <= (2 if policy == "float32" else 0.51) * ROUNDING[policy]


def test_layers_do_the_same_on_jax():
    """Tests above, in a process where Keras runs on JAX and TensorFlow is not loaded."""
    script = ("import sys, keras, film_layers, pytest; assert keras.backend.backend() == 'jax'; "
              "status = pytest.main(sys.argv[1:]); assert 'tensorflow' not in sys.modules; sys.exit(status)")
    tests = "(reference and shape0) or mixed_precision or (width and shape5)"
    done = subprocess.run([sys.executable, "-c", script, __file__, "-k", tests], cwd=ROOT,
                          env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- configs, sizes, wrong inputs ----

def small_model(policy="float32"):
    """All three layers, on feature maps of any height and width."""
    h, q = keras.Input((None, None, 3)), keras.Input((4,))
    x = ResBlock(5, dtype=policy)(AddSpatialCoordinates(dtype=policy)(h), q)
    return keras.Model([h, q], FiLM(dtype=policy)(x, q))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_config_and_saved_model_give_equal_layers(policy, tmp_path):
    h, q = random_inputs((2, 5, 8, 3), 4)
    for layer in (FiLM(name="a", dtype=policy), ResBlock(7, name="b", dtype=policy)):
        again = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
        assert again.get_config() == layer.get_config()
        np.testing.assert_array_equal(*(numpy(randomised(each, h, q)[0](h, q)) for each in (layer, again)))
    norm = BatchNormalization.from_config(BatchNormalization(momentum=0.7, scale=False).get_config())
    assert (norm.momentum, norm.scale, BatchNormalization().momentum) == (0.7, False, 0.9)
    model, _ = randomised(small_model(policy))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert [layer.dtype_policy for layer in again.layers] == [layer.dtype_policy for layer in model.layers]
    np.testing.assert_array_equal(numpy(again([h, q])), numpy(model([h, q])))


def test_unknown_sizes_stay_unknown_and_one_model_takes_all(tf):
    h, q = (None, None, 7, 3), (None, 4)
    assert FiLM().compute_output_shape(h, q) == (None, None, 7, 3)
    assert ResBlock(6).compute_output_shape(h, q) == (None, None, 7, 6)
    assert AddSpatialCoordinates().compute_output_shape(h) == (None, None, 7, 5)
    assert AddSpatialCoordinates().compute_output_shape((2, 3, 4, None)) == (2, 3, 4, None)
    model, _ = randomised(small_model())
    assert model.output.shape == (None, None, None, 5)
    (_, w_block), (_, w) = (randomised(layer) for layer in model.layers[-2:])
    signature = [tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([None, 4])]
    call = tf.function(model, input_signature=[signature])
    add = tf.function(AddSpatialCoordinates(), input_signature=[tf.TensorSpec([None] * 4)])
    for shape, _ in SHAPES:
        h, q = random_inputs((*shape[:3], 3), 4)
        np.testing.assert_allclose(add(h), coordinates_reference(h), atol=1e-6)
        expected = film_reference(w, resblock_reference(w_block, coordinates_reference(h), q), q)
        np.testing.assert_allclose(call([h, q]), expected, rtol=1e-4, atol=1e-4)


def test_wrong_inputs_are_refused():
    h, q = random_inputs((4, 5, 6, 3), 3)
    film, block = FiLM(), ResBlock(4)
    film(h, q), block(h, q)
    for layer, *inputs in [
            (FiLM(), q, h), (FiLM(), q, q), (FiLM(), keras.Input((3,)), q), (film, h[..., :1], q),
            (film, h, q[:, :2]), (ResBlock(4), q, h), (block, h[..., :1], q), (block, h, q[:, :2]),
            (AddSpatialCoordinates(), q), (AddSpatialCoordinates(), keras.Input((5,)))]:
        with pytest.raises(ValueError):
            layer(*inputs)
    for layer, inputs in ((FiLM(), h), (FiLM(), [h, q]), (ResBlock(4), h), (ResBlock(4), [h, q])):
        with pytest.raises(TypeError, match="'q'"):
            layer(inputs)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("make, reference", LAYERS)
def test_gradients_are_central_differences(make, reference, training, tf):
    """Along a random direction in each weight."""
    h, q = random_inputs((2, 5, 8, 3), 4)
    layer, w = randomised(make(), h, q)
    rng = np.random.default_rng(2)
    direction = rng.normal(size=layer.compute_output_shape(h.shape, q.shape))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(h, q, training=training) * direction.astype("float32"))
    gradients = tape.gradient(loss, [weight.value for weight in layer.trainable_weights])
    for weight, gradient in zip(layer.trainable_weights, gradients, strict=True):
        name, step = "/".join(weight.path.split("/")[-2:]), 1e-6 * rng.normal(size=weight.shape)
        above, below = (np.sum(direction * reference({**w, name: w[name] + sign * step}, h, q, training))
                        for sign in (1, -1))
        expected = (above - below) / 2e-6
        assert np.sum(gradient * step) / 1e-6 == pytest.approx(expected, rel=1e-3, abs=1e-3), name
        # Batch statistics cancel whatever constant the convolution before them adds.
        assert abs(expected) > 0.01 or (training and name == "conv2/bias"), name


# ---- the fused batch normalisation and Keras's own ----

def after_steps(make, shape, training, mask=None, **options):
    """Outputs and gradients of inputs and weights at each of three steps, then the moving statistics."""
    import tensorflow as tf
    rng, found, layer = np.random.default_rng(0), [], make(momentum=0.9, **options)
    randomised(layer, np.empty(shape))
    weights = [weight.value for weight in layer.weights[:layer.scale + layer.center]]
    for _ in range(3):
        inputs, direction = (tf.constant(rng.normal(mean, 2, shape), layer.compute_dtype) for mean in (3, 0))
        with tf.GradientTape() as tape:
            tape.watch([inputs, *weights])
            outputs = layer(inputs, training=training, mask=mask)
            loss = tf.reduce_sum(tf.cast(outputs * direction, "float32"))
        assert outputs.dtype == layer.compute_dtype
        found += [outputs, *tape.gradient(loss, [inputs, *weights])]
    return [np.asarray(tf.cast(x, "float32")) for x in (*found, layer.moving_mean, layer.moving_variance)]


IMAGES = [(4, 5, 3, 6), (1, 2, 7, 1), (3, 2, 1, 3), (1, 1, 1, 2)]
FUSED = [{}, {"center": False}, {"scale": False}, {"center": False, "scale": False}, {"trainable": False}]
OTHER = [((6, 4), {}), ((5, 3, 4), {}), ((2, 3, 4, 2, 5), {}), ((3, 4, 5, 2), {"axis": 1}),
         ((2, 3, 3, 4), {"mask": np.eye(3, dtype=bool)[[[0, 1, 2]] * 2]})]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape, options", [
    *((shape, options) for shape in IMAGES for options in FUSED),
    *(((4, 5, 3, 6), {"dtype": policy}) for policy in MIXED), *OTHER])
def test_normalisation_equals_keras(shape, options, training):
    ours, theirs = (after_steps(make, shape, training, **options)
                    for make in (BatchNormalization, keras.layers.BatchNormalization))
    tolerance = max(2e-5, 4 * ROUNDING[options.get("dtype", "float32")])
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(1, np.abs(other).max()))


# ---- the notebook's model ----

@pytest.mark.parametrize("vocab_size, num_answers", [(82, 28), (9, 5)])
def test_parameter_counts_and_gradients_reach_every_weight(vocab_size, num_answers, tf):
    from notebook import run_cells
    policy = keras.config.dtype_policy()
    model = run_cells("imports", "model", vocab_size=vocab_size, num_answers=num_answers)["build_film"]()
    keras.config.set_dtype_policy(policy)  # which the notebook sets
    assert {layer.name: (layer.count_params(), sum(np.prod(w.shape) for w in layer.non_trainable_weights))
            for layer in [*model.layers, model] if layer.weights} == {
        "film_generator": (64 * vocab_size + 173_568, 0), "feature_extractor": (269_568, 512),
        "resblock": (197_632, 256), "classifier": (329_728 + 513 * num_answers, 0),
        "film": (64 * vocab_size + 513 * num_answers + 970_496, 768)}
    rng = np.random.default_rng(0)
    inputs = {"question": rng.integers(1, vocab_size, (4, 6)), "image": rng.random((4, 224, 224, 3))}
    with tf.GradientTape() as tape:
        answers = model(inputs)
        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(np.arange(4), answers))
    gradients = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    np.testing.assert_allclose(np.sum(answers, axis=1), 1, rtol=1e-5)
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        assert gradient is not None and np.any(tf.convert_to_tensor(gradient)), weight.path
