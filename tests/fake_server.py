"""A server whose ComputeMany a test plays by hand, and small calls that may be made of it."""

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import numpy as np

from losswire_proto.v1 import loss_service_pb2 as pb

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


def played():
    """For a fixture: a server that has a ComputeMany."""
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
