"""`losswire.torch` beside PyTorch: the same arguments, dtypes and results."""

import copy
import io
import itertools

import pytest

torch = pytest.importorskip("torch", reason="make test-frameworks installs it")
from frameworks.torch_tensors import (  # noqa: E402 -- needs PyTorch
    SHAPES,
    WEIGHTS,
    assert_same,
    ids_of,
    logits_of,
    outcome,
    soft_of,
)

functional = torch.nn.functional

# PyTorch warns of its own affairs.
pytestmark = pytest.mark.filterwarnings("ignore")

ADAPTER = "losswire.torch"
REDUCTIONS = ["none", "sum", "mean"]


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
