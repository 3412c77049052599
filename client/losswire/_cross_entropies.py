"""The cross-entropies, as methods of both clients.

Each method's keywords are the options of its definition in `losswire_proto.losses`, which checks
them, and the tensors that it takes besides.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from losswire._base import BaseClient
from losswire_proto import losses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from losswire._requests import Gradients
    from losswire_proto.options import (
        ClipOrder,
        EmptyMean,
        Extra,
        LabelGradient,
        NormalizerRule,
        OutOfRange,
        Reduction,
    )

LossT = TypeVar("LossT")


class CrossEntropyMethods(BaseClient, Generic[LossT]):
    """Cross-entropies on logits and on probabilities."""

    def softmax_cross_entropy(
        self,
        logits: Any,
        labels: Any,
        *,
        axis: int = -1,
        reduction: Reduction = "none",
        normalizer: NormalizerRule | float = "valid",
        sample_weight: Any = None,
        gradients: Gradients = True,
        overwrite_logits: bool = False,
        class_weight: Any = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        softcap: float | None = None,
        temperature: float = 1.0,
        label_gradient: LabelGradient = "exact",
        out_of_range: OutOfRange = "error",
        extras: Sequence[Extra] = (),
        empty_mean: EmptyMean = "nan",
        timeout: float | None = None,
    ) -> LossT:
        """Cross-entropy between labels and softmax of logits, with its gradients.

        z is softcap * tanh(logits / softcap), divided by the temperature. Along `axis`, with C
        classes, p = softmax(z), lse = log Σ exp(z), smoothing a, class weights w and z-loss k::

            class id y      l = (1-a) * w_y * (lse - z_y) + a/C * Σ w_c * (lse - z_c) + k * lse²
            distribution y  q = w * (y * (1-a) + a/C),  l = Σ q_c * (lse - z_c) + k * lse²
                            dl/dz = p * (Σq + 2k * lse) - q

        -inf logits are masked classes. A row of NaN, +inf or only -inf is NaN, alone.

        Args:
            logits: `[..., classes, ...]`.
            labels: class ids, any integer dtype, in the logits' shape without `axis`; or
                distributions, any float dtype, broadcastable to the logits' shape.
            class_weight: w, finite floats >= 0, `[classes]`.
            ignore_index: examples with this id count for nothing: loss 0 and gradient exactly 0.
            label_smoothing: a, in [0, 1].
            z_loss: k, finite and >= 0.
            softcap: finite and > 0; None for none.
            temperature: finite and > 0.
            label_gradient: "exact", or "tf" for p - q where distributions do not sum to 1.
            out_of_range: what ids outside [0, classes) do: "error", "nan" (loss and gradient of
                that example), or "ignore".
            extras: some of "logsumexp", "argmax" and "entropy", per example, of z.

        Example:
            >>> logits = [[2.0, 1.0, 0.5], [1.0, 0.5, 0.0]]
            >>> result = client.softmax_cross_entropy(logits, [0, 1])
            >>> result.loss.round(4).tolist()
            [0.4644, 1.1803]
            >>> result.grad_logits.round(4).tolist()
            [[-0.3715, 0.2312, 0.1402], [0.5065, -0.6928, 0.1863]]

        Source: `tf.nn.softmax_cross_entropy_with_logits` and its sparse sister; the numbers above
        are TensorFlow 2.21's.
        """
        return self._loss(
            losses.SoftmaxCrossEntropy,
            {
                "axis": axis,
                "reduction": reduction,
                "normalizer": normalizer,
                "empty_mean": empty_mean,
                "gradients": gradients,
                "overwrite_logits": overwrite_logits,
                "ignore_index": ignore_index,
                "label_smoothing": label_smoothing,
                "z_loss": z_loss,
                "softcap": softcap,
                "temperature": temperature,
                "label_gradient": label_gradient,
                "out_of_range": out_of_range,
                "extras": extras,
            },
            logits,
            labels,
            {"sample_weight": sample_weight, "class_weight": class_weight},
            timeout,
        )

    def sigmoid_cross_entropy(
        self,
        logits: Any,
        labels: Any,
        *,
        axis: int = -1,
        reduction: Reduction = "none",
        normalizer: NormalizerRule | float = "valid",
        sample_weight: Any = None,
        gradients: Gradients = True,
        overwrite_logits: bool = False,
        pos_weight: Any = None,
        label_smoothing: float = 0.0,
        empty_mean: EmptyMean = "nan",
        timeout: float | None = None,
    ) -> LossT:
        """Cross-entropy between labels and sigmoid of logits, element by element.

        With pos_weight q and smoothing a, y becoming y * (1-a) + a/2::

            l = (1-y) * softplus(z) + q * y * softplus(-z),  dl/dz = (1-y) * σ(z) - q * y * σ(-z)

        which for q = 1 is `max(z, 0) - z * y + log1p(exp(-abs(z)))`, with the gradient σ(z) - y.

        Args:
            logits: any shape; `axis` is not used.
            labels: floats, logits' shape.
            pos_weight: q, finite floats >= 0, broadcastable to the logits' shape.
            label_smoothing: a, in [0, 1].

        Example:
            >>> result = client.sigmoid_cross_entropy([2.0, 1.0, 0.5], [1.0, 0.0, 0.0])
            >>> result.loss.round(4).tolist()
            [0.1269, 1.3133, 0.9741]

        Source: `tf.nn.sigmoid_cross_entropy_with_logits`, `weighted_cross_entropy_with_logits`.
        """
        return self._loss(
            losses.SigmoidCrossEntropy,
            {
                "axis": axis,
                "reduction": reduction,
                "normalizer": normalizer,
                "empty_mean": empty_mean,
                "gradients": gradients,
                "overwrite_logits": overwrite_logits,
                "label_smoothing": label_smoothing,
            },
            logits,
            labels,
            {"sample_weight": sample_weight, "pos_weight": pos_weight},
            timeout,
        )

    def categorical_cross_entropy(
        self,
        probabilities: Any,
        labels: Any,
        *,
        axis: int = -1,
        reduction: Reduction = "none",
        normalizer: NormalizerRule | float = "valid",
        sample_weight: Any = None,
        gradients: Gradients = True,
        overwrite_logits: bool = False,
        epsilon: float = 1e-7,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
        out_of_range: OutOfRange = "error",
        clip_order: ClipOrder = "normalize_first",
        empty_mean: EmptyMean = "nan",
        timeout: float | None = None,
    ) -> LossT:
        """Cross-entropy between labels and probabilities along an axis.

        ::

            n = p / Σp,  c = clip(n, ε, 1-ε),  l = -Σ y * log(c)

        The gradient goes through all three steps.

        Args:
            probabilities: `[..., classes, ...]`; need not sum to 1.
            labels: as for `softmax_cross_entropy`.
            epsilon: ε, in [0, 0.5).
            label_smoothing: as for `softmax_cross_entropy`.
            ignore_index: as for `softmax_cross_entropy`.
            out_of_range: as for `softmax_cross_entropy`.
            clip_order: "normalize_first", or "clip_first" as Keras does on TensorFlow for ids.

        Example:
            >>> client.categorical_cross_entropy([1.0, 18.0, 1.0], 1).loss.round(4).tolist()
            0.1054

        Source: `keras.losses.categorical_crossentropy` and its sparse sister, from_logits=False.
        """
        return self._loss(
            losses.CategoricalCrossEntropy,
            {
                "axis": axis,
                "reduction": reduction,
                "normalizer": normalizer,
                "empty_mean": empty_mean,
                "gradients": gradients,
                "overwrite_logits": overwrite_logits,
                "epsilon": epsilon,
                "label_smoothing": label_smoothing,
                "ignore_index": ignore_index,
                "out_of_range": out_of_range,
                "clip_order": clip_order,
            },
            probabilities,
            labels,
            {"sample_weight": sample_weight},
            timeout,
        )

    def binary_cross_entropy(
        self,
        probabilities: Any,
        labels: Any,
        *,
        axis: int = -1,
        reduction: Reduction = "none",
        normalizer: NormalizerRule | float = "valid",
        sample_weight: Any = None,
        gradients: Gradients = True,
        overwrite_logits: bool = False,
        epsilon: float = 1e-7,
        label_smoothing: float = 0.0,
        empty_mean: EmptyMean = "nan",
        timeout: float | None = None,
    ) -> LossT:
        """Cross-entropy between labels and probabilities, element by element.

        ::

            c = clip(p, ε, 1-ε),  l = -(y * log(c) + (1-y) * log(1-c))

        Args:
            probabilities: any shape; `axis` is not used.
            labels: floats, the same shape.
            epsilon: ε, in [0, 0.5); added once, not twice.
            label_smoothing: a, in [0, 1]: y becomes y * (1-a) + a/2.

        Example:
            >>> client.binary_cross_entropy([0.9, 0.2], [1.0, 0.0]).loss.round(4).tolist()
            [0.1054, 0.2231]

        Source: `keras.losses.binary_crossentropy`, from_logits=False.
        """
        return self._loss(
            losses.BinaryCrossEntropy,
            {
                "axis": axis,
                "reduction": reduction,
                "normalizer": normalizer,
                "empty_mean": empty_mean,
                "gradients": gradients,
                "overwrite_logits": overwrite_logits,
                "epsilon": epsilon,
                "label_smoothing": label_smoothing,
            },
            probabilities,
            labels,
            {"sample_weight": sample_weight},
            timeout,
        )

    def _loss(
        self,
        loss: type[losses.Loss],
        options: Mapping[str, Any],
        logits: Any,
        labels: Any,
        weights: Mapping[str, Any],
        timeout: float | None,
    ) -> LossT:
        make = partial(self._compute, loss, options, logits, labels, weights)
        return cast("LossT", self._call(make, timeout))
