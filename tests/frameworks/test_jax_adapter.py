"""`losswire.jax` beside optax: the same arguments, results and derivatives."""

import inspect
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

import losswire

jax = pytest.importorskip("jax", reason="make test-frameworks installs it")
optax = pytest.importorskip("optax", reason="make test-frameworks installs it")
jnp = jax.numpy

# These packages warn of their own affairs.
pytestmark = pytest.mark.filterwarnings("ignore")

ADAPTER = "losswire.jax"

RANDOM = np.random.default_rng(0)
LOGITS = jnp.asarray(RANDOM.normal(size=(6, 5, 7)) * 3, jnp.float32)
SOFT = jnp.asarray(RANDOM.dirichlet(np.ones(7), (6, 5)), jnp.float32)
IDS = jnp.asarray(RANDOM.integers(0, 7, (6, 5)))
BINARY = jnp.asarray(RANDOM.random((6, 5, 7)), jnp.float32)
WHERE = jnp.asarray(RANDOM.random((6, 5, 7)) < 0.7).at[0, 0].set(False)
# optax's answer for an id that is masked out is not a cross-entropy.
LABELLED = WHERE | (jnp.arange(7) == IDS[..., None]) & WHERE.any(-1, keepdims=True)

SOFTMAX, IDS_NAME = "softmax_cross_entropy", "softmax_cross_entropy_with_integer_labels"
SIGMOID, FOCAL = "sigmoid_binary_cross_entropy", "sigmoid_focal_loss"
KL, LOG_KL = "kl_divergence", "kl_divergence_with_log_targets"
GENERALIZED, CONVEX = "generalized_kl_divergence", "convex_kl_divergence"
DIVERGENCES = [KL, LOG_KL, GENERALIZED, CONVEX]
NAMES = [SOFTMAX, IDS_NAME, SIGMOID, FOCAL, "safe_softmax_cross_entropy", *DIVERGENCES]
LOG_P = jax.nn.log_softmax(LOGITS)

CASES = {
    "distributions": (SOFTMAX, LOGITS, SOFT, {}),
    "distributions along axis 1": (SOFTMAX, LOGITS, BINARY, {"axis": 1}),
    "distributions along two axes": (SOFTMAX, LOGITS, BINARY, {"axis": (2, 0)}),
    "distributions along all axes": (SOFTMAX, LOGITS, BINARY, {"axis": None}),
    "one distribution": (SOFTMAX, LOGITS, SOFT[0, 0], {}),
    "logits to broadcast": (SOFTMAX, LOGITS[:1], SOFT, {}),
    "integers, one-hot": (SOFTMAX, LOGITS, jnp.eye(7, dtype=jnp.int32)[IDS], {}),
    "masked distributions": (SOFTMAX, LOGITS, SOFT, {"where": WHERE}),
    "masked examples": (SOFTMAX, LOGITS, SOFT, {"where": WHERE[..., 3]}),
    "safe": ("safe_softmax_cross_entropy", LOGITS, SOFT, {}),
    "ids": (IDS_NAME, LOGITS, IDS, {}),
    "ids along axis 1": (IDS_NAME, LOGITS, IDS[:, 0, None].repeat(7, 1) % 5, {"axis": 1}),
    "ids along two axes": (IDS_NAME, LOGITS, IDS[:, 0] * 5, {"axis": (1, -1)}),
    "ids along two axes, in another order": (IDS_NAME, LOGITS, IDS[:, 0] * 5, {"axis": (2, 1)}),
    "masked ids": (IDS_NAME, LOGITS, IDS, {"where": LABELLED}),
    "small ids": (IDS_NAME, LOGITS, IDS.astype(jnp.uint8), {}),
    "ids beyond the classes": (IDS_NAME, LOGITS, IDS + 3, {}),
    "one example": (IDS_NAME, LOGITS[0, 0], IDS[0, 0], {}),
    "no examples": (IDS_NAME, LOGITS[:0], IDS[:0], {}),
    "binary": (SIGMOID, LOGITS, BINARY, {}),
    "binary, to broadcast": (SIGMOID, LOGITS[0, 0], BINARY, {}),
    "binary, booleans": (SIGMOID, LOGITS, BINARY > 0.5, {}),
    "binary, a scalar": (SIGMOID, LOGITS[0, 0, 0], BINARY[0, 0, 0], {}),
    "focal": (FOCAL, LOGITS, BINARY, {}),
    "focal with options": (FOCAL, LOGITS, BINARY, {"alpha": 0.25, "gamma": 1.5}),
    "divergence": (KL, LOG_P, SOFT, {}),
    "divergence, not normalized": (KL, LOGITS, BINARY, {}),
    "divergence along two axes": (KL, LOGITS, BINARY, {"axis": (0, 2)}),
    "divergence, one target": (KL, LOG_P, SOFT[0, 0], {}),
    "divergence, some classes": (KL, LOG_P, SOFT.at[..., 2].set(0), {}),
    "divergence, masked": (KL, LOG_P, SOFT, {"where": WHERE}),
    "divergence, logarithms": (LOG_KL, LOG_P, jnp.log(SOFT), {}),
    "divergence, small logarithms": (LOG_KL, LOG_P, LOG_P * 30, {}),
    "divergence, generalized": (GENERALIZED, LOGITS * 0.3, BINARY, {"where": WHERE}),
    "divergence, convex": (CONVEX, LOGITS * 0.3, BINARY, {"axis": 1}),
}


def derivative(function, logits, labels, options):
    """Losses, and the gradient of a sum in which no two losses count the same."""
    losses = function(logits, labels, **options)

    def weighted(logits):
        return (function(logits, labels, **options) * weights).sum()

    weights = jnp.linspace(0.5, 2, max(1, losses.size))[: losses.size].reshape(losses.shape)
    return losses, jax.grad(weighted)(logits)


def assert_same(actual, expected, dtype=jnp.float32):
    """Same shapes and dtypes, and equal to 32 roundings of the largest number."""
    for one, other in zip(actual, expected, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        wide = np.asarray(other, np.float64)
        size = max(1.0, np.abs(np.nan_to_num(wide)).max(initial=0))
        bound = 16 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(np.asarray(one, np.float64), wide, rtol=bound, atol=bound * size)


@pytest.mark.parametrize("case", CASES)
def test_as_optax(ours, case):
    """Losses and gradients, plain and under jit."""
    name, *arguments = CASES[case]
    expected = derivative(getattr(optax.losses, name), *arguments)
    if case == "ids beyond the classes":
        # optax's gradient forgets the id there; here loss and gradient are NaN together.
        bad = (arguments[1] >= 7)[..., None]
        expected = (expected[0], jnp.where(bad, jnp.nan, expected[1]))
    function = getattr(ours, name)
    assert_same(derivative(function, *arguments), expected)
    logits, labels, options = arguments
    compiled = jax.jit(lambda z, y: derivative(function, z, y, options))
    assert_same(compiled(logits, labels), expected)


@pytest.mark.parametrize("name", NAMES)
def test_signatures(ours, name):
    """optax's names in optax's order with optax's defaults, and `client`."""
    theirs = inspect.signature(getattr(optax.losses, name)).parameters
    mine = dict(inspect.signature(getattr(ours, name)).parameters)
    assert mine.pop("client").kind is inspect.Parameter.KEYWORD_ONLY
    assert [(p.name, p.kind, p.default) for p in mine.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_dtypes(ours, dtype):
    """Losses have optax's dtypes, gradients the logits'."""
    for name, labels in ((SOFTMAX, SOFT.astype(dtype)), (SOFTMAX, SOFT), (IDS_NAME, IDS)):
        arguments = (LOGITS.astype(dtype), labels, {})
        expected = derivative(getattr(optax, name), *arguments)
        assert_same(derivative(getattr(ours, name), *arguments), expected, dtype)


@pytest.mark.parametrize("case", ["distributions", "ids", "binary", "divergence"])
def test_vmap(ours, case):
    """Mapped over logits alone, labels alone, both, and twice; with gradients and forward mode."""
    name, logits, labels, _ = CASES[case]
    mine, theirs = getattr(ours, name), getattr(optax.losses, name)
    for axes, args in (
        ((0, None), (logits, labels[0])),
        ((None, 0), (logits[0], labels)),
        ((1, 1), (logits, labels)),
    ):
        for wrap in (
            lambda f: f,
            lambda f: jax.grad(lambda z, y: f(z, y).sum()),
            lambda f: lambda z, y: jax.jvp(lambda z: f(z, y), (z,), (z * 0.1,))[1],
            jax.vmap,
        ):
            expected = jax.vmap(wrap(theirs), axes)(*args)
            assert_same([jax.vmap(wrap(mine), axes)(*args)], [expected])
            assert_same([jax.jit(jax.vmap(wrap(mine), axes))(*args)], [expected])


@pytest.mark.parametrize("name", [SOFTMAX, SIGMOID, *DIVERGENCES])
def test_gradient_to_labels(ours, name):
    """To distributions, to their logarithms and to binary labels, broadcast ones too."""
    for labels in (SOFT, SOFT[0, 0]):
        expected = jax.grad(lambda y: getattr(optax.losses, name)(LOGITS, y).sum())(labels)
        assert_same([jax.grad(lambda y: getattr(ours, name)(LOGITS, y).sum())(labels)], [expected])


GRADS = """
import jax, jax.numpy as jnp, numpy as np
from jax.test_util import check_grads
import losswire.jax as ours
random = np.random.default_rng(0)
z, y = jnp.asarray(random.normal(size=(3, 4))), jnp.asarray(random.dirichlet(np.ones(4), 3))
assert z.dtype == jnp.float64
ids = jnp.asarray([0, 3, 1])
modes = {"order": 1, "modes": ["fwd", "rev"]}
for wrap in (lambda f: f, jax.jit):
    check_grads(wrap(ours.softmax_cross_entropy), (z, y), **modes)
    check_grads(wrap(lambda z: ours.softmax_cross_entropy(z, y, axis=0)), (z,), **modes)
    check_grads(wrap(ours.sigmoid_binary_cross_entropy), (z, y), **modes)
    check_grads(wrap(lambda z: ours.sigmoid_focal_loss(z, y, alpha=0.3)), (z,), **modes)
    check_grads(
        wrap(lambda z: ours.softmax_cross_entropy_with_integer_labels(z, ids)), (z,), **modes
    )
print("checked", ours.softmax_cross_entropy(z, y).dtype)
"""


def test_check_grads(server):
    """Derivatives agree with finite differences in float64, forward and reverse."""
    environment = os.environ | {"LOSSWIRE_TARGET": server.target, "JAX_ENABLE_X64": "1"}
    command = [sys.executable, "-W", "ignore", "-c", GRADS]
    ran = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.stdout == "checked float64\n", ran.stderr


class Spy(losswire.Client):
    """Notes which gradients are asked for, and what the labels are."""

    def __init__(self, target):
        super().__init__(target)
        self.asked = []

    def softmax_cross_entropy(self, logits, labels, **options):
        self.asked.append((options["gradients"], logits.shape, labels.dtype.kind))
        return super().softmax_cross_entropy(logits, labels, **options)


def test_one_call_with_the_gradients_that_are_wanted(server):
    """Ids stay integers, a mapped batch is one call, and gradients come only where needed."""
    import losswire.jax  # noqa: PLC0415 -- only where JAX is

    ids_loss, soft_loss = (getattr(losswire.jax, name) for name in (IDS_NAME, SOFTMAX))
    with Spy(server.target) as spy:
        ids_loss(LOGITS, IDS, client=spy)
        jax.vmap(lambda z, y: ids_loss(z, y, client=spy))(LOGITS, IDS)
        jax.grad(lambda z: ids_loss(z, IDS, client=spy).sum())(LOGITS)
        jax.grad(lambda z: soft_loss(z, SOFT, client=spy).sum())(LOGITS)
        jax.grad(lambda y: soft_loss(LOGITS, y, client=spy).sum())(SOFT)
    shape = LOGITS.shape
    assert spy.asked == [
        ((), shape, "i"),
        ((), shape, "i"),
        (("logits",), shape, "i"),
        (("logits",), shape, "f"),
        (("labels",), shape, "f"),
    ]


def test_large_arrays_do_not_hang(ours):
    """JAX's threads do not wait for each other inside a callback."""
    logits = jnp.asarray(RANDOM.normal(size=(2048, 1000)), jnp.float32)
    ids = jnp.arange(2048) % 1000

    def loss(module, z):
        return module.softmax_cross_entropy_with_integer_labels(z * 2, ids).mean()

    actual = jax.jit(jax.value_and_grad(lambda z: loss(ours, z)))(logits)
    expected = jax.jit(jax.value_and_grad(lambda z: loss(optax, z)))(logits)
    assert_same(actual, expected)


def test_what_optax_gives_no_number_for(ours):
    """A class that is masked by -inf adds nothing; a negative id gives NaN and does not wrap."""
    logits, labels = LOGITS.at[..., 2].set(-jnp.inf), SOFT.at[..., 2].set(0)
    expected = optax.losses.safe_softmax_cross_entropy(logits, labels)
    assert_same([ours.softmax_cross_entropy(logits, labels)], [expected])
    assert jnp.isnan(ours.softmax_cross_entropy_with_integer_labels(LOGITS, IDS * 0 - 1)).all()


def test_second_derivatives_are_refused(ours):
    """By name, and not by a wrong number."""
    with pytest.raises(NotImplementedError, match="no second derivatives"):
        jax.hessian(lambda z: ours.softmax_cross_entropy(z, SOFT).sum())(LOGITS)


def test_focal_has_no_gradient_to_labels(ours):
    """The server has none."""
    with pytest.raises(NotImplementedError, match="focal has no gradient to the labels"):
        jax.grad(lambda y: ours.sigmoid_focal_loss(LOGITS, y).sum())(BINARY)


@pytest.mark.parametrize(
    ("name", "logits", "labels", "options"),
    [
        (SOFTMAX, IDS, SOFT, {}),
        (SOFTMAX, LOGITS, SOFT[:4], {}),
        (SOFTMAX, LOGITS, SOFT, {"axis": 3}),
        (IDS_NAME, LOGITS, SOFT, {}),
        (IDS_NAME, LOGITS, IDS[:4], {}),
        (IDS_NAME, LOGITS, IDS, {"axis": None}),
        (SIGMOID, IDS, BINARY, {}),
        (SIGMOID, LOGITS, BINARY[:4], {}),
        (SIGMOID, LOGITS, BINARY, {"client": "localhost:50051"}),
        (KL, LOG_P, IDS, {}),
        (KL, IDS, SOFT, {}),
        (LOG_KL, LOG_P, IDS, {}),
        (GENERALIZED, LOG_P, SOFT[:4], {}),
    ],
)
def test_errors(ours, name, logits, labels, options):
    """Mistakes are InvalidInput, a ValueError, when the function is traced."""
    with pytest.raises(losswire.InvalidInput, match=r": expected .*, received"):
        getattr(ours, name)(logits, labels, **options)
    with pytest.raises(losswire.InvalidInput):
        jax.eval_shape(lambda z, y: getattr(ours, name)(z, y, **options), logits, labels)


def test_a_server_that_is_away():
    """The client's own error, and inside jit JAX's with its words; no hang."""
    import losswire.jax  # noqa: PLC0415 -- only where JAX is

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{taken.getsockname()[1]}"
        with losswire.Client(target, timeout=20) as client:

            def loss(logits):
                return losswire.jax.softmax_cross_entropy(logits, SOFT, client=client).sum()

            for function in (loss, jax.grad(loss)):
                with pytest.raises(losswire.ServerUnavailable, match=target):
                    function(LOGITS)
                with pytest.raises(jax.errors.JaxRuntimeError, match="ServerUnavailable"):
                    jax.block_until_ready(jax.jit(function)(LOGITS))


def test_only_who_asks_for_it_loads_it():
    """The client alone does not load JAX."""
    script = "import losswire, sys; assert 'jax' not in sys.modules; import losswire.jax"
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=60)
