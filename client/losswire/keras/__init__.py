"""Keras' crossentropies, computed by a losswire server, for Keras on TensorFlow.

Functions and classes take the arguments of their namesakes in `keras.losses`, and a keyword
`client`; None is `losswire.default_client()`. Models are to be compiled with `jit_compile=False`:
XLA has no way out to a server.

    _losses    the functions
    _classes   the same as loss classes, whose reductions are Keras' own
"""

from losswire.keras._classes import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
)
from losswire.keras._losses import (
    binary_crossentropy,
    categorical_crossentropy,
    sparse_categorical_crossentropy,
)

__all__ = [
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "SparseCategoricalCrossentropy",
    "binary_crossentropy",
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
]
