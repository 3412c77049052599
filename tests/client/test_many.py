"""Small concurrent calls over one shared stream: as unary ones, only faster."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

import losswire
from anyloss import bits
from fake_server import IDS, LOGITS, played, started
from losswire_proto.v1 import loss_service_pb2 as pb

pytestmark = pytest.mark.filterwarnings("ignore:labels. some rows of distributions:UserWarning")

fake = pytest.fixture(played)


def has_stream(client):
    return client._many._owned[1] is not None


CASES = {
    "mean": lambda c, z, y: c.softmax_cross_entropy(z, y, reduction="mean"),
    "ignored": lambda c, z, y: c.softmax_cross_entropy(
        z, y, reduction="mean", ignore_index=1, extras=("logsumexp", "argmax", "entropy")
    ),
    "nothing but ignored": lambda c, z, y: c.softmax_cross_entropy(
        z, np.ones_like(y), reduction="mean", ignore_index=1, empty_mean="zero"
    ),
    "weights": lambda c, z, y: c.softmax_cross_entropy(
        z,
        y,
        sample_weight=np.abs(np.asarray(z, np.float64)).sum(axis=1),
        class_weight=[0.1, 0.7, 3.0],
        reduction="mean",
        normalizer="weights",
    ),
    "sum": lambda c, z, y: c.softmax_cross_entropy(z, y, reduction="sum", label_smoothing=0.1),
    "nan": lambda c, z, y: c.softmax_cross_entropy(
        z, y + 2 * (y == y[0]), out_of_range="nan", reduction="mean"
    ),
    "axis": lambda c, z, y: c.softmax_cross_entropy(z.T, y, axis=0, reduction="mean"),
    "distributions": lambda c, z, _: c.softmax_cross_entropy(
        z, np.abs(z), gradients=("logits", "labels")
    ),
    "one distribution": lambda c, z, _: c.softmax_cross_entropy(
        z, np.float32([0.2, 0.3, 0.5]), gradients=("logits", "labels"), reduction="mean"
    ),
    "sigmoid": lambda c, z, _: c.sigmoid_cross_entropy(
        z, (z > 0).astype(np.float32), pos_weight=[1.0, 2.0, 3.0], reduction="mean"
    ),
    "probabilities": lambda c, z, y: c.categorical_cross_entropy(
        np.abs(z) / (1 + np.abs(z)), y, reduction="sum"
    ),
    "divergence": lambda c, z, _: c.kl_divergence(z, np.abs(z), reduction="mean"),
    "focal": lambda c, z, y: c.focal(z, y, alpha=0.3, reduction="mean"),
    "softmax": lambda c, z, _: c.softmax(z),
    "sequence": lambda c, z, y: c.sequence_loss(
        z[None], y[None], np.ones((1, len(y))), average_across_batch=False
    ),
    "no gradient": lambda c, z, y: c.softmax_cross_entropy(z, y, gradients=False),
}


def inputs(seed, dtype):
    random = np.random.default_rng(seed)
    rows = 1 + seed % 9
    return (random.normal(size=(rows, 3)) * 5).astype(dtype), random.integers(0, 3, rows)


@pytest.mark.parametrize(
    "dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64], ids=lambda d: d.__name__
)
def test_the_same_bits_as_alone(server, dtype):
    """Calls of every loss and reduction that share messages get what each gets by itself."""
    calls = [(case, seed) for seed in range(12) for case in CASES.values()]
    with losswire.Client(server.target, transport="inline") as client:
        expected = [bits(case(client, *inputs(seed, dtype))) for case, seed in calls]

    async def play():
        async with losswire.AsyncClient(server.target) as client:
            return await asyncio.gather(
                *(case(client, *inputs(seed, dtype)) for case, seed in calls)
            )

    assert [bits(result) for result in asyncio.run(play())] == expected
    with losswire.Client(server.target) as client, ThreadPoolExecutor(16) as threads:
        results = threads.map(lambda call: call[0](client, *inputs(call[1], dtype)), calls)
        assert [bits(result) for result in results] == expected
        assert has_stream(client)


def test_results_are_the_callers_own(server):
    """Arrays can be written, and writing one changes no other call's."""
    with losswire.Client(server.target) as client, ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(client.softmax_cross_entropy, LOGITS, IDS) for _ in range(64)]
        results = [call.result() for call in calls]
        expected = results[0].grad_logits.copy()
        results[0].grad_logits[...] = 7
        results[0].loss[...] = 7
        for result in results[1:]:
            assert np.array_equal(result.grad_logits, expected)
            result.grad_logits[...] = 8
            result.per_example[...] = 8
        owned = client.softmax_cross_entropy(LOGITS.copy(), IDS, overwrite_logits=True)
        assert np.array_equal(owned.grad_logits, expected)


def test_only_auto_shares(server):
    """The transport "inline" stays one unary call for each request."""
    with losswire.Client(server.target, transport="inline") as client:
        client.softmax_cross_entropy(LOGITS, IDS)
        assert not has_stream(client)


def test_large_calls_do_not_share(server):
    """What is large goes its own way, and holds up no small call."""
    with losswire.Client(server.target) as client:
        client.softmax_cross_entropy(np.zeros((200, 1000)), np.zeros(200, np.int8))
        assert not has_stream(client)


def test_calls_that_are_pending_together_share_messages(fake):
    """While as many are on their way, requests gather; answers are told by their ids."""
    with losswire.Client(fake.target, timeout=1000) as client:
        outcomes = started(client, 4)
        requests = fake.requests(4)
        assert len({request.id for request in requests}) == 4
        answers = [
            pb.ManyResponse(id=each.id, error=pb.RequestError(code=3, message=f"number {each.id}"))
            for each in reversed(requests)
        ]
        fake.replies.put(pb.ComputeManyResponse(responses=answers).SerializeToString())
        texts = {str(outcomes.get(timeout=30)) for _ in requests}
        assert texts == {f"number {request.id}" for request in requests}


def test_the_token_is_sent(fake):
    """A token travels with the stream."""
    with losswire.Client(fake.target, token="s3cret") as client:
        outcomes = started(client)
        fake.refuse(fake.requests(1)[0].id, 3, "no matter")
        outcomes.get(timeout=30)
    assert fake.metadata.get(timeout=30)["authorization"] == "Bearer s3cret"
