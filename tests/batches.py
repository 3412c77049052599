"""Batches of requests as validation makes them, of every kind that an engine tells apart."""

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from losswire_proto.losses import LossCall, SigmoidCrossEntropy, Softmax, SoftmaxCrossEntropy
from losswire_server.requests import LossRequest
from reference import DTYPES

EXTRAS = ("logsumexp", "argmax", "entropy")
KINDS = ("ids", "distribution", "broadcast", "elements", "none")


@dataclass(frozen=True)
class Common:
    """What the requests of a batch share."""

    kind: str
    dtype: np.dtype
    classes: int
    grad_logits: bool
    grad_labels: bool
    class_weight: np.ndarray | None

    @property
    def loss(self):
        if self.kind == "elements":
            return SigmoidCrossEntropy()
        if self.kind == "none":
            return Softmax()
        bad = "nan" if self.classes % 2 else "ignore"
        return SoftmaxCrossEntropy(extras=EXTRAS, out_of_range=bad)


@st.composite
def commons(draw):
    kind = draw(st.sampled_from(KINDS))
    classes = draw(st.integers(1, 9))
    weighs = kind in {"ids", "distribution"} and draw(st.booleans())
    return Common(
        kind,
        draw(st.sampled_from(DTYPES)),
        classes,
        draw(st.booleans()),
        kind in {"distribution", "broadcast"} and draw(st.booleans()),
        np.linspace(0, 2, classes, dtype=np.float32) if weighs else None,
    )


def request_of(common, random, examples, axis, reduction="sum", label_dtype=np.float32):
    """One request: `examples` with the class axis put in at `axis`."""
    shape = (*examples[:axis], common.classes, *examples[axis:])
    logits = (random.normal(size=shape) * 3).astype(common.dtype)
    labels, pos_weight, reading = None, None, common.kind
    if common.kind == "ids":
        labels = random.integers(0, common.classes + 1, examples)
    elif common.kind == "broadcast":
        reading = "distribution"
        thin = tuple(n if random.random() < 0.5 else 1 for n in examples)
        labels = random.random((*thin[:axis], common.classes, *thin[axis:])).astype(label_dtype)
    elif common.kind != "none":
        labels = random.random(shape).astype(label_dtype)
    if common.kind == "elements":
        pos_weight = random.random(shape[-1:])
    weight_shape = shape if common.kind == "elements" else examples
    is_weighted = common.kind != "none" and random.random() < 0.5
    return LossRequest(
        LossCall(
            common.loss,
            axis,
            "none" if common.kind == "none" else reduction,
            grad_logits=common.grad_logits,
            grad_labels=common.grad_labels,
        ),
        logits,
        axis,
        labels,
        reading,
        sample_weight=random.random(weight_shape) if is_weighted else None,
        class_weight=common.class_weight,
        pos_weight=pos_weight,
    )


@st.composite
def batches(draw):
    """Requests with one batch key."""
    common = draw(commons())
    made = []
    for _ in range(draw(st.integers(1, 5))):
        examples = tuple(draw(st.lists(st.integers(0, 6), min_size=1, max_size=3)))
        made.append(
            request_of(
                common,
                np.random.default_rng(draw(st.integers(0, 1 << 20))),
                examples,
                draw(st.integers(0, len(examples))),
                draw(st.sampled_from(["none", "sum", "mean"])),
                draw(st.sampled_from(DTYPES)),
            )
        )
    return [each for each in made if each.batch_key == made[0].batch_key]


def placed(request, memory, position, *, in_place):
    """The same request with its logits and its largest result in `memory`; where it ends there."""
    size = request.logits.nbytes
    logits = _take(memory, position, request.logits)
    logits[...] = request.logits
    position += -(-size // 64) * 64
    name = "output" if request.reading == "none" else "grad_logits"
    if name not in request.result_specs:
        return replace(request, logits=logits, mapped_bytes=size), position
    target = logits
    if not in_place:
        target = _take(memory, position, request.logits)
        position += -(-size // 64) * 64
    placed_request = replace(
        request,
        logits=logits,
        mapped_bytes=size,
        destinations={name: target},
        is_in_place=in_place,
    )
    return placed_request, position


def _take(memory, position, like):
    return memory[position : position + like.nbytes].view(like.dtype).reshape(like.shape)


def bits(result):
    """All of a result, to be compared."""
    arrays = [result.loss, result.per_example, result.grad_logits, result.grad_labels]
    arrays += [result.output, *(result.extras[name] for name in sorted(result.extras))]
    return [None if a is None else (a.dtype.name, a.shape, a.tobytes()) for a in arrays]
