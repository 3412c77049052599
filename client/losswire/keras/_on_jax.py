"""The losses as functions of JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import jax

from losswire._default import checked_client
from losswire.jax import _calls

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
    predictions: jax.Array,
    labels: jax.Array,
) -> jax.Array:
    """See `losswire.keras._backend.Backend`."""
    from_end = None if axis is None else axis % predictions.ndim - predictions.ndim
    asked = None if client is None else checked_client(client)
    call = _calls.Call(method, tuple(options.items()), from_end, asked)
    loss = _calls.losses(call, predictions, jax.lax.stop_gradient(labels))
    return loss.astype(predictions.dtype)
