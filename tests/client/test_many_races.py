"""Moments at which the shared stream's threads, or the collector, could come at the wrong time."""

import gc
import queue
import threading

from losswire._many import Many, _Stream
from losswire_proto.v1 import loss_service_pb2 as pb


class Played:
    """A call of gRPC's: what is sent goes to a queue, and answers come from one."""

    def __init__(self, messages):
        self.sent, self.answers = queue.Queue(), queue.Queue()
        threading.Thread(target=self._send, args=(messages,), daemon=True).start()

    def __iter__(self):
        return iter(self.answers.get, None)

    def _send(self, messages):
        for message in messages:
            self.sent.put(message)

    def cancel(self):
        self.answers.put(None)


class Waiter:
    """Waits for nothing."""

    loop = None

    def take(self, outcome, waiters):
        pass

    def wake(self):
        pass


def played():
    """The stream of a client, and its call once it has begun."""
    calls = []

    def begin(messages):
        calls.append(Played(messages))
        return calls[-1]

    return Many(begin), calls


def test_what_comes_while_the_sender_falls_asleep_is_sent(monkeypatch):
    """A request that comes after its last look, and before it is noted that there was none."""
    many, calls = played()
    look, late = _Stream._has_something, []

    def look_too_early(stream):
        found = look(stream)
        if not found and not stream._is_awake and not late:
            late.append(many.send(b"late", 60.0, Waiter()))
            many.flush()
        return found

    monkeypatch.setattr(_Stream, "_has_something", look_too_early)
    many.send(b"first", 60.0, Waiter())
    many.flush()
    [call] = calls
    assert b"first" in call.sent.get(timeout=30)
    assert b"late" in call.sent.get(timeout=30)
    many.close()


def test_a_client_that_is_collected_on_the_stream_s_own_thread_ends_it():
    """While that thread holds the stream's lock: the collector may run wherever memory is taken."""
    many, calls = played()
    ticket = many.send(b"asked", 60.0, Waiter())
    many.flush()
    stream = many._owned[1]

    class Flights(dict):
        def pop(self, *which):
            gc.collect()
            return super().pop(*which)

    stream._in_flight = Flights(stream._in_flight)
    many.itself = many
    del many
    answer = pb.ComputeManyResponse()
    answer.responses.add().id = ticket.id
    calls[0].answers.put(answer.SerializeToString())
    stream._receiver.join(30)
    assert not stream._receiver.is_alive()
    assert stream.is_over
