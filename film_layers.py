"""The layers of Question 2, written with Keras 3's backend-neutral operations.

The notation is the brief's: h is the output of a convolutional layer, q the
conditioning signal. Sections and equations are those of Perez et al., "FiLM: Visual
Reasoning with a General Conditioning Layer", AAAI 2018.
"""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable(package="film")
class FiLM(layers.Layer):
    """Scales each channel of h by gamma and shifts it by beta (equations 1 and 2).

    Both are affine functions of q. The biases of gamma start at 1: if gamma started
    near 0 it would suppress h and its gradients (appendix 7.2).

    Call arguments:
        h: float tensor, the output of a convolutional layer.
        q: float tensor, the conditioning signal.

    Input shape: `h` (batch, height, width, channels), `q` (batch, units).
    Output shape: that of `h`.

    Raises:
        ValueError: if h is not of rank 4, q is not of rank 2, or the number of
            channels changes after `build`.
    """

    def build(self, h_shape, q_shape):
        if len(q_shape) != 2:
            raise ValueError(f"q must have shape (batch, units). Received: {q_shape}")
        channels = h_shape[-1]
        # Otherwise an h of one channel would be broadcast to all channels.
        self.input_spec = keras.InputSpec(ndim=4, axes={-1: channels})
        self.gamma_dense = layers.Dense(
            channels, bias_initializer="ones", name="gamma", dtype=self.dtype_policy
        )
        self.beta_dense = layers.Dense(channels, name="beta", dtype=self.dtype_policy)
        self.gamma_dense.build(q_shape)
        self.beta_dense.build(q_shape)

    def call(self, h, q):  # (B, H, W, C), (B, D)
        gamma = self.gamma_dense(q)[:, None, None, :]  # (B, 1, 1, C)
        beta = self.beta_dense(q)[:, None, None, :]  # (B, 1, 1, C)
        return gamma * h + beta  # (B, H, W, C)

    def compute_output_shape(self, h_shape, q_shape):
        return h_shape


@keras.saving.register_keras_serializable(package="film")
class FusedBatchNormalization(layers.BatchNormalization):
    """Keras's batch normalisation of feature maps, computed by one TensorFlow op.

    Keras computes it by several ops, each of which passes over memory. The results
    agree up to rounding. Keras's own code is used on other backends, and for the
    options `renorm` and `synchronized`.

    Input shape: (batch, height, width, channels).
    Output shape: that of the input.

    Raises:
        ValueError: if the input is not of rank 4.
    """

    def build(self, input_shape):
        if len(input_shape) != 4 or self.axis not in (-1, 3):
            raise ValueError(
                "The input must have shape (batch, height, width, channels). "
                f"Received: {input_shape}, axis {self.axis}"
            )
        super().build(input_shape)

    def call(self, inputs, training=None):  # (B, H, W, C)
        is_tensorflow = keras.backend.backend() == "tensorflow"
        if not is_tensorflow or self.renorm or self.synchronized:
            return super().call(inputs, training=training)
        import tensorflow as tf

        channels = inputs.shape[-1]
        is_training = bool(training) and self.trainable
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma if self.scale else tf.ones([channels]),
            offset=self.beta if self.center else tf.zeros([channels]),
            mean=[] if is_training else self.moving_mean,
            variance=[] if is_training else self.moving_variance,
            epsilon=self.epsilon,
            is_training=is_training,
        )
        if is_training:
            # The op divides the sum of squares by n - 1, Keras by n.
            n = tf.cast(tf.size(inputs) // channels, variance.dtype)
            self.update_moving(self.moving_mean, mean)
            self.update_moving(self.moving_variance, variance * (n - 1) / n)
        return outputs

    def update_moving(self, moving, batch):
        moving.assign(self.momentum * moving + (1 - self.momentum) * batch)


@keras.saving.register_keras_serializable(package="film")
class ResBlock(layers.Layer):
    """A residual block whose second convolution is modulated by q (section 2.2).

    Args:
        filters: int, the number of channels of both convolutions.

    Call arguments:
        h: float tensor, the output of a convolutional layer.
        q: float tensor, the conditioning signal.

    Input shape: `h` (batch, height, width, channels), `q` (batch, units).
    Output shape: (batch, height, width, filters).
    """

    def __init__(self, filters=128, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        dtype = self.dtype_policy
        self.conv1 = layers.Conv2D(
            filters, 1, padding="same", activation="relu", name="conv1", dtype=dtype
        )
        self.conv2 = layers.Conv2D(
            filters, 3, padding="same", name="conv2", dtype=dtype
        )
        self.norm = FusedBatchNormalization(
            momentum=0.9, center=False, scale=False, name="norm", dtype=dtype
        )
        self.film = FiLM(name="film", dtype=dtype)

    def build(self, h_shape, q_shape):
        features_shape = (*h_shape[:-1], self.filters)
        self.conv1.build(h_shape)
        self.conv2.build(features_shape)
        self.norm.build(features_shape)
        self.film.build(features_shape, q_shape)

    def call(self, h, q, training=None):  # (B, H, W, C), (B, D)
        shortcut = self.conv1(h)  # (B, H, W, filters)
        residual = self.conv2(shortcut)
        residual = self.norm(residual, training=training)
        residual = ops.relu(self.film(residual, q))
        return shortcut + residual  # (B, H, W, filters)

    def compute_output_shape(self, h_shape, q_shape):
        return (*h_shape[:-1], self.filters)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


@keras.saving.register_keras_serializable(package="film")
class AddSpatialCoordinates(layers.Layer):
    """Concatenates two channels, x and y, each from -1 to 1 (section 2.2).

    x grows along the width from left to right, y along the height from top to bottom.
    An axis of length 1 gets the coordinate -1. The layer has no weights.

    Input shape: (batch, height, width, channels), any of them unknown.
    Output shape: (batch, height, width, channels + 2).

    Raises:
        ValueError: if the input is not of rank 4.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.InputSpec(ndim=4)

    def call(self, h):  # (B, H, W, C)
        batch, height, width, _ = ops.shape(h)
        x = self.coordinates(width, h.dtype)[None, None, :, None]  # (1, 1, W, 1)
        y = self.coordinates(height, h.dtype)[None, :, None, None]  # (1, H, 1, 1)
        x = ops.broadcast_to(x, (batch, height, width, 1))
        y = ops.broadcast_to(y, (batch, height, width, 1))
        return ops.concatenate([h, x, y], axis=-1)  # (B, H, W, C + 2)

    @staticmethod
    def coordinates(length, dtype):
        """`length` evenly spaced numbers from -1 to 1.

        They are computed in float32, since bfloat16 cannot count beyond 256.
        """
        steps = ops.cast(ops.arange(length), "float32")
        last = ops.cast(ops.maximum(length - 1, 1), "float32")
        return ops.cast(2.0 * steps / last - 1.0, dtype)

    def compute_output_shape(self, h_shape):
        *rest, channels = h_shape
        return (*rest, None if channels is None else channels + 2)
