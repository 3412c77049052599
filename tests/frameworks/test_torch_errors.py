"""Errors of `losswire.torch` beside PyTorch's: the same types, in losswire's words."""

import socket
import subprocess
import sys

import pytest

import losswire

torch = pytest.importorskip("torch", reason="make test-frameworks installs it")
from frameworks.torch_tensors import ids_of, logits_of, soft_of  # noqa: E402 -- needs PyTorch

functional = torch.nn.functional

# PyTorch warns of its own affairs.
pytestmark = pytest.mark.filterwarnings("ignore")

ADAPTER = "losswire.torch"

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
