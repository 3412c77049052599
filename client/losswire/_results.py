"""What a caller gets back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from losswire_proto.dtypes import Array


Outputs: TypeAlias = "dict[str, Array]"
"""What came back, by the names of the fields of `ComputeResponse`."""

_EXTRAS: Final = ("logsumexp", "argmax", "entropy")


@dataclass(frozen=True, slots=True)
class LossResult:
    """A loss and what was asked for with it. Arrays are the caller's own and writable.

    Attributes:
        loss: as reduced: `[]` for "sum" and "mean", the examples' shape for "none"; float32, or
            float64 for float64 logits.
        per_example: the per-example losses, sample weights applied, whatever the reduction; in
            the examples' shape (the logits' without the class axis), dtype as `loss`.
        grad_logits: d loss / d logits, in the logits' shape and dtype: of each example's own loss
            for "none", of the scalar otherwise; None where it was not asked for.
        grad_labels: d loss / d labels, in the labels' shape and dtype; None likewise.
        extras: further per-example results by name, those that were asked for.
    """

    loss: Array
    per_example: Array
    grad_logits: Array | None = None
    grad_labels: Array | None = None
    extras: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server is, can do and allows.

    Attributes:
        version: of losswire.
        backend: the engine, "numpy" or "cupy".
        device: what it computes on, in words.
        dtypes: that logits may have, by NumPy's names.
        losses: that are served, by the names of the client's methods.
        limits: in bytes, rows and dimensions, by name; 0 means none.
    """

    version: str
    backend: str
    device: str
    dtypes: tuple[str, ...]
    losses: tuple[str, ...]
    limits: Mapping[str, int]


def loss_result(outputs: Outputs) -> LossResult:
    """What came back, as a caller gets it."""
    return LossResult(
        loss=outputs.get("loss", outputs["per_example"]),
        per_example=outputs["per_example"],
        grad_logits=outputs.get("grad_logits"),
        grad_labels=outputs.get("grad_labels"),
        extras={name: outputs[name] for name in _EXTRAS if name in outputs},
    )
