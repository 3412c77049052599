"""Keras' loss classes with the losses from a server; their reductions are Keras' own.

What is saved of them is what Keras saves: they are loaded with the default client.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from losswire.keras import _losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from losswire._client import Client


@keras.saving.register_keras_serializable("losswire")
class CategoricalCrossentropy(keras.losses.CategoricalCrossentropy):
    """`keras.losses.CategoricalCrossentropy` with the same arguments.

    Args:
        args: as Keras'.
        client: whom to ask; None is `losswire.default_client()`.
        kwargs: as Keras'.
    """

    def __init__(self, *args: Any, client: Client | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fn = partial(_losses.categorical_crossentropy, client=client)


@keras.saving.register_keras_serializable("losswire")
class SparseCategoricalCrossentropy(keras.losses.SparseCategoricalCrossentropy):
    """`keras.losses.SparseCategoricalCrossentropy` with the same arguments.

    Keras casts class ids to the loss's dtype, which corrupts those above 2^24, or 256 in bfloat16;
    here they stay integers.

    Args:
        args: as Keras'.
        client: whom to ask; None is `losswire.default_client()`.
        kwargs: as Keras'.
    """

    def __init__(self, *args: Any, client: Client | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fn: Callable[..., Any] = partial(
            _losses.sparse_categorical_crossentropy, client=client
        )

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The loss, reduced; the ids go past Keras' cast."""
        ids, compute = ops.convert_to_tensor(y_true), self.fn
        # Not by `copy`, which Keras makes a new object of that has lost its dtype.
        one = object.__new__(type(self))
        one.__dict__.update(self.__dict__)

        def with_ids(_: Any, predictions: Any, **options: Any) -> Any:
            return compute(ids, predictions, **options)

        one.fn = with_ids
        return super(SparseCategoricalCrossentropy, one).__call__(y_true, y_pred, sample_weight)


@keras.saving.register_keras_serializable("losswire")
class BinaryCrossentropy(keras.losses.BinaryCrossentropy):
    """`keras.losses.BinaryCrossentropy` with the same arguments.

    Args:
        args: as Keras'.
        client: whom to ask; None is `losswire.default_client()`.
        kwargs: as Keras'.
    """

    def __init__(self, *args: Any, client: Client | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fn = partial(_losses.binary_crossentropy, client=client)
