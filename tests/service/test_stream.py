"""Streamed in blocks of rows, every loss has the bits that it has in one message."""

import asyncio

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import losswire
from calls import Call, calls, laid_out
from losswire import _stream
from losswire_proto.losses import LOSSES
from losswire_server import LocalServer

# Random label rows and logits are what is wanted here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:labels. some rows of distributions:UserWarning"),
    pytest.mark.filterwarnings("ignore:logits. every row lies in:UserWarning"),
]

RANDOM = np.random.default_rng(5)


@pytest.fixture(scope="module")
def clients(server):
    """One that sends all in one message, one that sends blocks."""
    with (
        losswire.Client(server.target, transport="inline") as inline,
        losswire.Client(server.target, transport="stream") as stream,
    ):
        yield inline, stream


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(_stream, "BLOCK_BYTES", 100)


def bits(result):
    """Everything in a result: dtypes, shapes and bytes."""
    if isinstance(result, np.ndarray):
        return result.dtype, result.shape, result.tobytes()
    named = {
        "loss": result.loss,
        "per_example": result.per_example,
        "grad_logits": result.grad_logits,
        "grad_labels": result.grad_labels,
    } | dict(result.extras)
    return {name: bits(array) for name, array in named.items() if array is not None}


@settings(max_examples=120, deadline=None)
@given(call=calls(), block_bytes=st.sampled_from([1, 20, 50, 200, 1 << 20]))
def test_any_call_has_the_same_bits(clients, call, block_bytes):
    """Whatever loss, options, dtypes, shapes and layouts, and however many blocks there are."""
    inline, stream = clients
    expected = bits(call.on(inline))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_stream, "BLOCK_BYTES", block_bytes)
        assert bits(call.on(stream)) == expected


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64], ids=str)
def test_every_loss_and_dtype(clients, small_blocks, name, dtype):
    """Each loss in each dtype, on an odd number of rows and a class axis in the middle."""
    inline, stream = clients
    logits = np.abs(RANDOM.normal(size=(7, 11, 3))).astype(dtype)
    call = Call(name, [logits], {"axis": 1})
    if name in {"sigmoid_cross_entropy", "binary_cross_entropy"}:
        call.arguments.append(RANDOM.random((7, 11, 3)))
    elif name == "kl_divergence":
        call.arguments.append(RANDOM.random((11, 3)))
    elif name == "sequence_loss":
        call.arguments += [RANDOM.integers(0, 3, (7, 11)), RANDOM.random((7, 11))]
        call.options.clear()
    elif name not in {"softmax", "log_softmax"}:
        call.arguments.append(RANDOM.integers(0, 11, (7, 3)))
    assert bits(call.on(stream)) == bits(call.on(inline))


@pytest.mark.parametrize("layout", ["rows", "columns", "strided", "reversed"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_logits_are_overwritten_where_they_lie(clients, small_blocks, layout, axis):
    """The gradient takes the place of logits of any layout, and nothing else is touched."""
    inline, stream = clients
    logits = RANDOM.normal(size=(5, 6, 7)).astype(np.float32)
    labels = RANDOM.integers(0, logits.shape[axis], np.delete(logits.shape, axis))
    expected = inline.softmax_cross_entropy(logits, labels, axis=axis)
    given_logits = laid_out(logits, layout)
    whole = given_logits if given_logits.base is None else given_logits.base
    result = stream.softmax_cross_entropy(given_logits, labels, axis=axis, overwrite_logits=True)
    assert result.grad_logits is given_logits
    assert given_logits.tobytes() == expected.grad_logits.tobytes()
    assert bits(result) == bits(expected)
    assert np.count_nonzero(whole) <= logits.size


def test_labels_and_logits_may_be_one_array(clients, small_blocks):
    """A target that is the logits themselves is read before it is overwritten."""
    inline, stream = clients
    logits = RANDOM.normal(size=(40, 5)).astype(np.float32)
    expected = inline.kl_divergence(logits, logits, target_is_logits=True)
    mine = logits.copy()
    result = stream.kl_divergence(mine, mine, target_is_logits=True, overwrite_logits=True)
    assert bits(result) == bits(expected)


def test_the_asynchronous_client_streams_too(server, clients):
    """Streams of one asynchronous client, at the same time, have the bits they have alone."""
    inline, _ = clients
    logits = [RANDOM.normal(size=(2000 + n, 300)).astype(np.float32) for n in range(6)]
    labels = [RANDOM.integers(0, 300, len(each)) for each in logits]

    async def play():
        async with losswire.AsyncClient(server.target, transport="stream") as client:
            pairs = zip(logits, labels, strict=True)
            streams = (client.softmax_cross_entropy(*pair, reduction="mean") for pair in pairs)
            return await asyncio.gather(*streams)

    for result, *pair in zip(asyncio.run(play()), logits, labels, strict=True):
        assert bits(result) == bits(inline.softmax_cross_entropy(*pair, reduction="mean"))


@pytest.mark.parametrize("rows", [0, 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, 150_000])
def test_sums_do_not_depend_on_the_cut(clients, monkeypatch, rows):
    """Sums over several parts have the same bits, whether blocks end where parts do or not."""
    inline, stream = clients
    monkeypatch.setattr(_stream, "BLOCK_BYTES", 77_777)
    logits = RANDOM.normal(size=(rows, 3)).astype(np.float32)
    labels = RANDOM.integers(0, 3, rows)
    call = Call("softmax_cross_entropy", [logits, labels], {"reduction": "mean"})
    assert bits(call.on(stream)) == bits(call.on(inline))


def test_large_tensors_are_streamed_unasked(clients, monkeypatch):
    """With transport="auto" and no shared memory, what is beyond INLINE_BYTES goes in blocks."""
    inline, _ = clients
    made = []
    blocks = _stream._blocks

    def counted(*arguments):
        for message in blocks(*arguments):
            made.append(len(message))
            yield message

    monkeypatch.setattr(_stream, "_blocks", counted)
    with (
        LocalServer(engine="numpy", max_region_bytes=0) as server,
        losswire.Client(server.target) as client,
    ):
        for rows, messages in ((1000, 0), (5000, 3)):
            logits = RANDOM.normal(size=(rows, 256)).astype(np.float32)
            call = Call("log_softmax", [logits])
            assert bits(call.on(client)) == bits(call.on(inline))
            assert len(made) == messages
