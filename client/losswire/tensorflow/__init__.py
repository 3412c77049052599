"""TensorFlow's cross-entropies and softmax, computed by a losswire server.

Functions take the arguments of their namesakes in `tf.nn`, and a keyword `client`; None is
`losswire.default_client()`. `losswire.tensorflow.v1` has those of `tf.compat.v1.nn`. They work
eagerly and in `tf.function`, but for XLA (`jit_compile=True`), which has no way out to a server.

`one_hot` is `tf.one_hot` itself: there is nothing in it for a server.

    _losses       the cross-entropies: arguments as TensorFlow reads them
    _sequences    the loss of sequences
    _transforms   softmax and its logarithm
    v1            the same as in version 1
    _calls        a call as a function that TensorFlow can differentiate and trace
"""

from tensorflow import one_hot

from losswire.tensorflow import v1
from losswire.tensorflow._losses import (
    sigmoid_cross_entropy_with_logits,
    softmax_cross_entropy_with_logits,
    sparse_softmax_cross_entropy_with_logits,
    weighted_cross_entropy_with_logits,
)
from losswire.tensorflow._sequences import sequence_loss
from losswire.tensorflow._transforms import log_softmax, softmax

__all__ = [
    "log_softmax",
    "one_hot",
    "sequence_loss",
    "sigmoid_cross_entropy_with_logits",
    "softmax",
    "softmax_cross_entropy_with_logits",
    "sparse_softmax_cross_entropy_with_logits",
    "v1",
    "weighted_cross_entropy_with_logits",
]
