"""Losses and gradients with whichever framework Keras computes, as NumPy arrays."""

import keras
import numpy as np


def value_and_gradient(function, array):
    """What a function returns beside a total, and the gradient of the total to its argument."""
    return tuple(map(_to_numpy, RUNS[keras.config.backend()](function, array)))


def compiled(function, array):
    """The same in a graph: `tf.function`, `jax.jit` or `torch.compile`."""
    return tuple(map(_to_numpy, COMPILED[keras.config.backend()](function, array)))


def _by_tensorflow(function, array):
    import tensorflow as tf  # noqa: PLC0415 -- only where Keras uses it

    tensor = tf.constant(array)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        total, value = function(tensor)
    return value, tape.gradient(total, tensor)


def _in_tf_function(function, array):
    import tensorflow as tf  # noqa: PLC0415 -- only where Keras uses it

    return tf.function(lambda: _by_tensorflow(function, array))()


def _by_jax(function, array):
    import jax  # noqa: PLC0415 -- only where Keras uses it

    (_, value), gradient = jax.value_and_grad(function, has_aux=True)(jax.numpy.asarray(array))
    return value, gradient


def _in_jit(function, array):
    import jax  # noqa: PLC0415 -- only where Keras uses it

    return jax.jit(lambda array: _by_jax(function, array))(array)


def _by_torch(function, array):
    import torch  # noqa: PLC0415 -- only where Keras uses it

    tensor = torch.tensor(array, requires_grad=True)
    total, value = function(tensor)
    total.backward()
    return value, tensor.grad


def _in_torch_compile(function, array):
    import torch  # noqa: PLC0415 -- only where Keras uses it

    torch.compiler.reset()
    return _by_torch(torch.compile(function, backend="aot_eager"), array)


def _to_numpy(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor))


RUNS = {"tensorflow": _by_tensorflow, "jax": _by_jax, "torch": _by_torch}
COMPILED = {"tensorflow": _in_tf_function, "jax": _in_jit, "torch": _in_torch_compile}
