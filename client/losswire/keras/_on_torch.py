"""The losses as operators of PyTorch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import torch

from losswire.torch import _operators
from losswire.torch._routes import number_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from losswire._client import Client
    from losswire_proto.options import ClipOrder, LabelGradient

LABEL_GRADIENT: Final[LabelGradient] = "exact"
CLIP_ORDER_OF_IDS: Final[ClipOrder] = "normalize_first"


def losses(
    method: str,
    options: Mapping[str, Any],
    axis: int | None,
    client: Client | None,
    predictions: torch.Tensor,
    labels: torch.Tensor,
) -> torch.Tensor:
    """See `losswire.keras._backend.Backend`."""
    loss, _ = _operators.by_example(
        predictions,
        labels,
        method,
        json.dumps(dict(options)),
        axis,
        torch.is_grad_enabled() and predictions.requires_grad,
        number_of(client),
    )
    return loss.to(predictions.dtype)
