"""The losses as operations of TensorFlow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from losswire.tensorflow import _calls

if TYPE_CHECKING:
    from collections.abc import Mapping

    import tensorflow as tf

    from losswire._client import Client
    from losswire_proto.options import ClipOrder, LabelGradient

LABEL_GRADIENT: Final[LabelGradient] = "tf"
CLIP_ORDER_OF_IDS: Final[ClipOrder] = "clip_first"


def losses(
    method: str,
    options: Mapping[str, Any],
    axis: int | None,
    client: Client | None,
    predictions: tf.Tensor,
    labels: tf.Tensor,
) -> tf.Tensor:
    """See `losswire.keras._backend.Backend`."""
    return _calls.losses(_calls.Call(method, options, axis, client), predictions, labels)
