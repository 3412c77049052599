"""The functions as modules: PyTorch's own classes, with the loss from a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from losswire.torch._losses import binary_cross_entropy_with_logits, cross_entropy
from losswire.torch._routes import Route

if TYPE_CHECKING:
    from losswire._client import Client


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss` with the same arguments, computed by a server.

    Args:
        args: as PyTorch's.
        client: whom to ask; None is `losswire.default_client()`.
        kwargs: as PyTorch's.
    """

    def __init__(self, *args: Any, client: Client | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._route = Route(client)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:  # noqa: A002
        """The loss of `input` against `target`."""
        return cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            client=self._route,
        )


class BCEWithLogitsLoss(torch.nn.BCEWithLogitsLoss):
    """`torch.nn.BCEWithLogitsLoss` with the same arguments, computed by a server.

    Args:
        args: as PyTorch's.
        client: whom to ask; None is `losswire.default_client()`.
        kwargs: as PyTorch's.
    """

    def __init__(self, *args: Any, client: Client | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._route = Route(client)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:  # noqa: A002
        """The loss of `input` against `target`."""
        return binary_cross_entropy_with_logits(
            input,
            target,
            self.weight,
            reduction=self.reduction,
            pos_weight=self.pos_weight,
            client=self._route,
        )
