"""The one place that knows which framework Keras computes with.

Each has a module that hands a call to that framework's adapter; all else of `losswire.keras` is
written in `keras.ops`.

    keras.ops ─► _backend ─┬─► _on_tensorflow ─► losswire.tensorflow
                           ├─► _on_jax ────────► losswire.jax
                           └─► _on_torch ──────► losswire.torch
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import keras

from losswire._errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from losswire._client import Client
    from losswire_proto.options import ClipOrder, LabelGradient

_NAMES: Final = ("tensorflow", "jax", "torch")


class Backend(Protocol):
    """What is different between the frameworks that Keras computes with.

    Attributes:
        LABEL_GRADIENT: which gradient Keras has where distributions do not sum to 1.
        CLIP_ORDER_OF_IDS: how Keras clips probabilities that class ids are looked up in.
    """

    @property
    def LABEL_GRADIENT(self) -> LabelGradient: ...  # noqa: N802 -- a module's constant

    @property
    def CLIP_ORDER_OF_IDS(self) -> ClipOrder: ...  # noqa: N802 -- a module's constant

    def losses(
        self,
        method: str,
        options: Mapping[str, Any],
        axis: int | None,
        client: Client | None,
        predictions: Any,
        labels: Any,
    ) -> Any:
        """Losses of the examples in the predictions' dtype, with a gradient to these.

        Args:
            method: of the client.
            options: of the method.
            axis: the class axis; None for losses by element.
            client: whom to ask; None for the default one when the call is made.
            predictions: logits or probabilities, a tensor of the framework.
            labels: class ids without the class axis, or floats in the predictions' shape.
        """


def backend() -> Backend:
    """The backend that Keras was loaded with.

    Raises:
        InvalidInput: one that has no adapter.
    """
    name = keras.config.backend()
    if name not in _NAMES:
        raise InvalidInput(f"backend: expected Keras on one of {_NAMES}, received {name!r}")
    return cast("Backend", import_module(f"losswire.keras._on_{name}"))
