"""The three layers that Question 2 asks for, on Keras 3's backend-neutral API.

`FiLM` and `ResBlock` take two inputs, always in the order of the brief's symbols: the feature maps h
and the conditioning signal q. References are to Perez et al., "FiLM: Visual Reasoning with a General
Conditioning Layer", AAAI 2018 (appendices: arXiv:1709.07871).
"""

import keras
from keras import layers, ops


def _split_shapes(layer, input_shape):
    """The shapes of h and q, or a ValueError that says what came instead."""
    sequence = (list, tuple)
    nested = isinstance(input_shape, sequence) and all(isinstance(s, sequence) for s in input_shape)
    if not nested or [len(shape) for shape in input_shape] != [4, 2]:
        raise ValueError(
            f"{type(layer).__name__} takes [h, q] of shapes (batch, height, width, channels) and "
            f"(batch, units). Received: {input_shape}"
        )
    return input_shape


@keras.saving.register_keras_serializable(package="film")
class FiLM(layers.Layer):
    """Scales and shifts every feature map by amounts that depend on q (section 2.1, equations 1-2).

    The biases of gamma start at 1: near 0, as those of beta, gamma would wipe out h and with it the
    gradients of all that made it (appendix 7.2, equation 3).

    Call arguments:
        inputs: `[h, q]`, float tensors; gamma and beta get one value for each channel of h.

    Input shape: `[(batch, height, width, channels), (batch, units)]`.
    Output shape: that of h.

    Raises:
        ValueError: when built on anything but a pair of such shapes, or called later on other
            numbers of channels or units.
    """

    def build(self, input_shape):
        h_shape, q_shape = _split_shapes(self, input_shape)
        channels, policy = h_shape[-1], {"dtype": self.dtype_policy}
        # Without it, an h of one map would be broadcast to all the channels.
        self.input_spec = [
            keras.InputSpec(ndim=4, axes={-1: channels}),
            keras.InputSpec(ndim=2, axes={-1: q_shape[-1]}),
        ]
        self.gamma = layers.Dense(channels, bias_initializer="ones", name="gamma", **policy)
        self.beta = layers.Dense(channels, name="beta", **policy)
        self.gamma.build(q_shape)
        self.beta.build(q_shape)

    def call(self, inputs):
        h, q = inputs  # (B, H, W, C), (B, D)
        gamma = self.gamma(q)[:, None, None, :]  # (B, 1, 1, C): one value for the whole map
        beta = self.beta(q)[:, None, None, :]
        return gamma * h + beta

    def compute_output_shape(self, input_shape):
        return tuple(_split_shapes(self, input_shape)[0])


@keras.saving.register_keras_serializable(package="film")
class ResBlock(layers.Layer):
    """A residual block whose second convolution is modulated by q (section 2.2, figure 3).

    The 1x1 convolution brings h to `filters` maps and is also where the shortcut starts.

    Args:
        filters: int, feature maps of both convolutions.
        momentum: float, of the moving averages of batch normalisation.

    Input shape: `[(batch, height, width, channels), (batch, units)]`.
    Output shape: `(batch, height, width, filters)`.

    Raises:
        ValueError: when built on anything but a pair of such shapes.
    """

    def __init__(self, filters=128, momentum=0.99, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.momentum = momentum
        policy = {"dtype": self.dtype_policy}
        self.conv1 = layers.Conv2D(
            filters, 1, padding="same", activation="relu", name="conv1", **policy
        )
        self.conv2 = layers.Conv2D(filters, 3, padding="same", name="conv2", **policy)
        # FiLM supplies the scale and the shift, so the normalisation has none of its own.
        self.norm = layers.BatchNormalization(
            momentum=momentum, center=False, scale=False, name="norm", **policy
        )
        self.film = FiLM(name="film", **policy)

    def build(self, input_shape):
        h_shape, q_shape = _split_shapes(self, input_shape)
        maps = (*h_shape[:-1], self.filters)
        self.conv1.build(h_shape)
        self.conv2.build(maps)
        self.norm.build(maps)
        self.film.build([maps, q_shape])

    def call(self, inputs, training=None):
        h, q = inputs  # (B, H, W, C), (B, D)
        shortcut = self.conv1(h)  # (B, H, W, filters)
        h = self.norm(self.conv2(shortcut), training=training)
        return shortcut + ops.relu(self.film([h, q]))

    def compute_output_shape(self, input_shape):
        h_shape, _ = _split_shapes(self, input_shape)
        return (*h_shape[:-1], self.filters)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "momentum": self.momentum}


@keras.saving.register_keras_serializable(package="film")
class AddSpatialCoordinates(layers.Layer):
    """Appends two maps that tell each position its place: x, then y, both from -1 to 1 (section 2.2).

    x runs along the width from left (-1) to right (1), y along the height from top to bottom. The
    layer has no weights. An axis of length one gets the coordinate -1.

    Input shape: `(batch, height, width, channels)`, any of them unknown.
    Output shape: `(batch, height, width, channels + 2)`.

    Raises:
        ValueError: when called on anything but a rank-4 tensor.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.InputSpec(ndim=4)  # checked for symbolic inputs, too

    def call(self, h):
        batch, height, width, _ = ops.shape(h)
        x = ops.broadcast_to(_axis(width, h.dtype)[None, None, :, None], (batch, height, width, 1))
        y = ops.broadcast_to(_axis(height, h.dtype)[None, :, None, None], (batch, height, width, 1))
        return ops.concatenate([h, x, y], axis=-1)

    def compute_output_shape(self, input_shape):
        *positions, channels = input_shape
        return (*positions, None if channels is None else channels + 2)


def _axis(length, dtype):
    """`length` evenly spaced numbers from -1 to 1, computed in float32 for the sake of float16."""
    steps = ops.cast(ops.arange(length), "float32")
    last = ops.cast(ops.maximum(length - 1, 1), "float32")
    return ops.cast(2.0 * steps / last - 1.0, dtype)
