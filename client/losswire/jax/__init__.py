"""optax's cross-entropies and divergences, computed by a losswire server.

Functions take the arguments of their namesakes in optax, and a keyword `client`; None is
`losswire.default_client()`. They work under `jit`, `vmap`, `grad` and `jvp`, on any device: the
arrays travel over the CPU.

    _losses        the cross-entropies: arguments as optax reads them
    _divergences   the divergences of log-probabilities
    _arguments     arguments made ready for a call
    _calls         a call as a function that JAX can differentiate, batch and compile
"""

from losswire.jax._divergences import (
    convex_kl_divergence,
    generalized_kl_divergence,
    kl_divergence,
    kl_divergence_with_log_targets,
)
from losswire.jax._losses import (
    safe_softmax_cross_entropy,
    sigmoid_binary_cross_entropy,
    sigmoid_focal_loss,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)

__all__ = [
    "convex_kl_divergence",
    "generalized_kl_divergence",
    "kl_divergence",
    "kl_divergence_with_log_targets",
    "safe_softmax_cross_entropy",
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
]
