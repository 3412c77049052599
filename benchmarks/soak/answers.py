"""Questions whose right answers are known to the bit, without a server.

In: a loss, a shape, a dtype and a seed. Out: arguments for a client's method, and the bits of the
answer: the NumPy engine's in this process, themselves held to long double.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from losswire.bench.problem import Problem
from losswire_proto.losses import LOSSES, LossCall
from losswire_server.requests import LossRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from losswire_proto.dtypes import Array
    from losswire_server.engine.numpy_engine import NumpyEngine


@dataclass(frozen=True, slots=True)
class Question:
    """A call and its answer.

    Attributes:
        problem: the call.
        expected: the bytes of each array of the answer, by name.
    """

    problem: Problem
    expected: Mapping[str, bytes]

    @classmethod
    def make(
        cls, loss: str, shape: tuple[int, ...], dtype: str, seed: int, engine: NumpyEngine
    ) -> Question:
        """A question with random arguments.

        Raises:
            WrongResult: the engine in this process disagrees with long double.
        """
        problem = Problem.make(loss, shape, dtype, seed)
        result = engine.compute([_request(problem)])[0]
        problem.check(result if result.output is None else result.output)
        return cls(problem, {name: array.tobytes() for name, array in _arrays(result).items()})

    def difference(self, result: Any) -> str:
        """The first array of a client's result that has not the bits of the answer; "" for none."""
        found = _arrays(result)
        for name, expected in self.expected.items():
            if name not in found or found[name].tobytes() != expected:
                return name
        return ""


def _arrays(result: Any) -> dict[str, Array]:
    """What is compared of a result, the engine's or a client's."""
    if not hasattr(result, "per_example"):
        return {"output": result}
    names = ("per_example", "grad_logits", "output")
    found = {name: getattr(result, name, None) for name in names}
    return {name: array for name, array in found.items() if array is not None}


def _request(problem: Problem) -> LossRequest:
    """The problem as the engine takes it."""
    loss = LOSSES[problem.loss](**problem.keywords)
    logits, *labels = problem.arguments
    is_transform = not labels
    return LossRequest(
        LossCall(loss, grad_logits=not is_transform),
        logits,
        logits.ndim - 1,
        labels[0] if labels else None,
        loss.readings[0],
        sample_weight=labels[1] if len(labels) > 1 else None,
    )
