"""The settings for the machine: the fused batch normalisation is Keras's own, only faster."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.layers import BatchNormalization

import hardware

KERAS_CALL = BatchNormalization.call
FORMS = [{}, {"center": False}, {"scale": False}, {"center": False, "scale": False}]
SHAPES = [(4, 5, 3, 6), (1, 2, 7, 1), (3, 2, 1, 3)]
pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # of Keras's own calls of NumPy


@pytest.fixture(autouse=True)
def restore_keras():
    """What `use_fastest_settings` changes, as it was."""
    policy = keras.config.dtype_policy()
    yield
    BatchNormalization.call = KERAS_CALL
    keras.config.set_dtype_policy(policy)


def random_layer(channels, **arguments):
    """A layer with random weights and statistics, the same at each call."""
    rng = np.random.default_rng(channels)
    layer = BatchNormalization(momentum=0.9, **arguments)
    layer.build((None, None, None, channels))
    for weight in layer.weights:
        weight.assign(rng.uniform(0.5, 2, weight.shape))
    return layer


def after_steps(layer, shape, training, steps=3):
    """Outputs and gradients of the input and of the weights at each step, then the statistics."""
    rng, found = np.random.default_rng(0), []
    for _ in range(steps):
        inputs = tf.constant(rng.normal(3, 2, shape), layer.compute_dtype)
        towards = tf.constant(rng.normal(size=shape), layer.compute_dtype)
        weights = [weight.value for weight in layer.weights[:layer.scale + layer.center]]
        with tf.GradientTape() as tape:
            tape.watch([inputs, *weights])
            outputs = layer(inputs, training=training)
            loss = tf.reduce_sum(tf.cast(outputs * towards, "float32"))
        assert outputs.dtype == layer.compute_dtype
        found += [outputs, *tape.gradient(loss, [inputs, *weights])]
    return [np.asarray(tf.cast(value, "float32"))
            for value in (*found, layer.moving_mean.value, layer.moving_variance.value)]


def fused_and_own(shape, training, **arguments):
    own = after_steps(random_layer(shape[-1], **arguments), shape, training)
    BatchNormalization.call = hardware.fused_batch_normalization
    return zip(after_steps(random_layer(shape[-1], **arguments), shape, training), own, strict=True)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_fused_normalisation_equals_keras(shape, form, training):
    for fused, own in fused_and_own(shape, training, **form):
        np.testing.assert_allclose(fused, own, rtol=2e-5, atol=2e-5 * np.abs(own).max())


@pytest.mark.parametrize("policy, rounding", [("mixed_bfloat16", 2**-8), ("mixed_float16", 2**-11)])
@pytest.mark.parametrize("training", [False, True])
def test_fused_normalisation_in_half_precision(training, policy, rounding):
    for fused, own in fused_and_own((4, 5, 3, 6), training, dtype=policy):
        np.testing.assert_allclose(fused, own, atol=4 * rounding * np.abs(own).max())


def test_a_frozen_layer_keeps_its_statistics_in_training():
    for fused, own in fused_and_own((4, 5, 3, 6), True, trainable=False):
        np.testing.assert_allclose(fused, own, rtol=1e-4, atol=1e-5)
    layer = random_layer(6, trainable=False)
    before = layer.get_weights()
    after_steps(layer, (4, 5, 3, 6), True)
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_fused_normalisation_refuses_what_it_cannot_do():
    BatchNormalization.call = hardware.fused_batch_normalization
    maps = np.ones((2, 3, 3, 4), "float32")
    for arguments, inputs, mask in [({}, maps, np.ones((2, 3, 3), bool)), ({"axis": 1}, maps, None),
                                    ({}, maps[0], None)]:
        with pytest.raises(ValueError, match="Received"):
            BatchNormalization(**arguments)(inputs, mask=mask, training=True)


def test_model_trained_with_fused_normalisation_needs_no_hardware_module(tmp_path):
    hardware.use_fastest_settings()
    keras.config.set_dtype_policy("float32")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 6, 5, 3)).astype("float32"), rng.normal(size=(16, 1))
    model = keras.Sequential([keras.Input((6, 5, 3)), keras.layers.Conv2D(4, 3), BatchNormalization(),
                              keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("adam", "mse", jit_compile=False)
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", x)
    script = ("import sys, numpy, keras; model = keras.models.load_model('model.keras'); "
              "numpy.save('y.npy', model(numpy.load('x.npy'))); assert 'hardware' not in sys.modules")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True)
    loaded = np.load(tmp_path / "y.npy")
    np.testing.assert_allclose(loaded, model.predict(x, verbose=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gpus, flags, policy", [
    ([], "fpu avx2 avx512f avx512_bf16", "mixed_bfloat16"),
    ([], "fpu amx_tile amx_bf16", "mixed_bfloat16"),
    ([], "fpu avx2 avx512f avx512_bf16x", "float32"),
    ([], None, "float32"),
    (["/GPU:0"], "fpu avx512_bf16", "float32"),
])
def test_settings_follow_the_machine(monkeypatch, gpus, flags, policy):
    monkeypatch.setattr(hardware, "cpu_facts", lambda: {} if flags is None else {"flags": flags})
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    keras.config.set_dtype_policy("float32")
    hardware.use_fastest_settings()
    assert keras.config.dtype_policy().name == policy
    assert BatchNormalization.call is hardware.fused_batch_normalization


def test_facts_are_those_of_the_first_core(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A: CPU\nflags\t\t: fpu vme\n\n"
                                      "processor\t: 1\nmodel name\t: Another\nflags\t\t: fpu\n\n")
    monkeypatch.setattr(hardware, "Path", lambda _: tmp_path / "cpuinfo")
    assert hardware.cpu_facts() == {"processor": "0", "model name": "A: CPU", "flags": "fpu vme"}
    monkeypatch.setattr(hardware, "Path", lambda _: tmp_path / "elsewhere")
    assert hardware.cpu_facts() == {}


def test_description_is_one_line_with_the_precision(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(hardware, "cpu_facts", lambda: {"model name": "Some Core"})
    keras.config.set_dtype_policy("mixed_bfloat16")
    described = hardware.describe()
    assert described.startswith("Some Core CPU, ") and described.endswith(", mixed_bfloat16")
    assert "\n" not in described
