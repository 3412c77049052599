"""What is asked for in each call, and whether the answer is right.

In: a loss, a shape and a dtype. Out: random arguments for the client's method, and the long double
answers of a few rows that every checked reply is held to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from losswire._errors import InvalidInput
from losswire.bench.truth import TRUTHS
from losswire_proto import dtypes
from losswire_proto.losses import LOSSES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from losswire_proto.dtypes import Array
    from losswire_proto.losses import Loss

_CHECKED_ROWS: Final = 16

_TOLERANCES: Final[Mapping[str, float]] = {
    "float16": 2**-9,
    "bfloat16": 2**-6,
    "float32": 1e-5,
    "float64": 1e-12,
}
"""Relative to the value, and to the middle one of its row: a few roundings of the dtype. A wrong
answer is off by far more; how exact right ones are is for the test suite to say."""

_SMALLEST: Final = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149, "float64": 0}
"""Above zero; values near them have few digits."""

_MOST_PROBLEMS: Final = 64
_PROBLEM_BYTES: Final = 256 << 20


class WrongResult(Exception):  # noqa: N818 -- the name says it all
    """A reply that is not the loss and gradient of what was sent."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A request, made once and sent again and again.

    Attributes:
        loss: the client's method.
        arguments: its positional arguments; logits or probabilities come first.
        keywords: its keywords.
        rows: which rows are checked.
        expected_losses: per-example losses of those rows; None for the transforms.
        expected_rows: their gradient or output, `[rows, classes]`, rounded to the logits' dtype.
    """

    loss: str
    arguments: tuple[Array, ...]
    keywords: Mapping[str, Any]
    rows: Array
    expected_losses: Array | None
    expected_rows: Array

    @classmethod
    def make(cls, loss: str, shape: tuple[int, ...], dtype: str, seed: int = 0) -> Problem:
        """Random logits from a normal distribution, labels that fit, and the answers.

        Raises:
            InvalidInput: a loss or dtype that there is not, a shape that the loss does not take.
        """
        if loss not in LOSSES:
            raise InvalidInput(f"loss: expected one of {', '.join(LOSSES)}, received {loss!r}")
        kinds = {kind.name: kind for kind in dtypes.FLOATS}
        if dtype not in kinds:
            raise InvalidInput(f"dtype: expected one of {', '.join(kinds)}, received {dtype!r}")
        if LOSSES[loss].needs_sequences and len(shape) != 3:
            raise InvalidInput(f"shape: expected batch x time x classes, received {shape}")
        if not shape or min(shape) < 1:
            raise InvalidInput(f"shape: expected sizes >= 1, received {shape}")
        random = np.random.default_rng(seed)
        return cls.of(loss, _arguments(LOSSES[loss], shape, kinds[dtype], random))

    @classmethod
    def of(cls, loss: str, arguments: tuple[Array, ...]) -> Problem:
        """A problem of given arguments."""
        logits = arguments[0]
        table = logits.reshape(-1, logits.shape[-1])
        rows = np.unique(np.linspace(0, len(table) - 1, _CHECKED_ROWS).astype(np.int64))
        wide = table[rows].astype(np.float64).astype(np.longdouble)
        labels = rows if len(arguments) == 1 else _label_rows(arguments[1], logits, rows)
        losses, answer = TRUTHS[loss](wide, labels)
        with np.errstate(over="ignore"):  # beyond the dtype's largest is infinite there too
            rounded = answer.astype(np.float64).astype(logits.dtype).astype(np.float64)
        options: dict[str, Any] = {}
        if LOSSES[loss].needs_sequences:
            options = {"average_across_timesteps": False, "average_across_batch": False}
        return cls(
            loss=loss,
            arguments=arguments,
            keywords=options,
            rows=rows,
            expected_losses=None if losses is None else losses.astype(np.float64),
            expected_rows=rounded,
        )

    @classmethod
    def several(
        cls, loss: str, shape: tuple[int, ...], dtype: str, most: int
    ) -> tuple[Problem, ...]:
        """Different problems, so that a reply to another caller's request is found out.

        At most `most` of them, and fewer where they would take much memory.
        """
        first = cls.make(loss, shape, dtype)
        count = min(most, _MOST_PROBLEMS, max(1, _PROBLEM_BYTES // first.logits.nbytes))
        return first, *(cls.make(loss, shape, dtype, seed) for seed in range(1, count))

    @property
    def logits(self) -> Array:
        """Logits or probabilities."""
        return self.arguments[0]

    @property
    def rows_per_call(self) -> int:
        """Examples in one call."""
        return math.prod(self.logits.shape[:-1])

    @property
    def bytes_per_call(self) -> int:
        """Logits up and gradient down; labels and losses are small beside them and not counted."""
        return 2 * self.logits.nbytes

    def call(self, client: Any) -> Any:
        """Makes the call; a coroutine of it with an asynchronous client."""
        return getattr(client, self.loss)(*self.arguments, **self.keywords)

    def check(self, result: Any, leeway: float = 1) -> None:
        """Holds a reply to the answers.

        Args:
            result: with `per_example` and `grad_logits`; of a transform, its output.
            leeway: how many times as far off as ours the gradient may be.

        Raises:
            WrongResult: it differs; says where.
        """
        output = result
        if self.expected_losses is not None:
            compute = dtypes.compute_dtype(self.logits.dtype).name
            losses = result.per_example.reshape(self.rows_per_call, -1)[self.rows]
            expected = self.expected_losses.reshape(len(self.rows), -1)
            self._hold("per_example", losses, expected, _TOLERANCES[compute])
            output = result.grad_logits
        if output is None or output.shape != self.logits.shape or output.dtype != self.logits.dtype:
            raise WrongResult(f"{self.loss}: no gradient in the shape and dtype of the logits")
        found = output.reshape(-1, output.shape[-1])[self.rows]
        tolerance = leeway * _TOLERANCES[self.logits.dtype.name]
        self._hold("gradient", found, self.expected_rows, tolerance)

    def _hold(self, name: str, found: Array, expected: Array, tolerance: float) -> None:
        found = found.astype(np.float64)
        floor = tolerance * np.median(np.abs(expected), axis=1, keepdims=True)
        floor += _SMALLEST[self.logits.dtype.name]
        is_wrong = ~np.isclose(found, expected, rtol=tolerance, atol=floor)
        if is_wrong.any():
            row, column = np.argwhere(is_wrong)[0]
            raise WrongResult(
                f"{self.loss}: {name} of row {self.rows[row]}, element {column}: expected"
                f" {expected[row, column]:.9g}, received {found[row, column]:.9g}"
            )


def parse_shape(text: str) -> tuple[int, ...]:
    """`8192x1000` as a shape; the last size is the number of classes.

    Raises:
        InvalidInput: not sizes with an x between them.
    """
    try:
        return tuple(int(size) for size in text.lower().split("x"))
    except ValueError:
        raise InvalidInput(f"shape: expected sizes like 8192x1000, received {text!r}") from None


def _arguments(
    loss: type[Loss], shape: tuple[int, ...], dtype: np.dtype[Any], random: np.random.Generator
) -> tuple[Array, ...]:
    reading = loss.readings[0]
    if loss.input_name == "probabilities":
        # Far from the ends, where clipping would come in
        spread = random.random(shape, np.float32) + np.float32(0.5)
        logits = spread / (2 if reading == "elements" else spread.sum(axis=-1, keepdims=True))
    else:
        logits = random.standard_normal(shape, np.float32)
    logits = logits.astype(dtype)
    if reading == "none":
        return (logits,)
    if reading == "ids":
        labels: Array = random.integers(0, shape[-1], shape[:-1])
    else:
        labels = random.random(shape, np.float32) + np.float32(0.1)
        if reading == "distribution":
            labels /= labels.sum(axis=-1, keepdims=True)
        else:
            labels = np.minimum(labels, np.float32(1))
    if loss.needs_sequences:
        return logits, labels, np.ones(shape[:-1], np.float32)
    return logits, labels


def _label_rows(labels: Array, logits: Array, rows: Array) -> Array:
    if labels.shape == logits.shape:
        return labels.reshape(-1, logits.shape[-1])[rows].astype(np.float64)
    return labels.reshape(-1)[rows]
