"""The synchronous client against a real server."""

import multiprocessing
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import ml_dtypes
import numpy as np
import pytest
import trustme

import losswire
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_server import LocalServer

LOGITS = [[2.0, 1.0, 0.5], [1.0, 0.5, 0.0]]
LOSS = [0.4643687841079449, 1.1802696706417346]


class Tensor:
    """Stands for a tensor of another library: nothing but __array__."""

    def __init__(self, array):
        self._array = np.asarray(array)

    def __array__(self, dtype=None, copy=None):
        return self._array if dtype is None else self._array.astype(dtype)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (LOGITS, [0, 1]),
        (tuple(map(tuple, LOGITS)), (0, 1)),
        (LOGITS, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
        (LOGITS, [[1, 0, 0], [0, 1, 0]]),
        (np.array(LOGITS), np.array([0, 1], np.uint8)),
        (Tensor(LOGITS), Tensor([0, 1])),
        (np.array(LOGITS, ">f8"), np.array([0, 1], ">i4")),
        (np.asfortranarray(LOGITS), np.array([0, 9, 1, 9])[::2]),
        (np.array(LOGITS), np.eye(3, dtype=np.longdouble)[:2]),
        (np.array(LOGITS), np.eye(3)[:2].astype(ml_dtypes.float8_e4m3fn)),
    ],
    ids=[
        "lists", "tuples", "float lists", "integer lists", "arrays", "__array__", "big-endian",
        "strided", "long double", "float8",
    ],
)  # fmt: skip
def test_anything_like_an_array(client, logits, labels):
    """Lists, arrays of any layout and byte order, and anything with __array__ give the same."""
    result = client.softmax_cross_entropy(logits, labels)
    np.testing.assert_allclose(result.loss, LOSS, rtol=1e-15)
    assert result.loss is result.per_example
    assert result.grad_logits.shape == (2, 3)


def test_integers_in_lists_are_logits(client):
    """Numbers in a list have no dtype; integers among them are taken for what they are worth."""
    assert client.softmax_cross_entropy([[3, 3]], [0]).loss[0] == pytest.approx(
        np.log(2), rel=1e-15
    )


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_reductions(client, reduction):
    """loss is reduced as asked; per_example is there whatever the reduction."""
    result = client.softmax_cross_entropy(LOGITS, [0, 1], reduction=reduction)
    expected = {"none": LOSS, "sum": sum(LOSS), "mean": sum(LOSS) / 2}[reduction]
    np.testing.assert_allclose(result.loss, expected, rtol=1e-15)
    assert result.loss.shape == (() if reduction != "none" else (2,))
    np.testing.assert_allclose(result.per_example, LOSS, rtol=1e-15)


def test_sample_weights_and_normalizers(client):
    """Weights, also as integers or mask, and a normalizer of the caller's own."""
    for weight in ([2, 0], np.array([2, 0], np.float16), [2.0, 0.0]):
        result = client.softmax_cross_entropy(
            LOGITS, [0, 1], sample_weight=weight, reduction="mean", normalizer=np.float32(4)
        )
        assert result.loss == pytest.approx(LOSS[0] / 2, rel=1e-15)
    masked = client.softmax_cross_entropy(LOGITS, [0, 1], sample_weight=np.array([True, False]))
    assert masked.loss.tolist() == [pytest.approx(LOSS[0]), 0]


def test_gradients_as_asked(client):
    """No gradient, either of them, or both."""
    soft = np.eye(3)[:2]
    cases = {
        True: (True, False),
        False: (False, False),
        "logits": (True, False),
        ("labels",): (False, True),
        ("logits", "labels"): (True, True),
        (): (False, False),
    }
    for wanted, (logits, labels) in cases.items():
        result = client.softmax_cross_entropy(LOGITS, soft, gradients=wanted)
        assert (result.grad_logits is not None, result.grad_labels is not None) == (logits, labels)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64], ids=str)
def test_results_are_the_callers_own(client, dtype):
    """Gradients have the logits' dtype, and all arrays can be written."""
    result = client.softmax_cross_entropy(np.array(LOGITS, dtype), [0, 1], reduction="sum")
    assert result.grad_logits.dtype == dtype
    assert result.loss.dtype == (np.float64 if dtype == np.float64 else np.float32)
    for array in (result.loss, result.per_example, result.grad_logits):
        array[...] = 0


def test_options_reach_the_engine(client):
    """ignore_index, out_of_range, label_gradient and empty_mean arrive."""
    loss = client.softmax_cross_entropy(LOGITS, [0, -1], ignore_index=-1, reduction="mean").loss
    assert loss == pytest.approx(LOSS[0], rel=1e-15)
    assert np.isnan(client.softmax_cross_entropy(LOGITS, [0, 7], out_of_range="nan").loss[1])
    assert client.softmax_cross_entropy(LOGITS, [0, 7], out_of_range="ignore").loss[1] == 0
    nothing = {"ignore_index": 0, "reduction": "mean"}
    assert np.isnan(client.softmax_cross_entropy(LOGITS, [0, 0], **nothing).loss)
    assert client.softmax_cross_entropy(LOGITS, [0, 0], **nothing, empty_mean="zero").loss == 0
    soft = [[2.0, 0.0, 0.0]]
    tf = client.softmax_cross_entropy([[1.0, 2.0, 3.0]], soft, label_gradient="tf").grad_logits
    assert tf[0, 1] == pytest.approx(0.24472847105479764)


def test_axis(client):
    """The class axis may be any, counted from either end."""
    logits = np.array(LOGITS).T
    for axis in (0, -2, np.int64(0)):
        result = client.softmax_cross_entropy(logits, [0, 1], axis=axis)
        np.testing.assert_allclose(result.loss, LOSS, rtol=1e-15)
        assert result.grad_logits.shape == (3, 2)


@pytest.fixture
def dead_port():
    """A port that nobody listens on, for as long as the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_a_server_that_is_not_there(dead_port):
    """The typed error names the address, after a few tries."""
    with (
        losswire.Client(f"127.0.0.1:{dead_port}") as client,
        pytest.raises(losswire.ServerUnavailable, match=f"127.0.0.1:{dead_port}") as caught,
    ):
        client.softmax_cross_entropy(LOGITS, [0, 1])
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_a_server_that_died():
    """A server that goes away between two calls is the same error, and not a hang."""
    with LocalServer(engine="numpy") as server:
        client = losswire.Client(server.target, timeout=0.5)
        client.softmax_cross_entropy(LOGITS, [0, 1])
        server._process.kill()
        server._process.wait()
        with pytest.raises(losswire.ServerUnavailable, match=server.target):
            client.softmax_cross_entropy(LOGITS, [0, 1])
        client.close()


@pytest.fixture
def silent():
    """The address of something that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_deadlines(silent):
    """A call that is not answered in time is a TimeoutError that names address and time."""
    with losswire.Client(silent, timeout=0.05) as client:
        with pytest.raises(losswire.DeadlineExceeded, match=rf"{silent} within 0\.05 s") as caught:
            client.softmax_cross_entropy(LOGITS, [0, 1])
        assert isinstance(caught.value, TimeoutError)
        with pytest.raises(losswire.DeadlineExceeded, match=r"within 0\.01 s"):
            client.server_info(timeout=0.01)


def test_a_closed_client_says_so(server):
    """After close, calls raise; closing twice is fine."""
    client = losswire.Client(server.target)
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="the client has been closed"):
        client.server_info()


@pytest.mark.parametrize("transport", ["carrier pigeon", None])
def test_paths_that_cannot_be_used(transport):
    """Forcing a path that nobody knows is a clear error."""
    with pytest.raises(
        losswire.InvalidInput, match=f"transport: expected .* received {transport!r}"
    ):
        losswire.Client(transport=transport)


def test_the_default_target(server, monkeypatch):
    """Without a target the client takes LOSSWIRE_TARGET, or localhost:50051."""
    with losswire.Client() as client:
        assert client.target == "localhost:50051"
    monkeypatch.setenv("LOSSWIRE_TARGET", server.target)
    with losswire.Client() as client:
        assert client.server_info().backend == "numpy"


def _loss_in_child(client, pipe):
    pipe.send(client.softmax_cross_entropy(LOGITS, [0, 1]).loss.tolist())


def test_after_a_fork(client):
    """A client that has been used goes on working in forked children, and in the parent."""
    context = multiprocessing.get_context("fork")
    for _ in range(10):
        expected = client.softmax_cross_entropy(LOGITS, [0, 1]).loss.tolist()
        ours, theirs = context.Pipe()
        child = context.Process(target=_loss_in_child, args=(client, theirs))
        child.start()
        theirs.close()
        assert ours.poll(30), "the child hangs"
        assert ours.recv() == expected
        child.join()
        assert child.exitcode == 0


def test_threads_share_a_client(client):
    """Calls from many threads over one client get their own results."""
    wrong = []

    def work(seed):
        random = np.random.default_rng(seed)
        for _ in range(20):
            logits = random.normal(size=(random.integers(1, 9), 3))
            ids = random.integers(0, 3, len(logits))
            shifted = logits - logits.max(axis=1, keepdims=True)
            own = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(ids)), ids]
            got = client.softmax_cross_entropy(logits, ids).loss
            if got.shape != own.shape or not np.allclose(got, own, rtol=1e-12):
                wrong.append((seed, got, own))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


class InfoServer:
    """A server of this test's own, which notes the metadata it gets; over TLS where asked."""

    def __init__(self, credentials=None):
        self.metadata = []
        self._server = grpc.server(ThreadPoolExecutor(1))
        handler = grpc.unary_unary_rpc_method_handler(self._answer)
        self._server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    "losswire.v1.LossService", {"GetServerInfo": handler}
                )
            ]
        )
        if credentials is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()

    def _answer(self, _payload, context):
        self.metadata.append(dict(context.invocation_metadata()))
        return pb.GetServerInfoResponse(version="mine").SerializeToString()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.stop(None).wait()


def test_the_token_is_sent():
    """A token travels as a bearer token with each call."""
    with InfoServer() as info, losswire.Client(f"127.0.0.1:{info.port}", token="s3cret") as client:
        assert client.server_info().version == "mine"
    assert info.metadata[0]["authorization"] == "Bearer s3cret"


def test_tls(tmp_path):
    """With a certificate authority the connection is checked and encrypted; without it, refused."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    pem = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(pem)
    credentials = grpc.ssl_server_credentials(
        [(certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())]
    )
    with InfoServer(credentials) as info:
        target = f"127.0.0.1:{info.port}"
        own = grpc.ssl_channel_credentials(pem.read_bytes())
        for tls in (pem, str(pem), own):
            with losswire.Client(target, tls=tls) as client:
                assert client.server_info().version == "mine"
        for tls in (None, True):
            with (
                losswire.Client(target, tls=tls) as client,
                pytest.raises(losswire.ServerUnavailable),
            ):
                client.server_info()
    with pytest.raises(losswire.InvalidInput, match="tls: expected a readable file"):
        losswire.Client(target, tls=tmp_path / "missing.pem")
