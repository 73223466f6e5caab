"""The layers of Question 2 against references in NumPy, on TensorFlow and on JAX."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from keras import ops

from film_layers import AddSpatialCoordinates, BatchNormalization, FiLM, ResBlock

SHAPES = [
    ((2, 5, 8, 3), 4),
    ((3, 1, 4, 2), 3),
    ((1, 4, 1, 1), 1),
]  # of h, and units of q
ROUNDING = {"float32": 2**-24, "mixed_float16": 2**-11, "mixed_bfloat16": 2**-8}
numpy = ops.convert_to_numpy


@pytest.fixture
def tf():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("needs TensorFlow")
    import tensorflow

    tensorflow.config.experimental.enable_tensor_float_32_execution(False)
    return tensorflow


# ---- references in float64; `w` holds the weights of a layer by the ends of their paths ----


def film_reference(w, h, q, training=False):
    gamma, beta = (
        q @ w[f"{name}/kernel"] + w[f"{name}/bias"] for name in ("gamma", "beta")
    )
    return np.einsum("bc,bhwc->bhwc", gamma, h) + beta[:, None, None]


def same_convolution(h, kernel, bias):
    rim = kernel.shape[0] // 2
    padded = np.pad(h, ((0, 0), (rim, rim), (rim, rim), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, kernel.shape[:2], axis=(1, 2)
    )
    return np.einsum("bhwcij,ijcf->bhwf", windows, kernel) + bias


def resblock_reference(w, h, q, training=False):
    shortcut = np.maximum(same_convolution(h, w["conv1/kernel"], w["conv1/bias"]), 0)
    x = same_convolution(shortcut, w["conv2/kernel"], w["conv2/bias"])
    mean, variance = w["norm/moving_mean"], w["norm/moving_variance"]
    if training:
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return shortcut + np.maximum(
        film_reference(w, (x - mean) / np.sqrt(variance + 1e-3), q), 0
    )


def coordinates_reference(h):
    x, y = np.meshgrid(np.linspace(-1, 1, h.shape[2]), np.linspace(-1, 1, h.shape[1]))
    return np.concatenate(
        [h, np.broadcast_to(np.stack([x, y], -1), (*h.shape[:3], 2))], axis=-1
    )


LAYERS = [
    (FiLM, film_reference),
    (lambda **options: ResBlock(4, **options), resblock_reference),
]


def random_inputs(shape, units):
    rng = np.random.default_rng(0)
    return [
        rng.normal(size=size).astype("float32") for size in (shape, (shape[0], units))
    ]


def randomised(layer, *inputs):
    """The layer or model with random numbers for all weights, moving statistics included; and these."""
    if inputs:
        layer.build(*(each.shape for each in inputs))
    rng, weights = np.random.default_rng(1), {}
    for weight in layer.weights:
        low = 0.5 if "variance" in weight.path else -1
        weight.assign(rng.uniform(low, 1.5, weight.shape))
        weights["/".join(weight.path.split("/")[-2:])] = numpy(weight).astype("float64")
    return layer, weights


@pytest.mark.parametrize("policy", ROUNDING)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("make, reference", LAYERS)
def test_outputs_are_those_of_the_reference(make, reference, training, policy):
    for shape, units in SHAPES:
        h, q = random_inputs(shape, units)
        layer, w = randomised(make(dtype=policy), h, q)
        outputs, expected = layer(h, q, training=training), reference(w, h, q, training)
        assert outputs.shape == layer.compute_output_shape(h.shape, q.shape)
        assert {weight.dtype for weight in layer.weights} == {"float32"}
        assert {part.compute_dtype for part in layer._flatten_layers()} == {
            policy.removeprefix("mixed_")
        }
        tolerance = 2e-5 if policy == "float32" else 0.02
        np.testing.assert_allclose(
            numpy(outputs).astype("float64"),
            expected,
            rtol=tolerance,
            atol=tolerance * max(1, np.abs(expected).max()),
        )
        np.testing.assert_array_equal(
            numpy(FiLM()(h, 0 * q)), h
        )  # a new layer has gamma 1 and beta 0


@pytest.mark.parametrize("policy", ROUNDING)
def test_coordinates_are_x_along_the_width_then_y_along_the_height(policy):
    layer = AddSpatialCoordinates(dtype=policy)
    for shape in [shape for shape, _ in SHAPES] + [(1, 7, 300, 2)]:
        h = np.round(random_inputs(shape, 1)[0])  # bfloat16 cannot count to 300
        outputs = layer(h)
        assert (
            outputs.shape == layer.compute_output_shape(h.shape) and not layer.weights
        )
        assert keras.backend.standardize_dtype(outputs.dtype) == policy.removeprefix(
            "mixed_"
        )
        error = numpy(outputs).astype("float64") - coordinates_reference(h)
        assert (
            np.abs(error).max()
            <= (2 if policy == "float32" else 0.51) * ROUNDING[policy]
        )


def test_layers_do_the_same_on_jax():
    """The tests without the fixture `tf`, in a process that does not load TensorFlow."""
    script = (
        "import sys, keras, pytest; assert keras.backend.backend() == 'jax'; "
        "status = pytest.main(sys.argv[1:]); assert 'tensorflow' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, __file__, "-k", "not the_same_on_jax"],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_saved_model_takes_all_sizes(tmp_path, tf):
    h, q, policy = keras.Input((None, None, 3)), keras.Input((4,)), "mixed_bfloat16"
    x = ResBlock(5, dtype=policy)(AddSpatialCoordinates(dtype=policy)(h), q)
    model = keras.Model([h, q], FiLM(dtype=policy)(x, q))
    w_block, w = (randomised(layer)[1] for layer in model.layers[-2:])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert [layer.get_config() for layer in again.layers] == [
        layer.get_config() for layer in model.layers
    ]
    assert again.output.shape == (None, None, None, 5)
    signature = [tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([None, 4])]
    call = tf.function(again, input_signature=[signature])
    for shape, _ in SHAPES:
        h, q = random_inputs((*shape[:3], 3), 4)
        np.testing.assert_array_equal(numpy(again([h, q])), numpy(model([h, q])))
        expected = film_reference(
            w, resblock_reference(w_block, coordinates_reference(h), q), q
        )
        np.testing.assert_allclose(
            tf.cast(call([h, q]), "float32"),
            expected,
            rtol=0,
            atol=0.02 * np.abs(expected).max(),
        )
    norm = BatchNormalization.from_config(
        BatchNormalization(momentum=0.7, scale=False).get_config()
    )
    assert (norm.momentum, norm.scale, BatchNormalization().momentum) == (
        0.7,
        False,
        0.9,
    )


def test_wrong_inputs_are_refused():
    h, q = random_inputs((4, 5, 6, 3), 3)
    for make in (FiLM, ResBlock):
        built = make()
        built(h, q)
        for layer, *inputs in (
            (make(), q, h),
            (make(), q, q),
            (built, h[..., :1], q),
            (built, h, q[:, :2]),
        ):
            with pytest.raises(ValueError):
                layer(*inputs)
        for inputs in (h, [h, q]):
            with pytest.raises(TypeError, match="'q'"):
                make()(inputs)
    with pytest.raises(ValueError):
        AddSpatialCoordinates()(q)


def after_step(tf, make, shape, training, mask=None, **options):
    """Outputs, gradients of inputs and weights, and the moving statistics, which the step changes."""
    layer, _ = randomised(make(momentum=0.9, **options), np.empty(shape))
    weights = [weight.value for weight in layer.weights[: layer.scale + layer.center]]
    rng = np.random.default_rng(0)
    inputs, direction = (
        tf.constant(rng.normal(mean, 2, shape), layer.compute_dtype) for mean in (3, 0)
    )
    with tf.GradientTape() as tape:
        tape.watch([inputs, *weights])
        outputs = layer(inputs, training=training, mask=mask)
        loss = tf.reduce_sum(tf.cast(outputs * direction, "float32"))
    assert outputs.dtype == layer.compute_dtype
    found = [
        outputs,
        *tape.gradient(loss, [inputs, *weights]),
        layer.moving_mean,
        layer.moving_variance,
    ]
    return [np.asarray(tf.cast(x, "float32")) for x in found]


FUSED = [
    {},
    {"scale": False},
    {"center": False, "scale": False},
    {"trainable": False},
    {"dtype": "mixed_float16"},
    {"dtype": "mixed_bfloat16"},
]
OTHER = [
    ((1, 1, 1, 2), {}),
    ((6, 4), {}),
    ((3, 4, 5, 2), {"axis": 1}),
    ((2, 3, 3, 4), {"mask": np.eye(3, dtype=bool)[[[0, 1, 2]] * 2]}),
]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "shape, options", [*(((4, 5, 3, 6), options) for options in FUSED), *OTHER]
)
def test_normalisation_equals_keras(shape, options, training, tf):
    ours, theirs = (
        after_step(tf, make, shape, training, **options)
        for make in (BatchNormalization, keras.layers.BatchNormalization)
    )
    tolerance = max(2e-5, 4 * ROUNDING[options.get("dtype", "float32")])
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(
            one, other, rtol=0, atol=tolerance * max(1, np.abs(other).max())
        )


def test_gradients_reach_every_weight_of_the_notebooks_model(tf, keep_policy):
    from cells import run_cells

    model = run_cells("imports", "model", vocab_size=82, num_answers=28)["build_film"]()
    inputs = {
        "question": np.arange(24).reshape(4, 6) + 1,
        "image": np.random.rand(4, 224, 224, 3),
    }
    with tf.GradientTape() as tape:
        answers = model(inputs)
        loss = tf.reduce_mean(
            keras.losses.sparse_categorical_crossentropy(np.arange(4), answers)
        )
    np.testing.assert_allclose(np.sum(answers, axis=1), 1, rtol=1e-5)
    gradients = tape.gradient(
        loss, [weight.value for weight in model.trainable_weights]
    )
    assert all(np.any(tf.convert_to_tensor(gradient)) for gradient in gradients)
