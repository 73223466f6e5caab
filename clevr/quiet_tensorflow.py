"""TensorFlow (`tf`), imported without its two notices about CUDA on stderr."""

import os

# No setting turns them off: they come from C++ before its logging is set up.
stderr = os.dup(2)
devnull = os.open(os.devnull, os.O_WRONLY)
os.dup2(devnull, 2)
try:
    import tensorflow as tf  # noqa: F401
finally:
    os.dup2(stderr, 2)
    os.close(stderr)
    os.close(devnull)
