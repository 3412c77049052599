"""A small multi-layer classifier in NumPy, with its own back-propagation.

In: images `[batch, 64]`. Out: logits `[batch, 10]`; and, for a gradient with respect to those,
the gradients of all parameters. Where the loss comes from is none of its business.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator

Floats: TypeAlias = npt.NDArray[np.float32]

LAYERS: Final = (64, 96, 48, 10)
"""Pixels, two hidden layers, classes."""


class Classifier:
    """Dense layers with tanh between them; all parameters lie in one vector.

    tanh, because ReLU has a kink: two runs that differ by a rounding can end up on its two sides,
    and the demo compares runs.

    Attributes:
        parameters: weights and biases of all layers, `[parameters]`; replaced as a whole.
    """

    def __init__(self, parameters: Floats) -> None:
        self.parameters = parameters
        self._inputs: list[Floats] = []

    def logits(self, images: Floats) -> Floats:
        """Logits `[batch, 10]` of images `[batch, 64]`; remembers what `gradient` needs."""
        self._inputs = []
        activation = images
        for index, (weight, bias) in enumerate(_layers(self.parameters)):
            if index:
                activation = np.tanh(activation)
            self._inputs.append(activation)
            activation = activation @ weight + bias
        return activation

    def gradient(self, grad_logits: Floats) -> Floats:
        """The gradient of the parameters for one of the last logits, `[parameters]`."""
        gradient = np.empty_like(self.parameters)
        layers = list(zip(self._inputs, _layers(self.parameters), _layers(gradient), strict=True))
        grad = grad_logits
        for index in range(len(layers) - 1, -1, -1):
            inputs, (weight, _), (grad_weight, grad_bias) = layers[index]
            np.matmul(inputs.T, grad, out=grad_weight)
            np.sum(grad, axis=0, out=grad_bias)
            if index:
                grad = (grad @ weight.T) * (1 - inputs * inputs)  # tanh' = 1 - tanh^2
        return gradient


def initial_parameters(seed: int) -> Floats:
    """Glorot-initialised weights and zero biases, `[parameters]`."""
    random = np.random.default_rng(seed)
    size = sum(fan_in * fan_out + fan_out for fan_in, fan_out in pairwise(LAYERS))
    parameters = np.zeros(size, np.float32)
    for weight, _ in _layers(parameters):
        weight[:] = random.normal(0.0, np.sqrt(2.0 / sum(weight.shape)), weight.shape)
    return parameters


def _layers(parameters: Floats) -> Iterator[tuple[Floats, Floats]]:
    """Weight `[in, out]` and bias `[out]` of each layer, as views."""
    start = 0
    for fan_in, fan_out in pairwise(LAYERS):
        end = start + fan_in * fan_out
        yield parameters[start:end].reshape(fan_in, fan_out), parameters[end : end + fan_out]
        start = end + fan_out
