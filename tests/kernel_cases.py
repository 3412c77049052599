"""What kernels for the GPU are tried with, and how near the exact numbers their results must be.

For the kernels as they run on the processor, and for those on a GPU alike.
"""

from dataclasses import replace

import ml_dtypes
import numpy as np

from emulation.kernels import HOPPER, TURING, largest_difference
from losswire_proto.losses import (
    BinaryCrossEntropy,
    CategoricalCrossEntropy,
    Focal,
    KlDivergence,
    LogSoftmax,
    LossCall,
    SigmoidCrossEntropy,
    Softmax,
    SoftmaxCrossEntropy,
)
from losswire_server.requests import UNKNOWN, LossRequest
from reference import loss_and_gradient

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = (np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64))
EVERYTHING = SoftmaxCrossEntropy(
    label_smoothing=0.1,
    z_loss=0.01,
    softcap=5.0,
    temperature=2.0,
    extras=("logsumexp", "argmax", "entropy"),
)
PLAIN = SoftmaxCrossEntropy()

ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
"""Of one operation, relative."""

STEPS = 64
"""Roundings that a result may be off by, relative to the larger of it and 1: a thread adds up to 64
terms one after another, and formulas have some steps of their own."""


def request_of(loss, shape, dtype="float32", axis=-1, labels="ids", seed=0, **more):
    """A request with random contents; `labels` is a reading, or the dtype of distributions."""
    random = np.random.default_rng(seed)
    axis %= len(shape)
    classes, examples = shape[axis], shape[:axis] + shape[axis + 1 :]
    logits = random.standard_normal(shape) * 3
    if "probabilities" in loss.input_name:
        logits = np.abs(logits) + 1e-3
        logits /= logits.sum(axis, keepdims=True)
    dtype = np.dtype(dtype)
    reading, given = labels, None
    if labels == "ids":
        given = random.integers(0, classes, examples)
    elif labels == "elements":
        given = random.random(shape).astype(dtype)
    elif labels != "none":
        reading = "distribution"
        given = random.random(shape)
        given = (given / given.sum(axis, keepdims=True)).astype(
            dtype if labels == "distribution" else labels
        )
    options = {name: more.pop(name) for name in ("reduction", "grad_labels") if name in more}
    call = LossCall(loss, axis=axis, grad_logits=labels != "none", **options)
    if more.pop("has_class_weight", False):
        more["class_weight"] = random.random(classes).astype(np.float32)
    return LossRequest(call, logits.astype(dtype), axis, given, reading, **more)


def exact_results(request, engine):
    """What the NumPy engine computes from the same logits in float64."""
    exact = replace(request, logits=request.logits.astype(np.float64), form=UNKNOWN)
    (expected,) = engine.compute([exact])
    return expected


def assert_near(found, request, expected):
    """Results, by name, are the exact ones but for rounding."""
    own = ROUNDING[request.logits.dtype.name]
    real = max(2.0**-53, min(own, 2.0**-24))
    # A sum of labels far from 1 is what gradients are small beside.
    mass = 1.0
    if request.labels is not None and request.reading == "distribution":
        mass = max(1.0, float(np.nansum(np.abs(request.labels.astype(float)), request.axis).max()))
    allowed = {
        "grad_logits": (STEPS * real + 2 * own) * mass,
        "output": STEPS * real + 2 * own,
    }
    if request.labels is not None and request.reading == "distribution":
        allowed["grad_labels"] = STEPS * real + 2 * ROUNDING[request.labels.dtype.name]
    wanted = {name: getattr(expected, name) for name in ("per_example", "grad_logits", "output")}
    wanted |= dict(expected.extras)
    if not request.is_broadcast:
        wanted["grad_labels"] = expected.grad_labels
    for name, values in wanted.items():
        if values is not None:
            most = allowed.get(name, STEPS * real)
            difference = largest_difference(found[name].reshape(values.shape), values)
            assert difference <= most, f"{name}: {difference:.1e} apart, {most:.1e} allowed"


ROW_CASES = {
    "plain": (PLAIN, {}),
    "everything": (EVERYTHING, {"has_class_weight": True}),
    "distributions": (PLAIN, {"labels": "distribution"}),
    "everything, distributions": (
        EVERYTHING,
        {"labels": "distribution", "has_class_weight": True, "grad_labels": True},
    ),
    "TensorFlow's gradient": (
        SoftmaxCrossEntropy(label_gradient="tf"),
        {"labels": "bfloat16", "grad_labels": True},
    ),
    "probabilities": (CategoricalCrossEntropy(label_smoothing=0.1), {}),
    "probabilities, clipped first": (
        CategoricalCrossEntropy(clip_order="clip_first", epsilon=0.01),
        {"labels": "distribution"},
    ),
    "divergence": (KlDivergence(), {"labels": "distribution"}),
    "divergence of teacher logits": (
        KlDivergence(target_is_logits=True, temperature=3.0, scale_by_temperature_squared=True),
        {"labels": "distribution"},
    ),
    "focal": (Focal(alpha=0.25), {}),
    "focal, distributions": (Focal(gamma=1.5), {"labels": "distribution"}),
    "softmax": (Softmax(), {"labels": "none"}),
    "log softmax": (LogSoftmax(), {"labels": "none"}),
}
"""Every loss on rows, with its options off and on."""

ELEMENT_CASES = {
    "sigmoid": SigmoidCrossEntropy(),
    "sigmoid, smoothed": SigmoidCrossEntropy(label_smoothing=0.2),
    "binary": BinaryCrossEntropy(),
    "binary, no epsilon": BinaryCrossEntropy(epsilon=0.0, label_smoothing=0.1),
    "focal": Focal(form="sigmoid"),
    "focal, alpha": Focal(form="sigmoid", gamma=0.5, alpha=0.3),
}

TILINGS = {
    "a thread": (7, HOPPER),
    "lanes": (70, HOPPER),
    "a warp": (601, HOPPER),
    "a block": (5_000, HOPPER),
    "a cluster": (70_000, HOPPER),
    "two reads": (70_000, TURING),
}
"""Classes, and a device on which so many are computed by a thread, a warp … per row."""


def adversarial(classes, dtype):
    """Rows of NaN, infinities, masks, offsets and extremes among good ones."""
    huge = 60_000 if dtype == np.float16 else 1e30
    logits = np.random.default_rng(1).standard_normal((10, classes)) * 3
    logits[1] = -np.inf
    logits[2], logits[2, 1] = -np.inf, 1
    logits[3, 0], logits[4, 0] = np.nan, np.inf
    logits[5] += 1e4
    logits[6], logits[6, 1] = -huge, huge
    logits[7, classes // 2 :] = -np.inf
    logits[8] = 0
    logits[9, 0] = 40  # all but certain
    return logits.astype(dtype)


def padded(rows, classes, labels):
    """Two likely classes and many equally unlikely ones, as those that pad a vocabulary are."""
    random = np.random.default_rng(classes)
    logits = np.repeat(random.uniform(-17, 0, (rows, 1)), classes, axis=1)
    logits[:, 3], logits[:, 9] = 1, random.uniform(-8, 1, rows)
    logits = logits.astype(np.float32)
    is_ids = labels == "ids"
    given = np.full(rows, 3) if is_ids else np.full(logits.shape, 1 / classes, np.float32)
    return replace(request_of(PLAIN, logits.shape, labels=labels), logits=logits, labels=given)


def assert_digits_of_padded(request, per_example, gradient):
    """Losses to 4 units in the last place, 2^-21, with what roundings of the logits do to them.

    Gradients of ids to twice as many, of each row's largest.
    """
    logits, labels = request.logits, request.labels
    is_ids = request.reading == "ids"
    if is_ids:
        labels = np.broadcast_to(np.arange(logits.shape[1]) == labels[0], logits.shape)
    loss, slopes = loss_and_gradient(logits, labels.astype(np.float64))
    scale = loss + np.abs(slopes * logits).sum(axis=1)
    assert (np.abs(per_example - loss) / scale).max() < 2.0**-21
    if is_ids:
        apart = np.abs(gradient - slopes).max(axis=1)
        assert (apart / np.abs(slopes).max(axis=1)).max() < 2.0**-20


def _nearly_sure():
    gaps = np.array([90, 95, 100], np.float32)
    logits = np.zeros((3, 5), np.float32)
    logits[:, 2] = gaps
    request = replace(request_of(PLAIN, logits.shape), logits=logits, labels=np.full(3, 2))
    return request, 4 * np.exp(-gaps.astype(np.float64))


def _faint_probability():
    given = np.full((1, 1), 1e-40, np.float32)
    request = request_of(BinaryCrossEntropy(epsilon=0.0), given.shape, labels="elements")
    return replace(request, logits=given, labels=np.ones_like(given)), -np.log(given.astype(float))


FAINT = {"a loss": _nearly_sure, "a probability": _faint_probability}
"""Requests in which float32 has numbers below its least normal one, each with the exact losses."""


def assert_faint(per_example, exact):
    """Right but for the steps of 2^-149 that such numbers come in."""
    found = per_example.reshape(exact.shape)
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=2.0**-148)
