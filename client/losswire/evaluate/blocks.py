"""A loss over tensors of any size, a block of rows at a time.

In: tensors that may lie in files, and what is asked of them. Out: the loss, and files with the
per-example losses and the gradient. What a mean is divided by is counted before, so that blocks
have the gradients of the whole. Files appear under their names when all is done.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import ml_dtypes
import numpy as np

from losswire._errors import InvalidInput
from losswire_proto.losses import LOSSES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from losswire._client import Client
    from losswire_proto.dtypes import Array

BLOCK_BYTES: Final = 64 << 20
"""Of logits in a call: enough that a call's own cost does not count."""

_BFLOAT16: Final = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is asked.

    Attributes:
        loss: the client's method.
        logits: logits or probabilities.
        labels: None for what takes none.
        axis: the class axis.
        reduction: "none", "sum" or "mean".
        options: further keywords of the method.
        losses: where the per-example losses go; None for nowhere.
        gradient: where the gradient, or the output, goes.
    """

    loss: str
    logits: Array
    labels: Array | None
    axis: int
    reduction: str
    options: Mapping[str, Any]
    losses: Path | None
    gradient: Path | None

    @property
    def rows(self) -> int:
        """Length of the first axis."""
        return self.logits.shape[0] if self.logits.ndim else 1

    @property
    def has_loss(self) -> bool:
        """Whether there is one, and not only an output."""
        return LOSSES[self.loss].readings != ("none",)


@dataclass(slots=True)
class Outcome:
    """What came of it.

    Attributes:
        examples: how many.
        loss: the reduced loss; None where there is none.
        total: of the per-example losses, in float64.
    """

    examples: int = 0
    loss: float | None = None
    total: float = 0.0


def evaluate(asked: Evaluation, client: Client, advance: Callable[[int], None]) -> Outcome:
    """Evaluates block by block.

    Args:
        asked: what.
        client: of the server.
        advance: told of the rows that are done.

    Raises:
        InvalidInput: tensors or options are wrong.
        LosswireError: the server failed.
        OSError: a file cannot be written.
    """
    logits = _typed(asked.logits)
    outcome = Outcome()
    keywords = dict(asked.options)
    step = max(1, asked.rows)
    if logits.nbytes > BLOCK_BYTES and _can_be_cut(asked, logits):
        step = max(1, BLOCK_BYTES // max(1, logits[:1].nbytes))
        if asked.reduction == "mean":
            keywords["normalizer"] = _divisor(asked, logits)
    parts: list[float] = []
    with ExitStack() as stack:
        gradient = stack.enter_context(_Written(asked.gradient, logits.shape, logits.dtype))
        losses = stack.enter_context(_Losses(asked.losses))
        for start in range(0, max(1, asked.rows), step):
            rows = slice(start, start + step) if logits.ndim else ()
            part = logits[rows] if step < asked.rows else logits
            labels = asked.labels
            if labels is not None and step < asked.rows and labels.ndim:
                labels = _part(labels, logits, rows)
            answer = _asked(asked, client, part, labels, keywords)
            if asked.has_loss:
                outcome.examples += answer.per_example.size
                outcome.total += float(answer.per_example.sum(dtype=np.float64))
                losses.add(answer.per_example)
                if asked.reduction != "none":
                    parts.append(float(answer.loss))
                gradient.put(rows, answer.grad_logits)
            else:
                outcome.examples += answer.size // max(1, part.shape[asked.axis])
                gradient.put(rows, answer)
            advance(len(part) if part.ndim else 1)
    if parts:
        outcome.loss = math.fsum(parts) if len(parts) > 1 else parts[0]
    return outcome


def _typed(array: Array) -> Array:
    """.npy files have no bfloat16: it comes back as two bytes of nothing."""
    return array.view(_BFLOAT16) if array.dtype == np.dtype("V2") else array


def _can_be_cut(asked: Evaluation, logits: Array) -> bool:
    """Whether rows along the first axis are examples that know nothing of one another."""
    if asked.loss == "sequence_loss" or logits.ndim < 2 or asked.axis in {0, -logits.ndim}:
        return False
    # Labels of fewer dimensions may be shared by rows, and weights are not looked into.
    has_all_rows = asked.labels is None or len(asked.labels) == len(logits)
    normalizer = asked.options.get("normalizer", "valid")
    is_countable = normalizer in {"valid", "size"} or not isinstance(normalizer, str)
    return has_all_rows and is_countable and "sample_weight" not in asked.options


def _part(labels: Array, logits: Array, rows: Any) -> Array:
    return labels[rows] if len(labels) == len(logits) else labels


def _divisor(asked: Evaluation, logits: Array) -> float:
    """What the mean of the whole is divided by."""
    normalizer = asked.options.get("normalizer", "valid")
    if not isinstance(normalizer, str):
        return float(normalizer)
    kind = LOSSES[asked.loss]
    own = {field.name for field in fields(kind)}
    options = {name: value for name, value in asked.options.items() if name in own}
    if kind(**options).is_elementwise:
        return float(logits.size)
    classes = logits.shape[asked.axis]
    examples = logits.size // max(1, classes)
    labels = asked.labels
    if normalizer == "size" or labels is None or labels.dtype.kind not in "iu":
        return float(examples)
    counted = np.ones(labels.shape, bool)
    if asked.options.get("ignore_index") is not None:
        counted &= labels != asked.options["ignore_index"]
    if asked.options.get("out_of_range") == "ignore":
        counted &= (labels >= 0) & (labels < classes)
    return float(counted.sum())


def _asked(
    asked: Evaluation, client: Client, logits: Array, labels: Array | None, keywords: dict[str, Any]
) -> Any:
    method = getattr(client, asked.loss)
    try:
        if not asked.has_loss:
            return method(logits, axis=asked.axis, **keywords)
        if labels is None:
            raise InvalidInput(f"labels: expected a file for {asked.loss}, received none")
        wanted: dict[str, Any] = {"gradients": asked.gradient is not None}
        if asked.loss != "sequence_loss":
            wanted |= {"axis": asked.axis, "reduction": asked.reduction}
        return method(logits, labels, **wanted, **keywords)
    except TypeError as error:  # a keyword that the method does not have
        raise InvalidInput(f"option: {error}") from error


class _Written:
    """A .npy file that is written piece by piece, and there when all of it is.

    Args:
        path: of the file; None for none.
    """

    def __init__(self, path: Path | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._path = path
        self._array: Array | None = None
        if path is not None:
            self._partial = path.with_name(path.name + ".part")
            stored = np.dtype("V2") if dtype == _BFLOAT16 else dtype.newbyteorder("<")
            if math.prod(shape):
                self._array = np.lib.format.open_memmap(self._partial, "w+", stored, shape)
            else:
                self._array = np.empty(shape, stored)

    def put(self, rows: Any, values: Array | None) -> None:
        """Writes some rows."""
        if self._array is not None and values is not None:
            whole = self._array.view(values.dtype) if self._array.dtype.kind == "V" else self._array
            whole[rows] = values

    def __enter__(self) -> _Written:
        return self

    def __exit__(self, kind: object, *_error: object) -> None:
        array, self._array = self._array, None
        if array is None or self._path is None:
            return
        if isinstance(array, np.memmap):
            array.flush()
        elif kind is None:
            with self._partial.open("wb") as file:
                np.save(file, array)
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)


class _Losses:
    """Per-example losses, collected and saved at the end."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._parts: list[Array] = []

    def add(self, losses: Array) -> None:
        """Takes those of a block."""
        if self._path is not None:
            self._parts.append(losses)

    def __enter__(self) -> _Losses:
        return self

    def __exit__(self, kind: object, *_error: object) -> None:
        if self._path is None or kind is not None:
            return
        partial = self._path.with_name(self._path.name + ".part")
        whole = np.concatenate(self._parts) if len(self._parts) > 1 else self._parts[0]
        with partial.open("wb") as file:
            np.save(file, whole)
        partial.replace(self._path)
