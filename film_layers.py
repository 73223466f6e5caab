"""The layers of Question 2 on Keras 3's backend-neutral API.

The notation is the brief's: h is the output of a convolutional layer, q the conditioning signal.
References are to Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI 2018.
"""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable(package="film")
class BatchNormalization(layers.BatchNormalization):
    """Keras's layer with a momentum of 0.9 by default, computed in one op on TensorFlow.

    Keras computes it in several ops, each of which passes over memory. The results agree up to
    rounding. Other backends, ranks and axes, masks and synchronized statistics take Keras's
    own code.

    Input shape: any; the fused op takes `(batch, height, width, channels)`.
    Output shape: that of the input.
    """

    def __init__(self, momentum=0.9, **kwargs):
        super().__init__(momentum=momentum, **kwargs)

    def call(self, inputs, training=None, mask=None):
        is_tensorflow = (
            keras.backend.backend() == "tensorflow" and not self.synchronized
        )
        is_channels_last = len(inputs.shape) == 4 and self.axis in (-1, 3)
        if not is_tensorflow or not is_channels_last or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        channels = inputs.shape[-1]
        scale = self.gamma if self.scale else tf.ones([channels])
        offset = self.beta if self.center else tf.zeros([channels])
        is_training = bool(training) and self.trainable
        moving = (
            {}
            if is_training
            else {"mean": self.moving_mean, "variance": self.moving_variance}
        )
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            scale,
            offset,
            **moving,
            epsilon=self.epsilon,
            is_training=is_training,
        )
        if is_training:
            # The op's variance is divided by n - 1, Keras's by n.
            n = tf.cast(tf.size(inputs) // channels, variance.dtype)
            self.moving_mean.assign(
                self.momentum * self.moving_mean + (1 - self.momentum) * mean
            )
            self.moving_variance.assign(
                self.momentum * self.moving_variance
                + (1 - self.momentum) * variance * (n - 1) / n
            )
        return outputs


@keras.saving.register_keras_serializable(package="film")
class FiLM(layers.Layer):
    """Scales each channel of h by gamma, shifts it by beta, both affine in q (equations 1, 2).

    The biases of gamma start at 1: if gamma started near 0 it would suppress h and its gradients
    (appendix 7.2).

    Call arguments:
        h: float tensor, the output of a convolutional layer.
        q: float tensor, the conditioning signal.

    Input shape: `h` (batch, height, width, channels), `q` (batch, units).
    Output shape: that of `h`.

    Raises:
        ValueError: if h is not of rank 4, q not of rank 2, or h changes channels after `build`.
    """

    def build(self, h_shape, q_shape):
        if len(q_shape) != 2:
            raise ValueError(f"q must have shape (batch, units). Received: {q_shape}")
        # Without this check, an h of one channel would be broadcast to all channels.
        self.input_spec = keras.InputSpec(ndim=4, axes={-1: h_shape[-1]})
        channels, policy = h_shape[-1], self.dtype_policy
        self.gamma = layers.Dense(
            channels, bias_initializer="ones", name="gamma", dtype=policy
        )
        self.beta = layers.Dense(channels, name="beta", dtype=policy)
        self.gamma.build(q_shape)
        self.beta.build(q_shape)

    def call(self, h, q):  # (B, H, W, C), (B, D)
        gamma = self.gamma(q)[:, None, None, :]  # (B, 1, 1, C)
        beta = self.beta(q)[:, None, None, :]  # (B, 1, 1, C)
        return gamma * h + beta  # (B, H, W, C)

    def compute_output_shape(self, h_shape, q_shape):
        return h_shape


@keras.saving.register_keras_serializable(package="film")
class ResBlock(layers.Layer):
    """A residual block; q modulates its normalised second convolution (section 2.2, figure 3).

    Args:
        filters: int, channels of both convolutions.

    Input shape: `h` (batch, height, width, channels), `q` (batch, units).
    Output shape: (batch, height, width, filters).
    """

    def __init__(self, filters=128, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        policy = self.dtype_policy
        self.conv1 = layers.Conv2D(
            filters, 1, padding="same", activation="relu", name="conv1", dtype=policy
        )
        self.conv2 = layers.Conv2D(
            filters, 3, padding="same", name="conv2", dtype=policy
        )
        self.norm = BatchNormalization(
            center=False, scale=False, name="norm", dtype=policy
        )
        self.film = FiLM(name="film", dtype=policy)

    def build(self, h_shape, q_shape):
        features_shape = (*h_shape[:-1], self.filters)
        self.conv1.build(h_shape)
        self.conv2.build(features_shape)
        self.norm.build(features_shape)
        self.film.build(features_shape, q_shape)

    def call(self, h, q, training=None):  # (B, H, W, C), (B, D)
        shortcut = self.conv1(h)  # (B, H, W, filters)
        h = self.norm(self.conv2(shortcut), training=training)
        return shortcut + ops.relu(self.film(h, q))

    def compute_output_shape(self, h_shape, q_shape):
        return (*h_shape[:-1], self.filters)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


@keras.saving.register_keras_serializable(package="film")
class AddSpatialCoordinates(layers.Layer):
    """Concatenates two channels, x and y, each from -1 to 1 across the feature map (section 2.2).

    x grows along the width from left to right, y along the height from top to bottom. An axis of
    length 1 gets the coordinate -1. The layer has no weights.

    Input shape: (batch, height, width, channels), any of them unknown.
    Output shape: (batch, height, width, channels + 2).

    Raises:
        ValueError: if the input is not of rank 4.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.InputSpec(ndim=4)

    def call(self, h):
        batch, height, width, _ = ops.shape(h)
        x = self.coordinates(width, h.dtype)[None, None, :, None]
        y = self.coordinates(height, h.dtype)[None, :, None, None]
        shape = (batch, height, width, 1)
        return ops.concatenate(
            [h, ops.broadcast_to(x, shape), ops.broadcast_to(y, shape)], axis=-1
        )

    @staticmethod
    def coordinates(length, dtype):
        """`length` evenly spaced numbers from -1 to 1, from float32 steps: bfloat16 rounds them."""
        steps = ops.cast(ops.arange(length), "float32")
        last = ops.cast(ops.maximum(length - 1, 1), "float32")
        return ops.cast(2.0 * steps / last - 1.0, dtype)

    def compute_output_shape(self, h_shape):
        *rest, channels = h_shape
        return (*rest, None if channels is None else channels + 2)
