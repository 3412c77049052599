"""TensorFlow's cross-entropies, computed by a losswire server.

Functions take the arguments of their namesakes in `tf.nn`, and a keyword `client`; None is
`losswire.default_client()`. `losswire.tensorflow.v1` has those of `tf.compat.v1.nn`. They work
eagerly and in `tf.function`, but for XLA (`jit_compile=True`), which has no way out to a server.

    _losses   the functions: arguments as TensorFlow reads them
    v1        the same as in version 1
    _calls    a call as a function that TensorFlow can differentiate and trace
"""

from losswire.tensorflow import v1
from losswire.tensorflow._losses import (
    sigmoid_cross_entropy_with_logits,
    softmax_cross_entropy_with_logits,
    sparse_softmax_cross_entropy_with_logits,
    weighted_cross_entropy_with_logits,
)

__all__ = [
    "sigmoid_cross_entropy_with_logits",
    "softmax_cross_entropy_with_logits",
    "sparse_softmax_cross_entropy_with_logits",
    "v1",
    "weighted_cross_entropy_with_logits",
]
