"""The losses, as methods of both clients.

Each method's keywords are the options of its definition in `losswire_proto.losses`, which checks
them, and the tensors that it takes besides.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from losswire import _requests
from losswire._base import BaseClient
from losswire_proto import losses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from losswire._requests import Gradients
    from losswire_proto.options import (
        ClipOrder,
        EmptyMean,
        Extra,
        FocalForm,
        LabelGradient,
        NormalizerRule,
        OutOfRange,
        Reduction,
    )

LossT = TypeVar("LossT")
InfoT = TypeVar("InfoT")
ArrayT = TypeVar("ArrayT")


class LossMethods(BaseClient, Generic[LossT, InfoT, ArrayT]):
    """A client of one server.

    Args:
        target: `host:port`, `unix:/path`, `dns:///name:port` or `ipv4:a:1,b:2`. Default: the
            environment's `LOSSWIRE_TARGET`, else `localhost:50051`.
        timeout: seconds that a call may take, unless it says otherwise.
        transport: "auto" picks the path by size and place; the others force one. This version
            has the path "inline" only.
        token: sent as a bearer token with each call.
        tls: True for the system's certificate authorities, a file of others (PEM), or gRPC's
            channel credentials. Default: no TLS.

    Raises:
        InvalidInput: an argument outside what is allowed.

    All losses take these keywords:

    - `axis`: the class axis; logits may have any rank from 1 and be float16, bfloat16, float32 or
      float64. Half precisions compute in float32; losses are float32, or float64 for float64.
    - `sample_weight`: finite floats s that broadcast to the examples (the logits' shape without
      the class axis, or the logits' shape where each element is an example). `per_example` is
      s * m * l, with m = 0 for ignored examples and 1 for the others.
    - `reduction`: "none", "sum", or "mean": the sum divided by the `normalizer`, which is "valid"
      (Σ m), "weights" (Σ s * m, times the class weight of the label), "size" (the number of
      examples) or a number >= 0.
    - `empty_mean`: a mean whose divisor is zero: "nan", or "zero" for loss and gradient 0.
    - `gradients`: True for `grad_logits`, False for none, or some of ("logits", "labels").
    - `timeout`: seconds for this call; None for the client's.

    They return a `LossResult`, or a coroutine of one with `AsyncClient`, and raise `InvalidInput`
    for an argument outside what is allowed, before a byte is sent; what else can go wrong with a
    call are the other children of `LosswireError`.
    """

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
        classes, p = softmax(z), lse = log Σ exp(z), smoothing a, class weights w and z-loss k:

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
        pos_weight: Any = None,
        label_smoothing: float = 0.0,
        empty_mean: EmptyMean = "nan",
        timeout: float | None = None,
    ) -> LossT:
        """Cross-entropy between labels and sigmoid of logits, element by element.

        With pos_weight q and smoothing a, y becoming y * (1-a) + a/2:

            l = (1-y) * softplus(z) + q * y * softplus(-z),  dl/dz = (1-y) * σ(z) - q * y * σ(-z)

        which for q = 1 is max(z, 0) - z * y + log1p(exp(-|z|)), with the gradient σ(z) - y.

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
        epsilon: float = 1e-7,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
        out_of_range: OutOfRange = "error",
        clip_order: ClipOrder = "normalize_first",
        empty_mean: EmptyMean = "nan",
        timeout: float | None = None,
    ) -> LossT:
        """Cross-entropy between labels and probabilities along an axis.

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
        epsilon: float = 1e-7,
        label_smoothing: float = 0.0,
        empty_mean: EmptyMean = "nan",
        timeout: float | None = None,
    ) -> LossT:
        """Cross-entropy between labels and probabilities, element by element.

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
                "epsilon": epsilon,
                "label_smoothing": label_smoothing,
            },
            probabilities,
            labels,
            {"sample_weight": sample_weight},
            timeout,
        )

    def kl_divergence(
        self,
        logits: Any,
        target: Any,
        *,
        axis: int = -1,
        reduction: Reduction = "none",
        normalizer: NormalizerRule | float = "valid",
        sample_weight: Any = None,
        gradients: Gradients = True,
        target_is_logits: bool = False,
        temperature: float = 1.0,
        scale_by_temperature_squared: bool = False,
        empty_mean: EmptyMean = "nan",
        timeout: float | None = None,
    ) -> LossT:
        """Kullback-Leibler divergence of softmax of the logits from a target.

            l = Σ y * (log(y) - log(p)),  dl/dz = p * Σy - y

        With temperature T both sides are softened: p = softmax(z / T), and y = softmax(target / T)
        for a teacher's logits, or softmax(log(target) / T) for probabilities.

        Args:
            logits: `[..., classes, ...]`.
            target: floats, broadcastable to the logits' shape.
            target_is_logits: whether the target holds a teacher's logits.
            temperature: T, finite and > 0.
            scale_by_temperature_squared: whether the loss is multiplied by T², as in distillation.

        Example:
            >>> client.kl_divergence([2.0, 1.0, 0.5], [0.2, 0.3, 0.5]).loss.round(4).tolist()
            0.4847

        Source: `optax.losses.kl_divergence`; Hinton, Vinyals and Dean 2015 for the temperature.
        """
        return self._loss(
            losses.KlDivergence,
            {
                "axis": axis,
                "reduction": reduction,
                "normalizer": normalizer,
                "empty_mean": empty_mean,
                "gradients": gradients,
                "target_is_logits": target_is_logits,
                "temperature": temperature,
                "scale_by_temperature_squared": scale_by_temperature_squared,
            },
            logits,
            target,
            {"sample_weight": sample_weight},
            timeout,
        )

    def focal(
        self,
        logits: Any,
        labels: Any,
        *,
        axis: int = -1,
        reduction: Reduction = "none",
        normalizer: NormalizerRule | float = "valid",
        sample_weight: Any = None,
        gradients: Gradients = True,
        gamma: float = 2.0,
        alpha: float | None = None,
        form: FocalForm = "softmax",
        ignore_index: int | None = None,
        empty_mean: EmptyMean = "nan",
        timeout: float | None = None,
    ) -> LossT:
        """Focal loss: cross-entropy that well-classified examples hardly add to.

            softmax  l = Σ α * y_c * (1 - p_c)^γ * -log(p_c)
            sigmoid  l = α_t * (1 - p_t)^γ * ce,  p_t = y * p + (1-y) * (1-p),
                     α_t = α * y + (1-α) * (1-y),  element by element

        Args:
            logits: `[..., classes, ...]`, or any shape for the sigmoid form.
            labels: class ids or distributions; floats of the logits' shape for the sigmoid form.
            gamma: γ, finite and >= 0.
            alpha: α, in [0, 1]; None for no such weight.
            form: "softmax" or "sigmoid".
            ignore_index: as for `softmax_cross_entropy`.

        Example:
            >>> client.focal([2.0, 1.0, 0.5], 0).loss.round(4).tolist()
            0.0641

        Source: Lin et al. 2017, `keras.losses.CategoricalFocalCrossentropy`,
        `optax.losses.sigmoid_focal_loss`.
        """
        return self._loss(
            losses.Focal,
            {
                "axis": axis,
                "reduction": reduction,
                "normalizer": normalizer,
                "empty_mean": empty_mean,
                "gradients": gradients,
                "gamma": gamma,
                "alpha": alpha,
                "form": form,
                "ignore_index": ignore_index,
            },
            logits,
            labels,
            {"sample_weight": sample_weight},
            timeout,
        )

    def softmax(self, logits: Any, *, axis: int = -1, timeout: float | None = None) -> ArrayT:
        """Softmax along an axis, in the shape and dtype of the logits.

        Args:
            logits: `[..., classes, ...]`.
            axis: the class axis.
            timeout: seconds for this call; None for the client's.

        Example:
            >>> client.softmax([2.0, 1.0, 0.1]).round(4).tolist()
            [0.659, 0.2424, 0.0986]

        Source: `tf.nn.softmax`.
        """
        make = partial(_requests.transform, losses.Softmax, axis, logits)
        return cast("ArrayT", self._call(make, timeout))

    def log_softmax(self, logits: Any, *, axis: int = -1, timeout: float | None = None) -> ArrayT:
        """Logarithm of softmax along an axis, z - lse, in the shape and dtype of the logits.

        Args:
            logits: `[..., classes, ...]`.
            axis: the class axis.
            timeout: seconds for this call; None for the client's.

        Example:
            >>> client.log_softmax([2.0, 1.0, 0.1]).round(4).tolist()
            [-0.417, -1.417, -2.317]

        Source: `tf.nn.log_softmax`.
        """
        make = partial(_requests.transform, losses.LogSoftmax, axis, logits)
        return cast("ArrayT", self._call(make, timeout))

    def sequence_loss(
        self,
        logits: Any,
        targets: Any,
        weights: Any,
        *,
        average_across_timesteps: bool = True,
        average_across_batch: bool = True,
        gradients: Gradients = True,
        timeout: float | None = None,
    ) -> LossT:
        """Weighted cross-entropy of sequences, averaged over time, batch, both or neither.

            loss = Σ w * l / (Σ w + 1e-12)

        with both sums over time and batch, over time alone (a loss `[batch]`), over the batch
        alone (`[time]`), or w * l itself (`[batch, time]`).

        Args:
            logits: `[batch, time, classes]`.
            targets: class ids, `[batch, time]`.
            weights: w, finite floats, `[batch, time]`; 0 for padding.
            average_across_timesteps: whether to average over time.
            average_across_batch: whether to average over the batch.
            gradients: True for `grad_logits`, False for none.
            timeout: seconds for this call; None for the client's.

        Example:
            >>> logits = [[[2.0, 1.0, 0.5], [1.0, 0.5, 0.0]]]
            >>> client.sequence_loss(logits, [[0, 1]], [[1.0, 0.0]]).loss.round(4).tolist()
            0.4644

        Source: `tf.contrib.seq2seq.sequence_loss` of TensorFlow 1.
        """
        options = {
            "average_across_timesteps": average_across_timesteps,
            "average_across_batch": average_across_batch,
            "gradients": gradients,
        }
        tensors = {"sample_weight": weights}
        return self._loss(losses.SequenceLoss, options, logits, targets, tensors, timeout)

    def server_info(self, *, timeout: float | None = None) -> InfoT:
        """What the server is, can do and allows.

        Args:
            timeout: seconds for this call; None for the client's.

        Returns:
            A `ServerInfo`; a coroutine of one with `AsyncClient`.
        """
        return cast("InfoT", self._call(_requests.server_info, timeout))

    def _loss(
        self,
        loss: type[losses.Loss],
        options: Mapping[str, Any],
        logits: Any,
        labels: Any,
        weights: Mapping[str, Any],
        timeout: float | None,
    ) -> LossT:
        make = partial(_requests.compute, self._advice, loss, options, logits, labels, weights)
        return cast("LossT", self._call(make, timeout))
