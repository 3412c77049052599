"""Requests of every kind for properties: any loss, options, shape, axis, dtype, labels, weights."""

from dataclasses import dataclass, fields
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from losswire_proto.losses import LOSSES, LossCall

DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
PROBABILITIES = {"categorical_cross_entropy", "binary_cross_entropy"}
OPTIONS = {
    "softmax_cross_entropy": {
        "label_smoothing": [0.0, 0.1],
        "z_loss": [0.0, 0.01],
        "softcap": [None, 4.0],
        "temperature": [1.0, 1.5],
        "extras": [(), ("logsumexp", "argmax", "entropy")],
    },
    "sigmoid_cross_entropy": {"label_smoothing": [0.0, 0.1]},
    "categorical_cross_entropy": {
        "epsilon": [1e-7, 0.01, 0.0],
        "label_smoothing": [0.0, 0.1],
        "clip_order": ["normalize_first", "clip_first"],
    },
    "binary_cross_entropy": {"epsilon": [1e-7, 0.01, 0.0], "label_smoothing": [0.0, 0.1]},
    "kl_divergence": {
        "target_is_logits": [False, True],
        "temperature": [1.0, 2.0],
        "scale_by_temperature_squared": [False, True],
    },
    "focal": {"gamma": [0.0, 1.0, 2.5], "alpha": [None, 0.25], "form": ["softmax", "sigmoid"]},
    "softmax": {},
    "log_softmax": {},
    "sequence_loss": {
        "average_across_timesteps": [False, True],
        "average_across_batch": [False, True],
    },
}


@dataclass(frozen=True)
class Problem:
    """One request, as arrays."""

    call: LossCall
    logits: np.ndarray
    labels: np.ndarray | None
    weights: dict[str, np.ndarray]

    def ask(self, client, *arrays, **keywords) -> Any:
        """What a client's method for it returns, for these arrays instead of its own."""
        call, loss = self.call, self.call.loss
        given = arrays or (self.logits, self.labels)
        if self.labels is None:
            return getattr(client, loss.name)(given[0], axis=call.axis, **keywords)
        own = {each.name: getattr(loss, each.name) for each in fields(loss)}
        weights = {**self.weights, **keywords.pop("weights", {})}
        if loss.name == "sequence_loss":
            given = (*given, weights["sample_weight"])
        else:
            own |= {"axis": call.axis, "reduction": call.reduction, **weights}
        wanted = (call.grad_logits and "logits", call.grad_labels and "labels")
        own["gradients"] = [name for name in wanted if name]
        return getattr(client, loss.name)(*given, **own, **keywords)


def arrays_of(result):
    """All arrays of a result by name; None for those that are not there."""
    if isinstance(result, np.ndarray):
        return {"output": result}
    names = ("loss", "per_example", "grad_logits", "grad_labels")
    return {name: getattr(result, name) for name in names} | dict(result.extras)


def bits(result):
    """Everything about a result that can be compared."""
    return {
        name: None if array is None else (array.dtype, array.shape, array.tobytes())
        for name, array in arrays_of(result).items()
    }


@st.composite
def problems(draw, losses=tuple(LOSSES)):
    """A request that the server accepts, small, its values from a seed."""
    name = draw(st.sampled_from(losses))
    own = {key: draw(st.sampled_from(values)) for key, values in OPTIONS[name].items()}
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    rank = 3 if name == "sequence_loss" else draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, 6)) for _ in range(rank))
    axis = rank - 1 if name == "sequence_loss" else draw(st.integers(0, rank - 1))
    examples = shape[:axis] + shape[axis + 1 :]
    dtype = draw(st.sampled_from(DTYPES))
    logits = random.normal(size=shape) * 3
    if name in PROBABILITIES:
        logits = random.uniform(0.01, 0.99, size=shape)
    loss = LOSSES[name](**own)
    labels = _labels(draw, random, loss, shape, axis)
    weights = {}
    if name == "sequence_loss" or (labels is not None and draw(st.booleans())):
        where = shape if loss.is_elementwise else examples
        weights["sample_weight"] = random.random(where).astype(draw(st.sampled_from(DTYPES)))
    if "class_weight" in loss.weights and draw(st.booleans()):
        weights["class_weight"] = random.random(shape[axis])
    if "pos_weight" in loss.weights and draw(st.booleans()):
        weights["pos_weight"] = random.random(shape).astype(np.float32)
    is_soft = labels is not None and labels.dtype.kind not in "iu"
    call = LossCall(
        loss,
        axis=axis,
        reduction="none" if name == "sequence_loss" else draw(st.sampled_from(REDUCTIONS)),
        grad_logits=labels is not None and draw(st.sampled_from([True, True, False])),
        grad_labels=loss.has_label_gradient and is_soft and draw(st.booleans()),
    )
    if labels is None:
        call = LossCall(loss, axis=axis)
    return Problem(call, logits.astype(dtype), labels, weights)


REDUCTIONS = ["none", "sum", "mean"]


def _labels(draw, random, loss, shape, axis):
    """Labels as the loss takes them: ids, distributions that may broadcast, or elements."""
    reading = draw(st.sampled_from(loss.allowed_readings))
    if reading == "none":
        return None
    if reading == "ids":
        ids = random.integers(0, shape[axis], shape[:axis] + shape[axis + 1 :])
        return ids.astype(draw(st.sampled_from(["i1", "u2", "i4", "i8"])))
    own = shape
    if reading == "distribution" and draw(st.booleans()):
        own = tuple(n if draw(st.booleans()) else 1 for n in shape)[draw(st.integers(0, 1)) :]
    return random.random(own).astype(draw(st.sampled_from(DTYPES)))


def large(dtype, shape=(700, 500)):
    """Logits of a few hundred kilobytes, with ids and labels for them."""
    random = np.random.default_rng(7)
    logits = random.normal(size=shape).astype(dtype)
    soft = random.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(dtype)
    return logits, random.integers(0, shape[-1], shape[:-1]), soft
