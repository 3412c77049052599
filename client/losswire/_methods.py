"""The losses, as methods of both clients.

The cross-entropies come from `_cross_entropies`; here are the others, and what a client is.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import numpy as np

from losswire._cross_entropies import CrossEntropyMethods
from losswire._requests import server_info
from losswire_proto import losses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from losswire._requests import Gradients
    from losswire_proto.dtypes import Array
    from losswire_proto.options import (
        EmptyMean,
        FocalForm,
        NormalizerRule,
        Reduction,
    )

LossT = TypeVar("LossT")
InfoT = TypeVar("InfoT")
ArrayT = TypeVar("ArrayT")


class LossMethods(CrossEntropyMethods[LossT], Generic[LossT, InfoT, ArrayT]):
    """A client of one server.

    Args:
        target: `host:port`, `unix:/path`, `dns:///name:port` or `ipv4:a:1,b:2`. Default: the
            environment's `LOSSWIRE_TARGET`, else `localhost:50051`.
        timeout: seconds that a call may take, unless it says otherwise.
        transport: "auto" picks the path by size and place: small calls that are in flight together
            share messages, others go "inline", in one message; large tensors through memory that is
            "shared" with a server on the same host, or as a "stream" of blocks of rows. The others
            force one.
        token: sent as a bearer token with each call.
        tls: True for the system's certificate authorities, a file of others (PEM), or gRPC's
            channel credentials. Default: no TLS.
        retries: whether calls that are refused or cut off are made again within their timeout.

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
    - `overwrite_logits`: True writes `grad_logits` over `logits`, a writable NumPy array, and
      returns that array: no memory for the gradient. After a call that failed, what it holds is
      undefined.
    - `timeout`: seconds for this call; None for the client's.

    They return a `LossResult`, or a coroutine of one with `AsyncClient`, and raise `InvalidInput`
    for an argument outside what is allowed, before a byte is sent; what else can go wrong with a
    call are the other children of `LosswireError`.
    """

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
        overwrite_logits: bool = False,
        target_is_logits: bool = False,
        temperature: float = 1.0,
        scale_by_temperature_squared: bool = False,
        empty_mean: EmptyMean = "nan",
        timeout: float | None = None,
    ) -> LossT:
        """Kullback-Leibler divergence of softmax of the logits from a target.

        ::

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
                "overwrite_logits": overwrite_logits,
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
        overwrite_logits: bool = False,
        gamma: float = 2.0,
        alpha: float | None = None,
        form: FocalForm = "softmax",
        ignore_index: int | None = None,
        empty_mean: EmptyMean = "nan",
        timeout: float | None = None,
    ) -> LossT:
        """Focal loss: cross-entropy that well-classified examples hardly add to.

        ::

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
                "overwrite_logits": overwrite_logits,
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
        make = partial(self._transform, losses.Softmax, axis, logits)
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
        make = partial(self._transform, losses.LogSoftmax, axis, logits)
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
        overwrite_logits: bool = False,
        timeout: float | None = None,
    ) -> LossT:
        """Weighted cross-entropy of sequences, averaged over time, batch, both or neither.

        ::

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
            "overwrite_logits": overwrite_logits,
        }
        tensors = {"sample_weight": weights}
        return self._loss(losses.SequenceLoss, options, logits, targets, tensors, timeout)

    def empty(self, shape: int | Sequence[int], dtype: Any = np.float32) -> Array:
        """An array, not initialised, in memory that a server on the same host can look into.

        Logits and labels in such arrays are not copied on their way, nor are gradients written over
        them with `overwrite_logits`. With a server elsewhere it is an array like any other. Its
        memory is used again when the array and all its views are gone; a forked child sees the
        same memory, not a copy.

        Args:
            shape: of the array.
            dtype: of its elements.

        Example:
            >>> logits = client.empty((2, 3))
            >>> logits[...] = [[2.0, 1.0, 0.5], [1.0, 0.5, 0.0]]
            >>> client.softmax_cross_entropy(logits, [0, 1]).loss.round(4).tolist()
            [0.4644, 1.1803]

        Raises:
            InvalidInput: no shape or no dtype.
        """
        return self._paths.shared.empty(shape, dtype)

    def server_info(self, *, timeout: float | None = None) -> InfoT:
        """What the server is, can do and allows.

        Args:
            timeout: seconds for this call; None for the client's.

        Returns:
            A `ServerInfo`; a coroutine of one with `AsyncClient`.
        """
        return cast("InfoT", self._call(partial(self._paths.retries.of, server_info), timeout))
