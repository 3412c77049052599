"""`losswire.torch` beside PyTorch: the same arguments, results, gradients and errors."""

import copy
import io
import itertools
import socket
import subprocess
import sys

import pytest

import losswire

torch = pytest.importorskip("torch", reason="make test-frameworks installs it")
functional = torch.nn.functional

# PyTorch warns of its own affairs.
pytestmark = pytest.mark.filterwarnings("ignore")

SHAPES = [(7,), (6, 7), (0, 7), (3, 7, 2), (2, 7, 3, 2)]
HALF_ULP = {torch.float16: 2**-11, torch.bfloat16: 2**-8, torch.float32: 2**-24}
HALF_ULP[torch.float64] = 2**-53


@pytest.fixture
def ours(client):
    """The adapter, which asks the tests' server."""
    import losswire.torch  # noqa: PLC0415 -- only where PyTorch is

    losswire.set_default_client(client)
    yield losswire.torch
    losswire.set_default_client(None)


def logits_of(shape, dtype=torch.float32, seed=0):
    """Random logits that require a gradient."""
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    return tensor.to(dtype).requires_grad_()


def ids_of(shape, ignored=None, seed=1):
    """Class ids for logits of a shape, every third of them ignored."""
    axis = 0 if len(shape) == 1 else 1
    examples = shape[:axis] + shape[axis + 1 :]
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(shape[axis], examples, generator=generator)
    if ignored is not None:
        ids.view(-1)[1::3] = ignored
    return ids


def soft_of(shape, dtype=torch.float32, seed=2):
    """A distribution for each example."""
    axis = 0 if len(shape) == 1 else 1
    return logits_of(shape, torch.float64, seed).detach().softmax(axis).to(dtype)


def outcome(function, *tensors, **options):
    """Value and gradients, for a gradient of the value that is not the same everywhere."""
    tensors = [tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in tensors]
    value = function(*tensors, **options)
    upstream = torch.linspace(0.5, 2, max(1, value.numel()), dtype=value.dtype)
    value.backward(upstream[: value.numel()].reshape(value.shape))
    return value.detach(), *(tensor.grad for tensor in tensors if tensor.requires_grad)


def assert_same(actual, expected, coarsest=torch.float64):
    """Same shapes and dtypes, and numbers within 16 roundings to theirs or the coarsest dtype."""
    for one, other in zip(actual, expected, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        rounding = max(HALF_ULP[one.dtype], HALF_ULP[coarsest])
        size = max(1.0, float(other.abs().nan_to_num().max())) if other.numel() else 1.0
        bounds = {"rtol": 16 * rounding, "atol": 16 * rounding * size}
        torch.testing.assert_close(one, other, equal_nan=True, **bounds)


REDUCTIONS = ["none", "sum", "mean"]
WEIGHTS = torch.linspace(0.25, 2, 7)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["ids", "distribution"])
def test_cross_entropy(ours, shape, kind):
    """Every option of cross_entropy with every other, in every rank."""
    target = ids_of(shape, ignored=-100 if len(shape) > 1 else None)
    if kind == "distribution":
        target = soft_of(shape).requires_grad_()
    for reduction, weight, smoothing in itertools.product(REDUCTIONS, [None, WEIGHTS], [0.0, 0.3]):
        options = {"weight": weight, "reduction": reduction, "label_smoothing": smoothing}
        arguments = (logits_of(shape), target)
        actual = outcome(ours.cross_entropy, *arguments, **options)
        assert_same(actual, outcome(functional.cross_entropy, *arguments, **options))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(ours, dtype):
    """Losses and gradients have PyTorch's dtypes; what autocast does is done too."""
    for target in (ids_of((6, 7)), soft_of((6, 7), dtype), soft_of((6, 7))):
        arguments = (logits_of((6, 7), dtype), target)
        # PyTorch rounds log-softmax to a half and multiplies then.
        expected = outcome(functional.cross_entropy, *arguments)
        assert_same(outcome(ours.cross_entropy, *arguments), expected, dtype)
        with torch.autocast("cpu", torch.bfloat16):
            expected = outcome(functional.cross_entropy, *arguments)
            assert_same(outcome(ours.cross_entropy, *arguments), expected, dtype)
    arguments = (logits_of((6, 7), dtype), soft_of((6, 7), dtype))
    expected = outcome(functional.binary_cross_entropy_with_logits, *arguments)
    assert_same(outcome(ours.binary_cross_entropy_with_logits, *arguments), expected)


def test_a_scaled_gradient_does_not_underflow(ours):
    """Under autocast a float16 gradient is scaled before it is rounded, as PyTorch's is."""
    logits, ids = logits_of((4096, 7), torch.float16), ids_of((4096, 7))

    def scaled(function):
        tensor = logits.detach().clone().requires_grad_()
        with torch.autocast("cpu", torch.float16):
            loss = function(tensor, ids)
        (loss * 2.0**14).backward()
        return tensor.grad

    actual, expected = scaled(ours.cross_entropy), scaled(functional.cross_entropy)
    # Each is rounded to float16 once, from float32; small ones differ by its smallest steps.
    torch.testing.assert_close(actual, expected, rtol=2**-9, atol=2**-20)


@pytest.mark.parametrize("shape", [(), (5,), (0, 5), (4, 5), (2, 3, 5)], ids=str)
def test_binary(ours, shape):
    """Every option of binary_cross_entropy_with_logits with every other, with both gradients."""
    width = shape[-1] if shape else 1
    weights = [None, torch.linspace(0.5, 3, width).reshape(shape[-1:])]
    target = torch.rand(shape, generator=torch.Generator().manual_seed(3)).requires_grad_()
    for reduction, weight, positive in itertools.product(REDUCTIONS, weights, weights):
        options = {"weight": weight, "reduction": reduction, "pos_weight": positive}
        arguments = (logits_of(shape), target)
        actual = outcome(ours.binary_cross_entropy_with_logits, *arguments, **options)
        expected = outcome(functional.binary_cross_entropy_with_logits, *arguments, **options)
        assert_same(actual, expected)


def test_edges(ours):
    """All ignored, another ignore_index, no examples, [1] for one example, small integers."""
    logits, ids = logits_of((6, 7)), ids_of((6, 7))
    cases = [
        ((logits, torch.full((6,), -100)), {}),
        ((logits, ids), {"ignore_index": int(ids[0])}),
        ((logits, ids), {"weight": torch.zeros(7)}),
        ((logits, ids), {"size_average": False}),
        ((logits, ids), {"reduce": False}),
        ((logits, ids), {"size_average": True, "reduce": True}),
        ((logits, ids.to(torch.uint8)), {}),
        ((logits_of((1, 1)), ids_of((1, 1))), {}),
    ]
    for arguments, options in cases:
        expected = outcome(functional.cross_entropy, *arguments, **options)
        assert_same(outcome(ours.cross_entropy, *arguments, **options), expected)
    assert ours.cross_entropy(logits, torch.full((6,), -100)).isnan()
    one = (logits_of((7,)).detach(), ids[:1])  # PyTorch's own backward refuses it
    assert_same([ours.cross_entropy(*one)], [functional.cross_entropy(*one)])


def test_strides(ours):
    """Transposed, expanded and sliced tensors are read as they are."""
    wide = logits_of((7, 12)).detach()
    for tensor in (wide.T[::2], wide[:, :7][:1].expand(6, 7), wide[1:, 3:10]):
        arguments = (
            tensor.clone(memory_format=torch.preserve_format).requires_grad_(),
            ids_of((6, 7)),
        )
        assert_same([ours.cross_entropy(*arguments)], [functional.cross_entropy(*arguments)])


class Spy(losswire.Client):
    """Notes which gradients are asked for, and the dtypes of logits."""

    def __init__(self, target):
        super().__init__(target)
        self.gradients, self.dtypes = [], []

    def softmax_cross_entropy(self, logits, labels, **options):
        self.gradients.append(options["gradients"])
        self.dtypes.append(logits.dtype.name)
        return super().softmax_cross_entropy(logits, labels, **options)

    def sigmoid_cross_entropy(self, logits, labels, **options):
        self.gradients.append(options["gradients"])
        return super().sigmoid_cross_entropy(logits, labels, **options)


@pytest.fixture
def spy(server):
    """A client that takes notes."""
    with Spy(server.target) as client:
        yield client


def test_one_call_with_the_gradients_that_are_wanted(ours, spy):
    """Forward and backward are one call; without need, no gradient is asked for."""
    logits, soft = logits_of((6, 7)), soft_of((6, 7))
    learnt = soft.clone().requires_grad_()
    ours.cross_entropy(logits, soft, client=spy).backward()
    ours.cross_entropy(logits, learnt, client=spy).backward()
    ours.cross_entropy(logits.detach(), learnt, client=spy).backward()
    ours.cross_entropy(logits.detach(), soft, client=spy)
    with torch.no_grad():
        ours.cross_entropy(logits, learnt, client=spy)
    with torch.inference_mode():
        ours.cross_entropy(logits, learnt, client=spy)
    both = ("logits", "labels")
    assert spy.gradients == [("logits",), both, ("labels",), (), (), ()]
    spy.gradients.clear()
    ours.binary_cross_entropy_with_logits(logits, soft, client=spy).backward()
    ours.binary_cross_entropy_with_logits(logits.detach(), learnt, client=spy).backward()
    assert spy.gradients == [True, False]


def test_bfloat16_travels_as_it_is(ours, spy):
    """No detour by float32, under autocast neither."""
    logits = logits_of((6, 7), torch.bfloat16)
    ours.cross_entropy(logits, ids_of((6, 7)), client=spy)
    with torch.autocast("cpu", torch.bfloat16):
        ours.cross_entropy(logits, ids_of((6, 7)), client=spy)
    assert spy.dtypes == ["bfloat16", "bfloat16"]


def test_gradcheck(ours):
    """Gradients agree with finite differences in float64."""
    logits, soft = logits_of((3, 4), torch.float64), soft_of((3, 4), torch.float64)
    soft.requires_grad_()
    ids, weight = ids_of((3, 4)), torch.linspace(0.5, 2, 4, dtype=torch.float64)
    for reduction in REDUCTIONS:
        options = {"reduction": reduction, "weight": weight, "label_smoothing": 0.1}
        assert torch.autograd.gradcheck(lambda z: ours.cross_entropy(z, ids, **options), logits)  # noqa: B023
        assert torch.autograd.gradcheck(
            lambda z, y: ours.cross_entropy(z, y, **options),  # noqa: B023
            (logits, soft),
        )
        assert torch.autograd.gradcheck(
            lambda z, y: ours.binary_cross_entropy_with_logits(
                z,
                y,
                weight,
                reduction=reduction,  # noqa: B023
                pos_weight=weight,
            ),
            (logits, soft),
        )


def test_operators(ours):
    """PyTorch's own checks of operators: schema, where gradients come from, fake results."""
    operators = torch.ops.losswire
    # The fourth compiles derivatives of all outputs, of gradients too.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    arguments = (logits_of((6, 7)), ids_of((6, 7)), None, -100, "none", 0.1, True, False, 0)
    torch.library.opcheck(operators.cross_entropy, arguments, test_utils=checks)
    soft = soft_of((2, 7, 3)).requires_grad_()
    arguments = (logits_of((2, 7, 3)), soft, WEIGHTS, -100, "mean", 0.1, True, True, 0)
    torch.library.opcheck(operators.cross_entropy, arguments, test_utils=checks)
    half = logits_of((6, 7), torch.bfloat16)
    arguments = (half, ids_of((6, 7)), None, -100, "none", 0.0, True, False, 0)
    torch.library.opcheck(operators.cross_entropy, arguments, test_utils=checks)
    arguments = (half[:2], soft_of((2, 7)), WEIGHTS, None, "mean", True, 0)
    torch.library.opcheck(operators.binary_cross_entropy_with_logits, arguments, test_utils=checks)


def test_second_derivatives_are_refused(ours):
    """Not taken for zero; a graph of the gradient may be made."""
    logits = logits_of((6, 7))
    for function, target in (
        (ours.cross_entropy, ids_of((6, 7))),
        (ours.binary_cross_entropy_with_logits, soft_of((6, 7))),
    ):
        (grad,) = torch.autograd.grad(function(logits, target), logits, create_graph=True)
        with pytest.raises(RuntimeError, match="second derivative"):
            grad.square().sum().backward()


def test_forward_mode_is_refused(ours):
    """Not taken for zero, neither by dual tensors nor by torch.func."""
    logits, ids = logits_of((6, 7)).detach(), ids_of((6, 7))
    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.jvp(lambda z: ours.cross_entropy(z, ids), (logits,), (logits,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(logits, logits)
        with pytest.raises(RuntimeError, match="no forward-mode derivative"):
            ours.binary_cross_entropy_with_logits(dual, soft_of((6, 7)))


def test_gradients_in_batches(ours):
    """Several gradients of the losses at once, and losses of mapped examples."""
    logits, ids = logits_of((6, 7)), ids_of((6, 7))
    losses = ours.cross_entropy(logits, ids, reduction="none")
    (grads,) = torch.autograd.grad(losses, logits, torch.eye(6), is_grads_batched=True)
    expected = torch.autograd.functional.jacobian(
        lambda z: functional.cross_entropy(z, ids, reduction="none"), logits
    )
    assert_same([grads], [expected])
    mapped = torch.vmap(ours.cross_entropy)(logits.detach(), ids)
    assert_same([mapped], [losses.detach()])


def test_the_graph_can_be_kept(ours):
    """A second backward through the same loss gives the same gradient again."""
    logits, ids = logits_of((6, 7)), ids_of((6, 7))
    loss = ours.cross_entropy(logits, ids)
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (second,) = torch.autograd.grad(3 * loss, logits)
    torch.testing.assert_close(second, 3 * first)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compiled(ours, client, backend):
    """Under torch.compile, in one graph, as without it; also with gradients, and without need."""
    torch.compiler.reset()
    weight = torch.linspace(-1, 1, 35).reshape(7, 5).requires_grad_()
    features, ids = logits_of((6, 5)).detach(), ids_of((6, 7))
    module = ours.CrossEntropyLoss(label_smoothing=0.1, client=client)

    def step(features, weight):
        logits = features @ weight.T
        loss = ours.cross_entropy(logits, ids) + module(logits, ids)
        return loss + ours.binary_cross_entropy_with_logits(logits, logits.detach().sigmoid())

    compiled = torch.compile(step, backend=backend, fullgraph=True)
    expected, expected_grad = outcome(step, features, weight)
    assert_same(outcome(compiled, features, weight), (expected, expected_grad))
    with torch.no_grad():
        assert_same([compiled(features, weight)], [expected])


def test_compiled_with_a_client_of_its_own(ours, client):
    """A client among the arguments interrupts the graph and works."""
    torch.compiler.reset()
    logits, ids = logits_of((6, 7)), ids_of((6, 7))
    compiled = torch.compile(
        lambda z: ours.cross_entropy(z * 2, ids, client=client), backend="aot_eager"
    )
    expected = outcome(lambda z: functional.cross_entropy(z * 2, ids), logits)
    assert_same(outcome(compiled, logits), expected)


def test_modules(ours, client):
    """They are PyTorch's classes with the same arguments, state and words."""
    logits, ids, soft = logits_of((6, 7)), ids_of((6, 7), ignored=3), soft_of((6, 7))
    pairs = [
        (torch.nn.CrossEntropyLoss, ours.CrossEntropyLoss, (WEIGHTS, None, 3), ids),
        (
            torch.nn.BCEWithLogitsLoss,
            ours.BCEWithLogitsLoss,
            (WEIGHTS, None, None, "sum", WEIGHTS),
            soft,
        ),
    ]
    for theirs, mine, arguments, target in pairs:
        expected, module = theirs(*arguments), mine(*arguments, client=client)
        assert isinstance(module, theirs)
        assert repr(module) == repr(expected)
        assert module.state_dict().keys() == expected.state_dict().keys()
        assert_same(outcome(module, logits, target), outcome(expected, logits, target))
        assert copy.deepcopy(module)._route.client is client
        saved = io.BytesIO()
        torch.save(module, saved)
        saved.seek(0)
        loaded = torch.load(saved, weights_only=False)
        assert loaded._route.client is None
        assert_same(outcome(loaded, logits, target), outcome(expected, logits, target))


Z, IDS, SOFT = logits_of((6, 7)), ids_of((6, 7)), soft_of((6, 7))
MISTAKES = {
    "a list": ((Z.tolist(), IDS), {}),
    "a list as target": ((Z, IDS.tolist()), {}),
    "no target": ((Z, None), {}),
    "a list as weight": ((Z, IDS), {"weight": [1.0] * 7}),
    "too few ids": ((Z, IDS[:2]), {}),
    "too many dimensions of ids": ((Z, IDS[:, None]), {}),
    "too few dimensions of ids": ((Z[..., None], IDS), {}),
    "ids of another size": ((logits_of((2, 3, 4)), torch.zeros(2, 5).long()), {}),
    "ids of another batch": ((logits_of((2, 3, 4)), torch.zeros(3, 4).long()), {}),
    "a scalar": ((Z[0, 0], IDS[0]), {}),
    "an id too large": ((Z, IDS + 7), {}),
    "a negative id": ((Z, IDS - 7), {}),
    "no classes": ((Z[:, :0], IDS), {}),
    "floats as ids": ((Z, IDS.float()), {}),
    "booleans as ids": ((Z, IDS > 1), {}),
    "integers as distributions": ((Z, SOFT.long()), {}),
    "distributions to broadcast": ((Z, SOFT[:1]), {}),
    "distributions ignored": ((Z, SOFT), {"ignore_index": 1}),
    "too much smoothing": ((Z, IDS), {"label_smoothing": 1.5}),
    "smoothing in words": ((Z, IDS), {"label_smoothing": "much"}),
    "no such reduction": ((Z, IDS), {"reduction": "avg"}),
    "no reduction": ((Z, IDS), {"reduction": None}),
    "too few weights": ((Z, IDS), {"weight": torch.ones(3)}),
    "a column of weights": ((Z, IDS), {"weight": torch.ones(7, 1)}),
    "weights to learn": ((Z, IDS), {"weight": torch.ones(7).requires_grad_()}),
    "integers as logits": ((Z.long(), IDS), {}),
    "another device": ((Z, IDS.to("meta")), {}),
}
BINARY_MISTAKES = {
    "another shape": ((Z, SOFT[:2]), {}),
    "integers as target": ((Z, IDS[:, None].expand(6, 7)), {}),
    "integers as logits": ((Z.long(), SOFT), {}),
    "weights of another shape": ((Z, SOFT), {"weight": torch.ones(3)}),
    "more weights than elements": ((Z, SOFT), {"weight": torch.ones(2, 6, 7), "reduction": "none"}),
    "weights to learn": ((Z, SOFT), {"pos_weight": torch.ones(7).requires_grad_()}),
    "no such reduction": ((Z, SOFT), {"reduction": "avg"}),
}


@pytest.mark.parametrize(
    ("name", "mistake"),
    [("cross_entropy", name) for name in MISTAKES]
    + [("binary_cross_entropy_with_logits", name) for name in BINARY_MISTAKES],
)
def test_errors(ours, name, mistake):
    """Each mistake raises what PyTorch raises and InvalidInput, in losswire's words."""
    mistakes = MISTAKES if name == "cross_entropy" else BINARY_MISTAKES
    arguments, options = mistakes[mistake]
    try:
        getattr(functional, name)(*arguments, **options)
    except Exception as error:  # noqa: BLE001 -- whatever it is, it is the expectation
        kinds = (type(error), losswire.InvalidInput)
    for kind in kinds:
        with pytest.raises(kind, match=r": expected .*, received"):
            getattr(ours, name)(*arguments, **options)


def test_ids_are_named_as_the_argument(ours):
    """The first offending position, by PyTorch's name of the argument."""
    ids = ids_of((2, 7, 3, 2))
    ids[1, 2, 0] = 7
    expected = r"target: expected class ids in .*, or .* -100, received 7 at index \(1, 2, 0\)"
    with pytest.raises(losswire.InvalidInput, match=expected):
        ours.cross_entropy(logits_of((2, 7, 3, 2)), ids)


def test_a_server_that_is_away(ours):
    """The client's own error, from eager and from compiled code, and no hang."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{taken.getsockname()[1]}"
        with losswire.Client(target, timeout=20) as client:
            module = ours.CrossEntropyLoss(client=client)
            with pytest.raises(losswire.ServerUnavailable, match=target):
                module(Z, IDS)
            torch.compiler.reset()
            with pytest.raises(losswire.ServerUnavailable, match=target):
                torch.compile(module, backend="aot_eager")(Z, IDS)


def test_only_who_asks_for_it_loads_it():
    """The client alone does not load PyTorch."""
    script = "import losswire, sys; assert 'torch' not in sys.modules; import losswire.torch"
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=60)
