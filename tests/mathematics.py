"""Every loss of one example in 50 digits, from its definition, and its gradient by differences.

Nothing here is shared with the engine: definitions as SEMANTICS writes them, no reordering against
rounding, since 50 digits leave room for any cancellation; and derivatives as difference quotients,
so that no analytic gradient is checked against itself.
"""

from mpmath import mp

mp.dps = 50


def numbers(array):
    """The exact values of floats."""
    return [mp.mpf(float(each)) for each in array]


def softmax(z):
    top = max(z)
    exp = [mp.exp(each - top) for each in z]
    return [each / mp.fsum(exp) for each in exp]


def log_softmax(z):
    return [mp.log(each) for each in softmax(z)]


def one_hot(label, classes):
    return [mp.mpf(c == label) for c in range(classes)]


def softmax_cross_entropy(z, y, *, weights=None, a=0, k=0, softcap=None, temperature=1):
    """q = y(1-a) + a/C, L = Σ w q (lse - z) + k lse², after softcap and temperature.

    For ids, w and smoothing enter as L = (1-a) w_y (lse - z_y) + a/C Σ w_c (lse - z_c), which is
    the same sum.
    """
    a, k, temperature = mp.mpf(a), mp.mpf(k), mp.mpf(temperature)
    if softcap is not None:
        softcap = mp.mpf(softcap)
        z = [softcap * mp.tanh(each / softcap) for each in z]
    z = [each / temperature for each in z]
    classes = len(z)
    weights = weights or [mp.mpf(1)] * classes
    lse = mp.log(mp.fsum(mp.exp(each) for each in z))
    q = [each * (1 - a) + a / classes for each in y]
    return mp.fsum(w * p * (lse - c) for w, p, c in zip(weights, q, z, strict=True)) + k * lse**2


def sigmoid_cross_entropy(z, y, *, a=0, pos_weight=1):
    """(1-y) z + (1 + (q-1) y) (log1p(exp(-|z|)) + max(-z, 0)), one element."""
    a = mp.mpf(a)
    y = y * (1 - a) + a / 2
    q = mp.mpf(pos_weight)
    return (1 - y) * z + (1 + (q - 1) * y) * (mp.log1p(mp.exp(-abs(z))) + max(-z, mp.mpf(0)))


def categorical_cross_entropy(p, y, *, epsilon=1e-7, a=0, clip_first=False):
    """p / Σp, clip, -Σ y log p; or clip first."""
    epsilon, a, classes = mp.mpf(epsilon), mp.mpf(a), len(p)

    def clip(each):
        return min(max(each, epsilon), 1 - epsilon)

    if clip_first:
        p = [clip(each) for each in p]
    total = mp.fsum(p)
    p = [each / total for each in p]
    if not clip_first:
        p = [clip(each) for each in p]
    q = [each * (1 - a) + a / classes for each in y]
    return -mp.fsum(w * mp.log(each) for w, each in zip(q, p, strict=True) if w)


def binary_cross_entropy(p, y, *, epsilon=1e-7, a=0):
    """clip, then -(y log p + (1-y) log(1-p)), one element."""
    epsilon, a = mp.mpf(epsilon), mp.mpf(a)
    y = y * (1 - a) + a / 2
    p = min(max(p, epsilon), 1 - epsilon)
    return -(y * mp.log(p) + (1 - y) * mp.log(1 - p))


def kl_divergence(z, target, *, target_is_logits=False, temperature=1, squared=False):
    """Σ y (log y - log p), both sides softened."""
    temperature = mp.mpf(temperature)
    if target_is_logits:
        y = softmax([each / temperature for each in target])
    elif temperature != 1:
        powers = [each ** (1 / temperature) if each else mp.mpf(0) for each in target]
        y = [each / mp.fsum(powers) for each in powers]
    else:
        y = target
    log_p = log_softmax([each / temperature for each in z])
    total = mp.fsum(w * (mp.log(w) - p) for w, p in zip(y, log_p, strict=True) if w)
    return total * (temperature**2 if squared else 1)


def focal_softmax(z, y, *, gamma=2, alpha=None):
    """Σ α y (1-p)^γ (-log p)."""
    alpha, gamma = mp.mpf(1 if alpha is None else alpha), mp.mpf(gamma)
    p = softmax(z)
    return alpha * mp.fsum(
        w * (1 - each) ** gamma * -mp.log(each) for w, each in zip(y, p, strict=True)
    )


def focal_sigmoid(z, y, *, gamma=2, alpha=None):
    """α_t (1-p_t)^γ CE, one element."""
    p = 1 / (1 + mp.exp(-z))
    p_t = y * p + (1 - y) * (1 - p)
    alpha_t = 1 if alpha is None else mp.mpf(alpha) * y + (1 - mp.mpf(alpha)) * (1 - y)
    return alpha_t * (1 - p_t) ** mp.mpf(gamma) * sigmoid_cross_entropy(z, y)


def gradient(function, z):
    """Central differences with a step of 1e-16: their error, of the order of 1e-32, is no issue."""
    step = mp.mpf(10) ** -16
    slopes = []
    for index in range(len(z)):
        up, down = list(z), list(z)
        up[index] += step
        down[index] -= step
        slopes.append((function(up) - function(down)) / (2 * step))
    return slopes


__all__ = [name for name in dir() if not name.startswith("_") and name not in {"mp", "mpmath"}]
