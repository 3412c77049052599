"""Small requests of one form, as one: rows are rows, whoever asked for them.

In: the requests of a batch. Out: fewer requests for the engine, and later the results of each. The
engine's work on a request that is small is nearly all the same whatever its size; so those that
differ in their elements alone are laid one after the other, along a first axis of their own, and
only reductions look at them one by one. Results have the bits they have alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from losswire_proto.losses import SequenceLoss
from losswire_server.requests import UNKNOWN, LossResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from losswire_proto.dtypes import Array
    from losswire_server.requests import LossRequest

STACKED_BYTES: Final = 64 << 10
"""Of tensors and results of a request beyond which it gains nothing: it would be copied."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Requests that are computed as one.

    Attributes:
        whole: all of them, or the only one.
        places: where their results belong in the batch.
    """

    whole: LossRequest
    places: Sequence[int]

    def results(self, result: LossResult) -> Sequence[LossResult]:
        """The result of each, as parts of the whole's."""
        if self.whole.parts == 1:
            return [result]
        return [_part(result, index) for index in range(self.whole.parts)]


def _part(result: LossResult, index: int) -> LossResult:
    return LossResult(
        _row(result.loss, index),
        _row(result.per_example, index),
        _row(result.grad_logits, index),
        _row(result.grad_labels, index),
        _row(result.output, index),
        {name: array[index, ...] for name, array in result.extras.items()},
    )


def _row(array: Array | None, index: int) -> Array | None:
    """One row, as an array also where it is a single number."""
    return None if array is None else array[index, ...]


def stacks(requests: Sequence[LossRequest]) -> list[Stack]:
    """The requests of a batch, put together where they may be."""
    by_form: dict[int, list[int]] = {}
    for place, request in enumerate(requests):
        by_form.setdefault(id(request.form), []).append(place)
    together: list[Stack] = []
    for places in by_form.values():
        first = requests[places[0]]
        if len(places) == 1 or not _is_stackable(first):
            together += [Stack(requests[place], [place]) for place in places]
        else:
            together.append(Stack(_whole([requests[place] for place in places]), places))
    return together


def _is_stackable(request: LossRequest) -> bool:
    return (
        request.nbytes <= STACKED_BYTES
        and request.block is None
        and not request.destinations
        and request.pos_weight is None
        and not request.is_broadcast
        and not isinstance(request.call.loss, SequenceLoss)
    )


def _whole(requests: Sequence[LossRequest]) -> LossRequest:
    first = requests[0]
    weights = [each.sample_weight for each in requests]
    if first.sample_weight is not None:
        shape = first.example_shape
        weights = [None if each is None else np.broadcast_to(each, shape) for each in weights]
    return replace(
        first,
        logits=_stacked([each.logits for each in requests]),
        axis=first.axis + 1,
        labels=_stacked([each.labels for each in requests]),
        sample_weight=_stacked(weights),
        parts=len(requests),
        form=UNKNOWN,
    )


def _stacked(arrays: Sequence[Array | None]) -> Any:
    """Arrays of one shape along a first axis; None for none."""
    present = [array for array in arrays if array is not None]
    if not present:
        return None
    return np.concatenate(present, axis=None).reshape(len(present), *present[0].shape)
