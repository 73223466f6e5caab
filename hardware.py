"""The fastest correct settings for the machine at hand; `make bench` measures what each is worth."""

import os
import platform
from pathlib import Path

import keras
import tensorflow as tf


def use_fastest_settings():
    """Sets Keras up for this machine; call it before any layer is made.

    - Batch normalisation: TensorFlow's fused op replaces Keras 3's several passes over memory.
    - Precision: bfloat16 products with float32 weights and sums where the CPU multiplies bfloat16 in
      hardware; float32 elsewhere.
    """
    keras.layers.BatchNormalization.call = fused_batch_normalization
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    bfloat16 = not on_gpu and {"avx512_bf16", "amx_bf16"} & set(cpu_facts().get("flags", "").split())
    keras.config.set_dtype_policy("mixed_bfloat16" if bfloat16 else "float32")


def describe():
    """The device that trains and its precision, as one line for people."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        device = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "one GPU")
    else:
        facts = cpu_facts()
        name = facts.get("model name", platform.processor() or platform.machine())
        device = f"{name} CPU, {os.cpu_count()} cores, no GPU"
    return f"{device}, {keras.config.dtype_policy().name}"


def cpu_facts():
    """What Linux says of the first core, by name; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().split("\n\n")[0].splitlines() if path.exists() else []
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def fused_batch_normalization(self, inputs, training=None, mask=None):
    """`BatchNormalization.call` for maps (batch, height, width, channels), in one op each way.

    Equal to Keras's own up to rounding. Raises ValueError for a mask or another axis, which no model
    here has.
    """
    if mask is not None or len(inputs.shape) != 4 or self.axis not in (-1, 3):
        raise ValueError(f"Fused batch normalisation takes unmasked NHWC maps. Received: {inputs.shape}")
    channels = inputs.shape[-1]
    scale = self.gamma if self.scale else tf.ones([channels])
    offset = self.beta if self.center else tf.zeros([channels])
    learning = bool(training) and self.trainable
    statistics = {} if learning else {"mean": self.moving_mean, "variance": self.moving_variance}
    outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
        inputs, scale, offset, **statistics, epsilon=self.epsilon, is_training=learning)
    if learning:
        # The op divides by n - 1 for the moving variance, Keras by n.
        count = tf.cast(tf.size(inputs) // channels, variance.dtype)
        variance *= (count - 1) / count
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + now * (1 - self.momentum))
    return outputs
