"""Random calls of every loss, for tests that make the same call in two ways."""

from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from losswire_proto import dtypes
from losswire_proto.losses import LOSSES

LAYOUTS = ("rows", "columns", "strided", "reversed", "big-endian")


@dataclass
class Call:
    """A method of a client and what it is called with."""

    method: str
    arguments: list
    options: dict = field(default_factory=dict)

    def on(self, client, **more):
        """Makes the call."""
        return getattr(client, self.method)(*self.arguments, **(self.options | more))


def laid_out(array, layout):
    """The same numbers, lying in memory in another way."""
    match layout:
        case "columns":
            return np.asfortranarray(array)
        case "strided":
            wide = np.zeros((*array.shape[:-1], array.shape[-1] * 2), array.dtype)
            wide[..., ::2] = array
            return wide[..., ::2]
        case "reversed":
            return array[::-1].copy()[::-1]
        case "big-endian" if array.dtype.kind in "iuf":
            return array.astype(array.dtype.newbyteorder(">"))
        case _:
            return array


@st.composite
def calls(draw, names=tuple(LOSSES)):
    """A call of one of the losses that is right in every respect."""
    name = draw(st.sampled_from(names))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rank = 3 if name == "sequence_loss" else draw(st.integers(1, 4))
    axis = 2 if name == "sequence_loss" else draw(st.integers(0, rank - 1))
    shape = [draw(st.sampled_from([0, 1, 2, 3, 5])) for _ in range(rank)]
    shape[axis] = draw(st.sampled_from([1, 2, 3, 7]))
    shape = tuple(shape)
    logits = random.normal(0, 3, shape)
    if name in {"categorical_cross_entropy", "binary_cross_entropy"}:
        logits = random.random(shape)
    logits = logits.astype(draw(st.sampled_from(dtypes.FLOATS)))
    call = Call(name, [laid_out(logits, draw(st.sampled_from(LAYOUTS)))])
    if name != "sequence_loss":
        call.options["axis"] = draw(st.sampled_from([axis, axis - rank]))
    if name not in {"softmax", "log_softmax"}:
        draw(_labelled(call, shape, axis, random))
    return call


@st.composite
def _labelled(draw, call, shape, axis, random):
    """Adds labels, weights and options to a call."""
    examples = shape[:axis] + shape[axis + 1 :]
    if call.method == "focal":
        call.options["form"] = draw(st.sampled_from(["softmax", "sigmoid"]))
    is_elementwise = call.method.startswith(("sigmoid", "binary"))
    if is_elementwise or call.options.get("form") == "sigmoid":
        reading, examples = "elements", shape
    elif call.method == "kl_divergence":
        reading = "distribution"
    elif call.method == "sequence_loss":
        reading = "ids"
    else:
        reading = draw(st.sampled_from(["ids", "distribution"]))
    layout, dtype = draw(st.sampled_from(LAYOUTS)), draw(st.sampled_from(dtypes.FLOATS))
    if reading == "ids":
        labels = draw(_ids(call, examples, shape[axis], random))
    elif reading == "elements":
        labels = random.random(shape).astype(dtype)
    else:
        labels = draw(_broadcast(shape, random)).astype(dtype)
    call.arguments.append(laid_out(labels, layout) if labels.ndim else labels)
    weight = draw(_broadcast(examples, random))
    if call.method == "sequence_loss":
        call.arguments.append(np.broadcast_to(weight, examples).astype(dtype))
        call.options["average_across_timesteps"] = draw(st.booleans())
        call.options["average_across_batch"] = draw(st.booleans())
        return
    if draw(st.booleans()):
        call.options["sample_weight"] = weight.astype(dtype)
    _, rule = draw(_reduced(call)), draw(st.booleans())
    if call.method == "sigmoid_cross_entropy" and rule:
        call.options["pos_weight"] = draw(_broadcast(shape, random)).astype(dtype)
    if call.method == "softmax_cross_entropy":
        draw(_own(call, reading, shape[axis], random))


@st.composite
def _broadcast(draw, shape, random):
    """Numbers in [0, 1) that broadcast to a shape: some lengths 1, or some dimensions less."""
    kept = [draw(st.sampled_from([length, length, 1])) for length in shape]
    return random.random(tuple(kept[draw(st.integers(0, len(kept))) :]))


@st.composite
def _ids(draw, call, examples, classes, random):
    ids = random.integers(0, classes, examples)
    has_ignored = call.method in {"softmax_cross_entropy", "categorical_cross_entropy", "focal"}
    if has_ignored and draw(st.booleans()):
        call.options["ignore_index"] = draw(st.sampled_from([0, -1, 100]))
        ids = np.where(random.random(examples) < 0.3, call.options["ignore_index"], ids)
    if has_ignored and call.method != "focal" and draw(st.booleans()):
        call.options["out_of_range"] = draw(st.sampled_from(["nan", "ignore"]))
        ids = np.where(random.random(examples) < 0.2, classes, ids)
    return np.asarray(ids).astype(draw(st.sampled_from([np.int8, np.int32, np.int64])))


@st.composite
def _reduced(draw, call):
    call.options["reduction"] = draw(st.sampled_from(["none", "sum", "mean"]))
    call.options["normalizer"] = draw(st.sampled_from(["valid", "weights", "size", 0, 2.5]))
    call.options["empty_mean"] = draw(st.sampled_from(["nan", "zero"]))
    call.options["gradients"] = draw(st.booleans())


@st.composite
def _own(draw, call, reading, classes, random):
    """Options of softmax cross-entropy."""
    options = call.options
    extras = st.lists(st.sampled_from(["logsumexp", "argmax", "entropy"]), unique=True)
    options["extras"] = draw(extras)
    options["label_smoothing"] = draw(st.sampled_from([0.0, 0.1]))
    options["z_loss"] = draw(st.sampled_from([0.0, 0.01]))
    options["softcap"] = draw(st.sampled_from([None, 5.0]))
    if draw(st.booleans()):
        options["class_weight"] = random.random(classes)
    elif reading == "distribution":
        options["label_gradient"] = draw(st.sampled_from(["exact", "tf"]))
    if reading == "distribution":
        wanted = [True, False, "logits", "labels", ("logits", "labels")]
        options["gradients"] = draw(st.sampled_from(wanted))
