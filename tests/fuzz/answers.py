"""What an answer has to be: a right result, or a status of the contract.

In: requests as they were sent, and what came back. Results are held to the same request on another
way: read by protobuf alone, nothing remembered, nothing cut out, computed alone and at once; bits
must agree. Then they are held to formulas (`truth`).
"""

import math
import re

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from fuzz import truth
from losswire_proto import dtypes, rules, wire
from losswire_proto.rules import InvalidField, Spec
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_server.requests import LossRequest

Code = grpc.StatusCode
REFUSED = frozenset({Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED})
FULL = frozenset({Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED})
"""What may become of a sound request where there is little room or time."""

_WORDS = re.compile(r"[\w. ]+: .*expected .+", re.DOTALL)
_LONGEST = 2000
_TENSORS = ("logits", "labels", *truth.WEIGHTS)


class Refused(Exception):  # noqa: N818 -- an outcome
    """A request that has no result."""


def check_status(code, details, allowed):
    """Holds the end of a call, or of one request among many, to the contract."""
    assert code in allowed, f"{code}, one of {sorted(map(str, allowed))} was due: {details}"
    assert details, f"{code} without a message"
    assert len(details) <= _LONGEST, "a message too long for a header"
    if code is Code.INVALID_ARGUMENT:
        assert _WORDS.match(details), f"a message without field and what was expected: {details}"


def parsed(kind, payload):
    """The message, read by protobuf alone.

    Raises:
        Refused: it is none.
    """
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise Refused(str(error)) from error


def plain_request(message):
    """A `ComputeRequest` as a request, by the shortest way there is.

    Raises:
        Refused: it breaks a rule.
    """
    try:
        for required in ("options", "logits"):
            if not message.HasField(required):
                raise Refused(required)
        if message.destinations.ListFields():
            raise Refused("destinations")  # of regions, of which there are none here
        call = wire.decode_call(message.options)
        arrays = {n: _array(getattr(message, n)) for n in _TENSORS if message.HasField(n)}
        logits, labels = arrays.pop("logits"), arrays.pop("labels", None)
        axis = rules.class_axis(Spec.of(logits), call.axis)
        if (labels is None) != (call.loss.readings == ("none",)):
            raise Refused("labels")
        reading = "none"
        if labels is not None:
            reading = rules.read_labels(
                call,
                logits=Spec.of(logits),
                axis=axis,
                labels=labels,
                has_class_weight="class_weight" in arrays,
            )
        rules.check_weights(call, Spec.of(logits), axis, arrays)
    except (InvalidField, wire.NotSupported) as error:
        raise Refused(str(error)) from error
    return LossRequest(call, logits, axis, labels, reading, **arrays)


def _array(tensor):
    dtype = dtypes.dtype_of(tensor.dtype)
    if dtype is None or tensor.HasField("region") or not tensor.HasField("data"):
        raise Refused("tensor")
    rules.check_shape("tensor", tensor.shape)
    if len(tensor.data) != math.prod(tensor.shape) * dtype.itemsize:
        raise Refused("data")
    return np.frombuffer(tensor.data, dtype).reshape(tensor.shape).copy()


def results_of(request, engine):
    """The results of a request that is computed alone, by the names of their fields."""
    result = engine.compute([request])[0]
    results = {"loss": result.loss, "per_example": result.per_example, **result.extras}
    results |= {name: getattr(result, name) for name in ("grad_labels", "output", "grad_logits")}
    return {name: array for name, array in results.items() if array is not None}


def check_results(message, results, engine):
    """Holds a server's results to the request, which must be a sound one.

    Args:
        message: the `ComputeRequest`, its tensors inline.
        results: arrays by the names of their fields.
        engine: computes it again.
    """
    try:
        request = plain_request(message)
    except Refused as error:
        raise AssertionError(f"a request was answered that is to be refused: {error}") from error
    check_same(results, results_of(request, engine))
    truth.check(message, results)


def check_same(results, expected):
    """Bits and all."""
    assert results.keys() == expected.keys(), f"{set(results)} for {set(expected)}"
    for name, array in expected.items():
        mine = results[name]
        assert (mine.dtype, mine.shape) == (array.dtype, array.shape), name
        assert mine.tobytes() == array.tobytes(), f"{name}: {mine} for {array}"


def arrays_in(response):
    """A `ComputeResponse`'s arrays by the names of their fields."""
    return {each.name: truth.array_of(tensor) for each, tensor in response.ListFields()}


def check_refusal(payload_or_message, details):
    """Holds a refusal to the request: another way to read it has to find it bad, too."""
    try:
        message = payload_or_message
        if isinstance(message, bytes):
            message = parsed(pb.ComputeRequest, message)
        plain_request(message)
    except Refused:
        return
    raise AssertionError(f"a sound request was refused: {details}")
