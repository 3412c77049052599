"""Small concurrent calls over one shared stream: as unary ones, only faster."""

import asyncio
import gc
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import ml_dtypes
import numpy as np
import pytest

import losswire
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_server import LocalServer

pytestmark = pytest.mark.filterwarnings("ignore:labels. some rows of distributions:UserWarning")

LOGITS = np.float32([[2.0, 1.0, 0.5], [1.0, 0.5, 0.0]])
IDS = np.array([0, 1])


class FakeServer:
    """A server whose ComputeMany a test plays by hand, and whose Compute counts its calls.

    Args:
        has_many: whether there is a ComputeMany.
    """

    def __init__(self, has_many=True):
        self.messages = queue.Queue()
        self.replies = queue.Queue()
        self.metadata = queue.Queue()
        self.unary_calls = 0
        self._server = grpc.server(ThreadPoolExecutor(8))
        rpcs = {"Compute": grpc.unary_unary_rpc_method_handler(self._compute)}
        if has_many:
            rpcs["ComputeMany"] = grpc.stream_stream_rpc_method_handler(self._many)
        handlers = grpc.method_handlers_generic_handler("losswire.v1.LossService", rpcs)
        self._server.add_generic_rpc_handlers([handlers])
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _compute(self, _payload, context):
        self.unary_calls += 1
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "asked alone")

    def _many(self, messages, context):
        self.metadata.put(dict(context.invocation_metadata()))
        threading.Thread(target=self._read, args=(messages,), daemon=True).start()
        context.add_callback(lambda: self.replies.put(context))
        while (reply := self.replies.get()) is not None and reply is not context:
            if isinstance(reply, tuple):
                context.abort(*reply)
            if isinstance(reply, bytes):  # and not the end of another call
                yield reply

    def _read(self, messages):
        with suppress(Exception):  # the call was cancelled; one that ends does so in either way
            for payload in messages:
                self.messages.put(pb.ComputeManyRequest.FromString(payload))
        self.messages.put(None)

    def requests(self, count):
        """The next so many requests, from as many messages as they came in."""
        received = []
        while len(received) < count:
            message = self.messages.get(timeout=30)
            received += () if message is None else message.requests
        return received

    def refuse(self, identifier, code, text, **fields):
        error = pb.RequestError(code=code, message=text, **fields)
        answer = pb.ManyResponse(id=identifier, error=error)
        self.replies.put(pb.ComputeManyResponse(responses=[answer]).SerializeToString())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.replies.put(None)
        self._server.stop(None).wait()


@pytest.fixture
def fake():
    with FakeServer() as playing:
        yield playing


def outcome_of(call):
    """What a call returns or raises."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 -- looked at by the test
        return error


def started(client, count=1, **options):
    """Calls on threads of their own; their outcomes come by a queue."""
    outcomes = queue.Queue()

    def work():
        outcomes.put(outcome_of(lambda: client.softmax_cross_entropy(LOGITS, IDS, **options)))

    for _ in range(count):
        threading.Thread(target=work, daemon=True).start()
    return outcomes


def eventually(condition):
    """Returns when it holds; pytest's timeout says when it never does."""
    while not condition():
        os.sched_yield()


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


def bits(result):
    if isinstance(result, np.ndarray):
        return [(result.dtype.name, result.shape, result.tobytes())]
    arrays = [result.loss, result.per_example, result.grad_logits, result.grad_labels]
    arrays += result.extras.values()
    return [None if a is None else (a.dtype.name, a.shape, a.tobytes()) for a in arrays]


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


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (3, losswire.InvalidInput, "^what$"),
        (4, losswire.DeadlineExceeded, r"no answer from 127.* within 30 s: what$"),
        (7, losswire.PermissionDenied, "127.*: what"),
        (8, losswire.ServerBusy, "127.*: what"),
        (12, losswire.ServerError, "127.*: what"),
        (13, losswire.ServerError, "127.*: what"),
        (14, losswire.ServerUnavailable, "127.*: what"),
        (16, losswire.Unauthenticated, "127.*: what"),
        (99, losswire.ServerError, "127.*: what"),
    ],
)
def test_errors_of_single_requests(fake, code, kind, words):
    """Each is the error that the same status of a unary call would be; the stream goes on."""
    with losswire.Client(fake.target, retries=False) as client:
        for _ in range(2):
            outcomes = started(client)
            (request,) = fake.requests(1)
            fake.refuse(request.id, code, "what", retry_delay_ms=70)
            error = outcomes.get(timeout=30)
            assert type(error) is kind
            with pytest.raises(kind, match=words):
                raise error
        if kind is losswire.ServerBusy:
            assert error.retry_delay == pytest.approx(0.07)
        assert fake.metadata.qsize() == 1
        assert fake.unary_calls == 0


def test_a_status_of_the_stream_fails_what_is_on_it(fake):
    """All calls in flight get it; the next call opens another stream."""
    with losswire.Client(fake.target, retries=False) as client:
        for count in (1, 3):
            outcomes = started(client, count)
            fake.requests(count)
            fake.replies.put((grpc.StatusCode.UNAVAILABLE, "the server is draining"))
            errors = [outcomes.get(timeout=30) for _ in range(count)]
            assert [type(error) for error in errors] == [losswire.ServerUnavailable] * count
            assert "the server is draining" in str(errors[0])


def test_a_stream_that_ends_without_an_answer(fake):
    """A server that ends the stream and says nothing was unavailable."""
    with losswire.Client(fake.target, retries=False) as client:
        outcomes = started(client)
        fake.requests(1)
        fake.replies.put(None)
        error = outcomes.get(timeout=30)
        assert isinstance(error, losswire.ServerUnavailable)
        assert "without an answer" in str(error)


def test_timeouts(fake):
    """A call without an answer in time ends, says so as a unary one, and is taken back."""
    with losswire.Client(fake.target) as client:
        with pytest.raises(losswire.DeadlineExceeded) as caught:
            client.softmax_cross_entropy(LOGITS, IDS, timeout=0.05)
        assert str(caught.value) == f"no answer from {fake.target} within 0.05 s: Deadline Exceeded"
        (request,) = fake.requests(1)
        assert 1 <= request.timeout_ms <= 50
        assert list(fake.messages.get(timeout=30).cancelled_ids) == [request.id]

    async def play(seconds):
        async with losswire.AsyncClient(fake.target) as client:
            await client.softmax_cross_entropy(LOGITS, IDS, timeout=seconds)

    for seconds in (0.05, 1.0):
        with pytest.raises(losswire.DeadlineExceeded, match=f"within {seconds:g} s: Deadline"):
            asyncio.run(play(seconds))


def test_cancelling_a_task_takes_its_call_back(fake):
    """The server is told; other calls on the stream go on."""

    async def play():
        async with losswire.AsyncClient(fake.target) as client:
            tasks = [
                asyncio.ensure_future(client.softmax_cross_entropy(LOGITS, IDS)) for _ in range(2)
            ]
            gone, kept = await asyncio.to_thread(fake.requests, 2)
            tasks[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
            told = await asyncio.to_thread(fake.messages.get, timeout=30)
            assert list(told.cancelled_ids) == [gone.id]
            fake.refuse(gone.id, 3, "nobody waits")
            fake.refuse(kept.id, 3, "the other")
            with pytest.raises(losswire.InvalidInput, match="the other"):
                await tasks[1]

    asyncio.run(play())


@pytest.fixture
def ctrl_c():
    """Python's own way with SIGINT; a process started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_takes_the_call_back(fake):
    """An interrupted call is cancelled at the server, and the client goes on working."""
    with losswire.Client(fake.target) as client:

        def interrupt():
            interrupted.append(fake.requests(1)[0].id)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        interrupted = []
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            client.softmax_cross_entropy(LOGITS, IDS)
        thread.join()
        assert list(fake.messages.get(timeout=30).cancelled_ids) == interrupted
        outcomes = started(client)
        fake.refuse(fake.requests(1)[0].id, 3, "goes on")
        assert "goes on" in str(outcomes.get(timeout=30))


def test_closing_fails_what_is_in_flight(fake):
    """Calls in flight at close end with an error, on both clients; later ones say it is closed."""
    client = losswire.Client(fake.target)
    outcomes = started(client, 3)
    fake.requests(3)
    client.close()
    for _ in range(3):
        error = outcomes.get(timeout=30)
        assert type(error) is losswire.ServerError
        assert "the client was closed" in str(error)
        assert error.code is grpc.StatusCode.CANCELLED
    with pytest.raises(RuntimeError, match="the client has been closed"):
        client.softmax_cross_entropy(LOGITS, IDS)

    async def play():
        client = losswire.AsyncClient(fake.target)
        task = asyncio.ensure_future(client.softmax_cross_entropy(LOGITS, IDS))
        await asyncio.to_thread(fake.requests, 1)
        await client.close()
        with pytest.raises(losswire.ServerError, match="the client was closed"):
            await task
        with pytest.raises(RuntimeError, match="the client has been closed"):
            await client.softmax_cross_entropy(LOGITS, IDS)

    asyncio.run(play())


def test_a_server_without_the_stream():
    """An older server is asked call by call, and the stream is not tried again."""
    with FakeServer(has_many=False) as fake, losswire.Client(fake.target) as client:
        for count in (1, 2):
            with pytest.raises(losswire.InvalidInput, match="asked alone"):
                client.softmax_cross_entropy(LOGITS, IDS)
            assert fake.unary_calls == count
        assert not client._paths._has_many


def test_a_server_that_takes_small_messages_only(fake):
    """Where the messages that calls share are too large, each call has its own."""
    with losswire.Client(fake.target) as client:
        outcomes = started(client)
        fake.requests(1)
        refusal = "Received message larger than max (5000 vs. 4096)"
        fake.replies.put((grpc.StatusCode.RESOURCE_EXHAUSTED, refusal))
        assert "asked alone" in str(outcomes.get(timeout=30))


def test_the_token_is_sent(fake):
    """A token travels with the stream."""
    with losswire.Client(fake.target, token="s3cret") as client:
        outcomes = started(client)
        fake.refuse(fake.requests(1)[0].id, 3, "no matter")
        outcomes.get(timeout=30)
    assert fake.metadata.get(timeout=30)["authorization"] == "Bearer s3cret"


def test_a_killed_server_and_its_successor(tmp_path):
    """Without retries every call in flight fails; a new server at the same place is found."""
    path = tmp_path / "losswire.sock"
    with LocalServer(engine="numpy", unix_socket=path) as first:
        client = losswire.Client(first.target, retries=False)
        expected = client.softmax_cross_entropy(LOGITS, IDS)
        os.kill(first.pid, signal.SIGSTOP)  # so that the calls are surely in flight
        outcomes = started(client, 8)
        eventually(lambda: len(client._many._owned[1]._in_flight) == 8)
        os.kill(first.pid, signal.SIGKILL)
        errors = [outcomes.get(timeout=30) for _ in range(8)]
        assert [type(error) for error in errors] == [losswire.ServerUnavailable] * 8, errors
    with LocalServer(engine="numpy", unix_socket=path), client:
        again = outcome_of(lambda: client.softmax_cross_entropy(LOGITS, IDS))
        while isinstance(again, losswire.ServerUnavailable):  # until gRPC tries the socket again
            again = outcome_of(lambda: client.softmax_cross_entropy(LOGITS, IDS))
        assert bits(again) == bits(expected)


def test_an_idle_stream_keeps_no_server(tmp_path):
    """A server drains at once though a stream is open; the next call finds its successor."""
    path = tmp_path / "losswire.sock"
    server = LocalServer(engine="numpy", unix_socket=path, drain_seconds=60.0)
    with losswire.Client(server.target) as client:
        expected = client.softmax_cross_entropy(LOGITS, IDS)
        stream = client._many._owned[1]
        server.close()  # kills it, and fails below, if it does not end in 10 s
        assert server._process.returncode == 0
        eventually(lambda: stream.is_over)
        with LocalServer(engine="numpy", unix_socket=path):
            again = outcome_of(lambda: client.softmax_cross_entropy(LOGITS, IDS))
            while isinstance(again, losswire.ServerUnavailable):
                again = outcome_of(lambda: client.softmax_cross_entropy(LOGITS, IDS))
            assert bits(again) == bits(expected)


def _calls_in_child(client, pipe):
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(client.softmax_cross_entropy, LOGITS, IDS) for _ in range(8)]
        pipe.send([call.result().loss.tolist() for call in calls])


def test_forks_while_calls_are_in_flight(server):
    """Children have streams of their own; the parent's calls go on meanwhile."""
    context = multiprocessing.get_context("fork")
    is_over = threading.Event()
    with losswire.Client(server.target) as client, ThreadPoolExecutor(4) as threads:
        expected = client.softmax_cross_entropy(LOGITS, IDS).loss.tolist()

        def work():
            while not is_over.is_set():
                assert client.softmax_cross_entropy(LOGITS, IDS).loss.tolist() == expected

        working = [threads.submit(work) for _ in range(4)]
        try:
            for _ in range(5):
                ours, theirs = context.Pipe()
                child = context.Process(target=_calls_in_child, args=(client, theirs))
                child.start()
                theirs.close()
                assert ours.poll(30), "the child hangs"
                assert ours.recv() == [expected] * 8
                child.join(30)
                assert child.exitcode == 0
        finally:
            is_over.set()
        for each in working:
            each.result()


ENDING = """
import sys, threading, numpy as np, losswire
client = losswire.Client(sys.argv[1])
call = lambda: client.softmax_cross_entropy(np.zeros((2, 3)), np.array([0, 1]))
threads = [threading.Thread(target=call) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(call().loss)
"""


def test_an_interpreter_with_an_open_stream_ends(server):
    """A program that closes nothing ends by itself, silently."""
    command = [sys.executable, "-W", "error", "-c", ENDING, server.target]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("[1.09")


def test_a_client_that_is_dropped_ends_its_stream(fake):
    """Without close, too, the server is not left with a stream that nobody uses."""
    client = losswire.Client(fake.target)
    outcomes = started(client)
    fake.refuse(fake.requests(1)[0].id, 3, "no matter")
    outcomes.get(timeout=30)
    stream = client._many._owned[1]
    del client
    gc.collect()
    assert stream.is_over
    assert fake.messages.get(timeout=30) is None
