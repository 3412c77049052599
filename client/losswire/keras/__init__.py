"""Keras' crossentropies, computed by a losswire server, for Keras on TensorFlow, JAX and PyTorch.

Functions and classes take the arguments of their namesakes in `keras.losses`, and a keyword
`client`; None is `losswire.default_client()`. Models on TensorFlow are to be compiled with
`jit_compile=False`: its XLA has no way out to a server, as JAX's has.

    _losses    the functions
    _classes   the same as loss classes, whose reductions are Keras' own
    _backend   which framework computes, and its adapter behind one signature
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
