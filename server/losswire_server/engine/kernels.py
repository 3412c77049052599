"""The NumPy kernel of each loss, by the loss's name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from losswire_server.engine import cross_entropy, divergence, probabilities, sigmoid, softmax

if TYPE_CHECKING:
    from collections.abc import Mapping

    from losswire_server.engine.operands import Kernel

KERNELS: Final[Mapping[str, Kernel]] = {
    "softmax_cross_entropy": cross_entropy.softmax_cross_entropy,
    "sequence_loss": cross_entropy.softmax_cross_entropy,
    "sigmoid_cross_entropy": sigmoid.sigmoid_cross_entropy,
    "categorical_cross_entropy": probabilities.categorical_cross_entropy,
    "binary_cross_entropy": probabilities.binary_cross_entropy,
    "kl_divergence": divergence.kl_divergence,
    "focal": divergence.focal,
    "softmax": softmax.softmax,
    "log_softmax": softmax.log_softmax,
}
