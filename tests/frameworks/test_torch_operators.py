"""The operators of `losswire.torch`: gradients, compiled graphs, and what a server is asked for."""

import pytest

import losswire

torch = pytest.importorskip("torch", reason="make test-frameworks installs it")
from frameworks.torch_tensors import WEIGHTS, assert_same, ids_of, logits_of, outcome, soft_of  # noqa: E402 -- needs PyTorch

functional = torch.nn.functional

# PyTorch warns of its own affairs.
pytestmark = pytest.mark.filterwarnings("ignore")

ADAPTER = "losswire.torch"
REDUCTIONS = ["none", "sum", "mean"]


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
    options = '{"label_smoothing": 0.1}'
    arguments = (half[:2], soft_of((2, 7)), "softmax_cross_entropy", options, -1, True, 0)
    torch.library.opcheck(operators.by_example, arguments, test_utils=checks)


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
