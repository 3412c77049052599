"""The methods that both clients have, but for the call itself.

A method turns its arguments into a function that makes the `Rpc`, and hands that to `_unary` or
`_info`, which a synchronous client answers with a result and an asynchronous one with a coroutine.
"""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeAlias, TypeVar

from losswire import _requests
from losswire._channel import Connection, Tls
from losswire._errors import InvalidInput
from losswire_proto.losses import (
    EmptyMean,
    LabelGradient,
    LossCall,
    NormalizerRule,
    OutOfRange,
    Reduction,
    SoftmaxCrossEntropy,
)
from losswire_proto.rules import InvalidField

if TYPE_CHECKING:
    from collections.abc import Callable

    from losswire._requests import Gradients, Rpc
    from losswire._results import LossResult, ServerInfo

Transport: TypeAlias = Literal["auto", "inline", "stream", "shared"]

LossT = TypeVar("LossT")
InfoT = TypeVar("InfoT")

DEFAULT_TARGET: Final = "localhost:50051"
DEFAULT_TIMEOUT: Final = 30.0


class LossMethods(Generic[LossT, InfoT]):
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
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        transport: Transport = "auto",
        token: str | None = None,
        tls: Tls | None = None,
    ) -> None:
        if transport not in {"auto", "inline", "stream", "shared"}:
            raise InvalidInput(
                "transport: expected one of 'auto', 'inline', 'stream', 'shared',"
                f" received {transport!r}"
            )
        if transport in {"stream", "shared"}:
            raise InvalidInput(
                f"transport: expected 'auto' or 'inline', received {transport!r},"
                " which this version does not have yet"
            )
        self._timeout = _checked_timeout(timeout)
        target = target or os.environ.get("LOSSWIRE_TARGET") or DEFAULT_TARGET
        self._connection = Connection(target, token, tls)

    @property
    def target(self) -> str:
        """The server's address."""
        return self._connection.target

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
        ignore_index: int | None = None,
        out_of_range: OutOfRange = "error",
        label_gradient: LabelGradient = "exact",
        empty_mean: EmptyMean = "nan",
        timeout: float | None = None,
    ) -> LossT:
        """Cross-entropy between labels and softmax of logits, with its gradients.

        For an example with logits z along `axis`, p = softmax(z) and lse = log Σ exp(z):

            class id y       l = lse - z_y               dl/dz = p - onehot(y)
            distribution q   l = Σ q_c * (lse - z_c)     dl/dz = p * Σq - q,  dl/dq = lse - z

        With sample weights s, and m = 0 for ignored examples, 1 for the others, `per_example` is
        s * m * l; "sum" is its sum, "mean" that divided by the normalizer. Half precisions compute
        in float32; losses are float32, or float64 for float64 logits.

        Args:
            logits: `[..., classes, ...]`; float16, bfloat16, float32 or float64, rank >= 1.
            labels: class ids, any integer dtype, in the logits' shape without `axis`; or
                distributions, any float dtype, broadcastable to the logits' shape.
            axis: the class axis.
            reduction: "none", "sum" or "mean".
            normalizer: what a mean is divided by: "valid" (Σ m), "weights" (Σ s * m), "size" (the
                number of examples) or a number >= 0.
            sample_weight: finite floats, broadcastable to the logits' shape without `axis`.
            gradients: True for `grad_logits`, False for none, or some of ("logits", "labels").
            ignore_index: examples with this id count for nothing: loss 0 and gradient exactly 0.
            out_of_range: what ids outside [0, classes) do: "error", "nan" (loss and gradient of
                that example), or "ignore".
            label_gradient: "exact", or "tf" for p - q where distributions do not sum to 1.
            empty_mean: a mean whose divisor is zero: "nan", or "zero" for loss and gradient 0.
            timeout: seconds for this call; None for the client's.

        Returns:
            A `LossResult`; a coroutine of one with `AsyncClient`.

        Raises:
            InvalidInput: an argument outside what is allowed, before a byte is sent.
            LosswireError: what else can go wrong with a call, by its children.

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

        def call() -> LossCall:
            return LossCall(
                loss=SoftmaxCrossEntropy(
                    ignore_index=_index(ignore_index),
                    out_of_range=out_of_range,
                    label_gradient=label_gradient,
                ),
                axis=_index(axis),
                reduction=reduction,
                normalizer=_number(normalizer),
                empty_mean=empty_mean,
                **_requests.wanted_gradients(gradients),
            )

        return self._loss(partial(_requests.compute, call, logits, labels, sample_weight), timeout)

    def server_info(self, *, timeout: float | None = None) -> InfoT:
        """What the server is, can do and allows.

        Args:
            timeout: seconds for this call; None for the client's.

        Returns:
            A `ServerInfo`; a coroutine of one with `AsyncClient`.

        Raises:
            LosswireError: what can go wrong with a call, by its children.
        """
        return self._info(_requests.server_info, timeout)

    @abstractmethod
    def _loss(self, make: Callable[[], Rpc[LossResult]], timeout: float | None) -> LossT:
        """Makes the call and returns its result, now or when awaited."""

    @abstractmethod
    def _info(self, make: Callable[[], Rpc[ServerInfo]], timeout: float | None) -> InfoT:
        """The same, for what is not a loss."""

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else _checked_timeout(timeout)


def _checked_timeout(timeout: float) -> float:
    if not isinstance(timeout, (int, float)) or not (timeout > 0 and math.isfinite(timeout)):
        raise InvalidInput(
            f"timeout: expected a finite number of seconds > 0, received {timeout!r}"
        )
    return float(timeout)


def _index(value: Any) -> Any:
    """NumPy's integers as Python's; anything else as it is, for the check to name."""
    return int(value) if hasattr(value, "__index__") and not isinstance(value, bool) else value


def _number(value: Any) -> Any:
    """NumPy's scalars as Python's; anything else as it is, for the check to name."""
    if isinstance(value, str):
        return value
    try:
        return value.item() if hasattr(value, "item") else value
    except ValueError as error:
        raise InvalidField("normalizer", "a rule or a single number", repr(value)) from error
