"""Softmax cross-entropy as a kernel that knows no option: what options that are off may cost.

Class ids, float32, rows of many classes whose largest logit is between 0 and 64; the same passes
over the tile as the engine's own kernel takes, with the same care for confident rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from losswire_server.engine.layout import row_sums
from losswire_server.engine.operands import RowResults

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array
    from losswire_server.engine.operands import Operands
    from losswire_server.rows import Int64s


def plain_loss(operands: Operands) -> RowResults:
    """Losses of a tile and their gradient."""
    z, ids, grad = operands.logits, cast("Int64s", operands.ids), cast("Array", operands.dense)
    first = np.arange(0, z.size, z.shape[1])
    peak = first + z.argmax(axis=1)
    flat, at_id = grad.reshape(-1), first + ids
    top = z.reshape(-1).take(peak).astype(np.float64)
    largest = np.exp(top).astype(np.float32).astype(np.float64)
    np.exp(z, out=grad)
    flat[peak] = 0
    tail = row_sums(grad) / largest
    flat[peak] = largest
    total = 1.0 + tail
    true = flat.take(at_id) / largest
    factor = operands.scale / (total * largest)
    np.multiply(grad, factor.astype(np.float32)[:, None], out=grad)
    flat[at_id] = (true - 1.0 - tail) / total * operands.scale
    return RowResults(np.log1p(tail) + (top - z.reshape(-1).take(at_id)))
