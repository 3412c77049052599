"""The losses of answered requests in float64, from formulas, and what the contract asks of them.

In: a `ComputeRequest` as plain protobuf reads it, and the arrays that it was answered with. Out:
an assertion where these cannot be right. Written from SEMANTICS' formulas and the comments of the
contract, not from the server; rows of numbers that leave float32 little room are passed over.
"""

import math

import numpy as np

from losswire_proto import dtypes

LARGEST = 1e3
"""Of logits, labels and weights that are looked at: beyond, rounding is all there is."""

TOLERANCE = {np.dtype(np.float32): 2e-4, np.dtype(np.float64): 1e-8}
"""Of the sum of a loss's terms in absolute value: float32 has 6e-8 for each of a few operations,
which a temperature or a softcap may enlarge by what `_is_tame` lets through."""

WEIGHTS = ("sample_weight", "class_weight", "pos_weight")


def array_of(tensor):
    """A tensor's elements, which must be exactly as many as its shape says."""
    dtype = dtypes.dtype_of(tensor.dtype)
    assert dtype is not None, "answered without a dtype"
    assert len(tensor.data) == math.prod(tensor.shape) * dtype.itemsize, "answered other bytes"
    return np.frombuffer(tensor.data, dtype).reshape(tensor.shape)


def check(message, results):
    """Holds results, by the names of their fields, to the request they answer."""
    logits = array_of(message.logits)
    axis = message.options.axis if message.options.HasField("axis") else -1
    assert -logits.ndim <= axis < logits.ndim, "answered an axis that is none"
    axis %= logits.ndim
    assert logits.shape[axis] > 0, "answered without classes"
    name = message.options.WhichOneof("loss")
    options = getattr(message.options, name)
    for weight in WEIGHTS:
        if message.HasField(weight):
            values = array_of(getattr(message, weight)).astype(np.float64)
            assert np.isfinite(values).all(), f"answered with {weight} {values}"
            assert weight == "sample_weight" or (values >= 0).all(), f"answered with {weight} < 0"
    with np.errstate(all="ignore"):
        if name in {"softmax", "log_softmax"}:
            _check_transform(name, logits, axis, results["output"])
        else:
            _check_loss(message, name, options, logits, axis, results)


def _check_transform(name, logits, axis, output):
    z = _rows(logits, axis)
    expected = np.exp(_log_softmax(z)) if name == "softmax" else _log_softmax(z)
    tolerance = {2: 2e-2, 4: 1e-5, 8: 1e-10}[output.dtype.itemsize]
    tame = _are_tame(z)
    bound = tolerance * (1 + np.abs(expected))
    wrong = (np.abs(_rows(output, axis) - expected) > bound) & tame[:, None]
    assert not wrong.any(), f"{name}: {output} for {logits}"


def _check_loss(message, name, options, logits, axis, results):
    per_example = results["per_example"]
    dtype = dtypes.compute_dtype(logits.dtype)
    form = getattr(options, "form", 0)
    is_elementwise = name in {"sigmoid_cross_entropy", "binary_cross_entropy"} or form == 2
    shape = logits.shape if is_elementwise else logits.shape[:axis] + logits.shape[axis + 1 :]
    assert per_example.shape == shape, f"losses {per_example.shape} of examples {shape}"
    assert per_example.dtype == dtype
    labels = array_of(message.labels)
    for gradient, like in (("grad_logits", logits), ("grad_labels", labels)):
        assert (gradient in results) == getattr(message.options, gradient), gradient
        assert gradient not in results or results[gradient].shape == like.shape
        assert gradient not in results or results[gradient].dtype == like.dtype
    z = logits.reshape(-1, 1).astype(np.float64) if is_elementwise else _rows(logits, axis)
    class_weight = np.broadcast_to(
        1.0, z.shape[1:]
    )  # of no rows there may be any number of classes
    if message.HasField("class_weight"):
        class_weight = array_of(message.class_weight).astype(np.float64)
    ignored = np.zeros(len(z), bool)
    is_ids = labels.dtype.kind in "iu"
    if is_ids:
        y, ignored, invalid = _hot(labels, options, z.shape[1])
        assert not (invalid.any() and getattr(options, "out_of_range", 0) in {0, 1}), "a bad id"
        if getattr(options, "out_of_range", 0) == 3:
            ignored |= invalid
    else:
        y = np.broadcast_to(labels, logits.shape)
        y = y.reshape(-1, 1).astype(np.float64) if is_elementwise else _rows(y, axis)
        invalid = ignored
    weight = np.ones(len(z))
    if message.HasField("sample_weight"):
        weight = np.broadcast_to(array_of(message.sample_weight).astype(np.float64), shape)
        weight = weight.reshape(-1)
    pos_weight = np.ones(z.shape)
    if message.HasField("pos_weight"):
        pos_weight = np.broadcast_to(array_of(message.pos_weight).astype(np.float64), logits.shape)
        pos_weight = pos_weight.reshape(-1, 1)
    got = per_example.reshape(-1).astype(np.float64)
    assert (got[ignored] == 0).all(), f"an ignored example has a loss: {got}"
    assert np.isnan(got[invalid & ~ignored]).all(), f"a bad id has a loss: {got}"
    tame = _are_tame(z) & _are_tame(y) & _are_tame(pos_weight)
    if len(z):
        tame &= _are_tame(class_weight)
    tame &= (np.abs(weight) <= LARGEST) & ~ignored & ~invalid
    if tame.any() and _are_options_tame(options):
        loss, size = _LOSSES[name](z, y, options, class_weight, pos_weight)
        bound = TOLERANCE[dtype] * (1 + np.abs(weight)) * (1 + size)
        wrong = (np.abs(got - weight * loss) > bound) & tame & np.isfinite(loss * size)
        wrong |= tame & np.isfinite(loss * size) & ~np.isfinite(got)
        assert not wrong.any(), f"{name}: {got[wrong]} for {(weight * loss)[wrong]}"
    _check_reduction(message, name, results, weight, class_weight, y, ignored, got)


def _check_reduction(message, name, results, weight, class_weight, y, ignored, got):
    """The sum or mean of the losses that were answered."""
    reduction = message.options.reduction
    if name == "sequence_loss":
        return
    assert ("loss" in results) == (reduction in {2, 3}), "a reduced loss"
    if reduction not in {2, 3} or not np.isfinite(got).all() or (np.abs(got) > 1e30).any():
        return
    divisor = 1.0
    if reduction == 3:
        rule = message.options.normalizer_rule or 1
        divisors = {1: (~ignored).sum(), 3: len(got)}
        if message.options.WhichOneof("normalizer") == "normalizer_value":
            divisor = message.options.normalizer_value
        elif rule == 2:
            is_ids = array_of(message.labels).dtype.kind in "iu"
            own = (y * class_weight).sum(axis=1) if is_ids else np.ones(len(got))
            divisor = float((weight * own * ~ignored).sum())
            if abs(divisor) < 1e-3 * np.abs(weight * own).sum():
                return  # what cancels is not known to six digits
        else:
            divisor = float(divisors[rule])
    loss = float(results["loss"])
    if divisor == 0:
        assert loss == 0 if message.options.empty_mean == 2 else math.isnan(loss), loss
    elif 1e-6 < abs(divisor) < 1e6:
        bound = 1e-5 * (np.abs(got).sum() + 1e-30) / abs(divisor)
        assert abs(loss - got.sum() / divisor) <= bound, f"{loss} for {got.sum() / divisor}"


def _rows(array, axis):
    return np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis]).astype(np.float64)


def _hot(ids, options, classes):
    """Distributions of ids, the ids that are ignored, and those that are no class."""
    ids = ids.reshape(-1).astype(object)  # any integer compares with any other
    ignore = getattr(options, "ignore_index", 0)
    has_ignore = hasattr(options, "ignore_index") and options.HasField("ignore_index")
    ignored = np.asarray([has_ignore and each == ignore for each in ids], bool)
    invalid = np.asarray([not 0 <= each < classes for each in ids], bool) & ~ignored
    y = np.zeros((len(ids), classes))
    for row, each in enumerate(ids):
        if 0 <= each < classes:
            y[row, int(each)] = 1
    return y, ignored, invalid


def _are_tame(rows):
    return (np.isfinite(rows) & (np.abs(rows) <= LARGEST)).all(axis=-1)


def _are_options_tame(options):
    """Whether no option is so extreme that float32 would be at its end."""
    bounds = {"temperature": (1e-1, 1e3), "softcap": (1e-1, 1e6), "z_loss": (0, 10)}
    bounds |= {"gamma": (0, 10), "epsilon": (1e-7, 0.5)}
    for name, (least, most) in bounds.items():
        known = options.DESCRIPTOR.fields_by_name.get(name)
        is_set = known and (not known.has_presence or options.HasField(name))
        if is_set and not least <= getattr(options, name) <= most:
            return False
    return True


def _option(options, name, default):
    return getattr(options, name) if options.HasField(name) else default


def _log_softmax(z):
    shifted = z - z.max(axis=1, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _sum(terms):
    """The sum of each row where terms of no weight are nothing, and of its absolute values."""
    terms = np.where(np.isnan(terms), 0, terms)
    return terms.sum(axis=1), np.abs(terms).sum(axis=1)


def _softmax(z, y, options, class_weight, _pos_weight):
    """q = y(1-a) + a/C, L = Σ w q (lse - z) + k lse², after softcap and temperature."""
    if options.DESCRIPTOR.name == "SoftmaxCrossEntropyOptions":
        if options.HasField("softcap"):
            z = options.softcap * np.tanh(z / options.softcap)
        z = z / _option(options, "temperature", 1.0)
        a, k = options.label_smoothing, options.z_loss
    else:
        a = k = 0.0
    q = y * (1 - a) + a / z.shape[1]
    log_p = _log_softmax(z)
    loss, size = _sum(class_weight * q * -log_p)
    lse = (z - log_p).mean(axis=1)
    own = (np.abs(class_weight * q) * (1 + np.abs(z))).sum(axis=1)
    return loss + k * lse**2, size + own + k * lse**2


def _sigmoid(z, y, options, _class_weight, pos_weight):
    """(1-y) z + (1 + (q-1) y) (log1p(exp(-|z|)) + max(-z, 0))."""
    y = y * (1 - options.label_smoothing) + options.label_smoothing / 2
    tail = np.log1p(np.exp(-np.abs(z))) + np.maximum(-z, 0)
    first, second = (1 - y) * z, (1 + (pos_weight - 1) * y) * tail
    size = np.abs(first) + np.abs(tail) * (1 + np.abs(y) * (1 + pos_weight))
    return (first + second)[:, 0], size[:, 0]


def _categorical(p, y, options, _class_weight, _pos_weight):
    """p / Σp, clip to [ε, 1-ε], L = -Σ q log p; or clip first."""
    epsilon = _option(options, "epsilon", 1e-7)
    total = p.sum(axis=1, keepdims=True)
    if _option(options, "clip_order", 1) == 2:
        p = np.clip(p, epsilon, 1 - epsilon)
        p = p / p.sum(axis=1, keepdims=True)
    else:
        p = np.clip(p / total, epsilon, 1 - epsilon)
    q = y * (1 - options.label_smoothing) + options.label_smoothing / p.shape[1]
    loss, size = _sum(q * -np.log(p))
    # A sum that cancels, or a probability at the edge of float32, is known to no digit.
    is_known = (np.abs(total[:, 0]) > 1e-3) & (p > 1e-6).all(axis=1)
    return loss, np.where(is_known, size + np.abs(q).sum(axis=1), np.nan)


def _binary(p, y, options, _class_weight, _pos_weight):
    """clip to [ε, 1-ε], then -(y log p + (1-y) log(1-p))."""
    epsilon = _option(options, "epsilon", 1e-7)
    y = y * (1 - options.label_smoothing) + options.label_smoothing / 2
    p = np.clip(p, epsilon, 1 - epsilon)
    loss = -(y * np.log(p) + (1 - y) * np.log1p(-p))
    is_known = (p > 1e-3) & (p < 1 - 1e-3)
    size = np.abs(y * np.log(p)) + np.abs((1 - y) * np.log1p(-p)) + np.abs(y) + 1
    return loss[:, 0], np.where(is_known, size, np.nan)[:, 0]


def _divergence(z, y, options, _class_weight, _pos_weight):
    """Σ y (log y - log p), both sides softened."""
    temperature = _option(options, "temperature", 1.0)
    log_p = _log_softmax(z / temperature)
    is_known = np.ones(y.shape, bool) if options.target_is_logits else (y == 0) | (y > 1e-6)
    if options.target_is_logits:
        log_y = _log_softmax(y / temperature)
        y = np.exp(log_y)
    elif temperature != 1:
        y = y ** (1 / temperature)
        y = y / y.sum(axis=1, keepdims=True)
        log_y = np.log(y)
    else:
        log_y = np.log(y)
    loss, size = _sum(y * (log_y - log_p))
    factor = temperature**2 if options.scale_by_temperature_squared else 1
    is_known = is_known.all(axis=1)
    size = size + (np.abs(y) * (1 + np.abs(z) + np.abs(log_p))).sum(axis=1)
    return loss * factor, np.where(is_known, size * factor, np.nan)


def _focal(z, y, options, _class_weight, _pos_weight):
    """Σ α y (1-p)^γ (-log p), or α_t (1-p_t)^γ CE of each element."""
    gamma, alpha = _option(options, "gamma", 2.0), _option(options, "alpha", None)
    if options.form == 2:
        p = 1 / (1 + np.exp(-z))
        rest = np.clip(1 - (y * p + (1 - y) * (1 - p)), 0, None)
        entropy = np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0) - z * y
        factor = 1.0 if alpha is None else alpha * y + (1 - alpha) * (1 - y)
        is_known = (y >= 0) & (y <= 1) & (rest > 1e-3)
        loss = factor * rest**gamma * entropy
        return loss[:, 0], np.where(is_known, np.abs(loss) + np.abs(z), np.nan)[:, 0]
    log_p = _log_softmax(z)
    rest = -np.expm1(log_p)
    loss, size = _sum((1.0 if alpha is None else alpha) * y * rest**gamma * -log_p)
    is_known = ((y == 0) | (rest > 1e-3)).all(axis=1)
    return loss, np.where(is_known, size + (np.abs(y) * (1 + np.abs(z))).sum(axis=1), np.nan)


_LOSSES = {
    "softmax_cross_entropy": _softmax,
    "sequence_loss": _softmax,
    "sigmoid_cross_entropy": _sigmoid,
    "categorical_cross_entropy": _categorical,
    "binary_cross_entropy": _binary,
    "kl_divergence": _divergence,
    "focal": _focal,
}
