"""Messages read without their tensors, and written around them: always what protobuf says."""

import subprocess
import sys
import tracemalloc
from unittest import mock

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from losswire_proto import codec, dtypes, tensors
from losswire_proto.v1 import loss_service_pb2 as pb
from messages import BYTES, END, FEW, GROUP, KINDS, VARINT, field, payloads, put_back


def by_protobuf(kind, payload):
    try:
        return kind.FromString(payload)
    except DecodeError:
        return None


def assert_read_as_by_protobuf(kind, payload):
    expected = by_protobuf(kind, payload)
    try:
        message, views = codec.parse(kind, payload)
    except DecodeError:
        assert expected is None
        return
    assert expected is not None, "protobuf refuses this"
    assert put_back(message, views, payload) == expected
    assert message.SerializeToString() == expected.SerializeToString()


def block(**fields):
    return pb.ComputeStreamRequest(block=pb.RowBlock(**fields)).SerializeToString()


START = pb.ComputeStreamRequest(start=pb.ComputeStreamStart()).SerializeToString()
DATA = field(15, BYTES, b"d" * FEW)


@settings(max_examples=300, deadline=None)
@given(case=payloads())
@example(case=(pb.ComputeStreamRequest, block(rows=1, logits=b"x" * FEW) + START))
@example(case=(pb.ComputeStreamRequest, START + block(rows=1, logits=b"x" * FEW)))
@example(case=(pb.ComputeStreamRequest, block(logits=b"x" * FEW) + block(logits=b"y" * FEW)))
@example(case=(pb.ComputeRequest, field(15, BYTES, DATA) + field(15, BYTES, DATA)))
@example(case=(pb.ComputeRequest, field(15, BYTES, DATA) + field(15, VARINT, 1)))
@example(case=(pb.ComputeRequest, field(15, BYTES, DATA) + field(15, GROUP, field(15, END, b""))))
@example(case=(pb.ComputeRequest, field(15, BYTES, DATA, (6, 0))))
@example(case=(pb.ComputeRequest, field(15, BYTES, field(15, BYTES, b"d" * FEW, (4, 0)))))
@example(case=(pb.ComputeRequest, field(15, BYTES, field(15, BYTES, b"d" * FEW, (0, 5)))))
@example(case=(pb.ComputeRequest, b"\x7a" + codec.varint(2**31) + DATA))
@example(case=(pb.ComputeRequest, b"\x7a" + codec.varint(2**64 + 10) + DATA))
@example(case=(pb.ComputeRequest, codec.varint(2**35 | 15 << 3 | BYTES) + b"\x0a" + DATA))
def test_whatever_comes_is_read_as_by_protobuf(case):
    """Message and views together are protobuf's message; what protobuf refuses is refused."""
    with mock.patch.object(codec, "SMALLEST_CUT", FEW):
        assert_read_as_by_protobuf(*case)


@settings(max_examples=300, deadline=None)
@given(kind=st.sampled_from(KINDS), payload=st.binary(max_size=60))
def test_random_bytes_are_read_as_by_protobuf(kind, payload):
    """Bytes that are nothing at all raise DecodeError, or are what protobuf makes of them."""
    with mock.patch.object(codec, "SMALLEST_CUT", FEW):
        assert_read_as_by_protobuf(kind, payload)


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_what_is_worth_it_is_cut_out(extra):
    """From SMALLEST_CUT bytes on, elements are not in the message but in a view."""
    size = codec.SMALLEST_CUT + extra
    request = pb.ComputeRequest(labels={"data": bytes(10)}, logits={"data": b"x" * size})
    payload = request.SerializeToString()
    message, views = codec.parse(pb.ComputeRequest, payload)
    assert set(views) == ({(15, 15)} if extra >= 0 else set())
    assert message.logits.HasField("data") == (extra < 0)
    assert put_back(message, views, payload) == request


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.DESCRIPTOR.name)
def test_the_layouts_are_the_contracts(kind):
    """Every place that is looked at for elements holds bytes, or a tensor that holds them."""

    def check(descriptor, layout):
        for number, inner in layout.items():
            found = descriptor.fields_by_number[number]
            assert number < 16, "tags of one byte are counted on"
            assert not found.is_repeated
            if inner is None:
                assert found.type == found.TYPE_BYTES
            else:
                assert found.type == found.TYPE_MESSAGE
                check(found.message_type, inner)

    def has_bytes(descriptor):
        return {
            each.number
            for each in descriptor.fields
            if each.type == each.TYPE_BYTES
            or (each.message_type is not None and each.message_type.name == "Tensor")
        }

    layout = codec.LAYOUTS[kind]
    check(kind.DESCRIPTOR, layout)
    blocks = [f.message_type for f in kind.DESCRIPTOR.fields if f.name == "block"]
    for descriptor, places in (
        [(kind.DESCRIPTOR, layout)] if not blocks else [(blocks[0], next(iter(layout.values())))]
    ):
        assert set(places) == has_bytes(descriptor), "a tensor would be copied"


@pytest.mark.parametrize("kind", list(codec.LAYOUTS))
def test_what_is_left_to_protobuf_may_be_bounded(kind):
    """Elements do not count; all else does, and so does what is not as writers write it."""
    number, layout = next(iter(codec.LAYOUTS[kind].items()))
    large = field(max(layout), BYTES, bytes(1 << 20))
    message = field(number, BYTES, large)
    codec.parse(kind, message, 100)
    for more in (field(99, BYTES, bytes(100)), message):
        with pytest.raises(codec.TooLargeError):
            codec.parse(kind, message + more, 100)
        codec.parse(kind, message + more)


def test_a_stream_begins_with_elements_too():
    """Labels and weights of all rows, which do not count either."""
    weights = tensors.encode("sample_weight", np.ones(1 << 17))
    start = pb.ComputeStreamStart(
        labels=weights, sample_weight=weights, class_weight=weights, pos_weight=weights
    )
    message = pb.ComputeStreamRequest(start=start)
    assert codec.parse(pb.ComputeStreamRequest, message.SerializeToString(), 200)[0] == message
    start.logits_spec.shape.extend([1] * 300)
    message = pb.ComputeStreamRequest(start=start)
    with pytest.raises(codec.TooLargeError):
        codec.parse(pb.ComputeStreamRequest, message.SerializeToString(), 200)


def test_reading_takes_no_memory_to_speak_of():
    """A message of elements is not copied, and one of a million tiny fields is not blown up."""
    large = pb.ComputeRequest(logits={"dtype": 3, "shape": [1 << 18], "data": bytes(1 << 20)})
    tiny = b"\x98\x06\x01" * (1 << 18)
    for payload in (large.SerializeToString(), tiny, field(15, BYTES, tiny)):
        tracemalloc.start()
        codec.parse(pb.ComputeRequest, payload)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 100_000


ARRAYS = {
    "labels": np.arange(6000, dtype=np.int32).reshape(2, 3000),
    "sample_weight": np.linspace(0, 1, 7, dtype=np.float64),
    "logits": np.arange(5001 * 3, dtype=np.float32).reshape(5001, 3) - 5.5,
}


def written():
    """A message of each kind as the clients and the server write it, and what protobuf holds."""
    request = pb.ComputeRequest(options={"axis": 3})
    whole = pb.ComputeRequest(options={"axis": 3})
    for name, array in ARRAYS.items():
        getattr(whole, name).CopyFrom(tensors.encode(name, array))
    yield tensors.write(pb.ComputeRequest, request.SerializeToString(), ARRAYS, {}), whole
    outputs = {"loss": np.float64(2).reshape(()), "grad_logits": ARRAYS["logits"]}
    response = pb.ComputeResponse()
    for name, array in outputs.items():
        getattr(response, name).CopyFrom(tensors.encode(name, array))
    yield tensors.write(pb.ComputeResponse, b"", outputs, {}), response
    for kind, number, head, names in (
        (pb.ComputeStreamRequest, 2, pb.RowBlock(first_row=300, rows=9), ("labels", "logits")),
        (pb.ComputeStreamResponse, 1, pb.ResultBlock(rows=2**40), ("per_example", "grad_logits")),
    ):
        values = dict(zip(names, (ARRAYS["labels"], ARRAYS["logits"]), strict=True))
        fields = head.DESCRIPTOR.fields_by_name
        writer = codec.Writer()
        writer.add((number,), head, 2, [(fields[n].number, values[n]) for n in names])
        for name, array in values.items():
            setattr(head, name, array.tobytes())
        yield writer.to_bytes(), kind(block=head)


def test_what_is_written_is_read_by_protobuf():
    """Generated classes find in each kind of message what was put into it."""
    for payload, expected in written():
        assert type(expected).FromString(payload) == expected
        assert len(payload) < expected.ByteSize() + 24
        message, views = codec.parse(type(expected), payload)
        assert views
        assert put_back(message, views, payload) == expected


PURE = """
import sys
from google.protobuf.internal import api_implementation
from losswire_proto.v1 import loss_service_pb2 as pb

assert api_implementation.Type() == "python"
for line in sys.stdin:
    kind, payload, expected = line.split()
    kind = getattr(pb, kind)
    assert kind.FromString(bytes.fromhex(payload)) == kind.FromString(bytes.fromhex(expected))
    print("equal")
"""


def test_what_is_written_is_read_by_other_parsers():
    """Protobuf's implementation in pure Python reads the numbers that are longer than need be."""
    lines = [
        f"{type(m).__name__} {payload.hex()} {m.SerializeToString().hex()}"
        for payload, m in written()
    ]
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PURE],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        env={"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
        timeout=60,
        check=False,
    )
    assert ran.stdout.split() == ["equal"] * 4, ran.stderr


@pytest.mark.parametrize("near", [0, 1 << 7, 1 << 14, 1 << 21])
def test_elements_lie_where_they_can_be_computed_on(near):
    """The last array begins at a multiple of 8, also where a length takes a further byte."""
    heads = [pb.RowBlock(first_row=1, rows=1), pb.RowBlock(first_row=300, rows=2**21 - 1)]
    for size in range(max(near - 40, 1), near + 2):
        labels = np.zeros(3, np.uint8)
        for head in heads:
            writer = codec.Writer()
            writer.add((2,), head, 2, [(3, labels), (15, np.full(size, 7, np.uint8))])
            payload = writer.to_bytes()
            assert (len(payload) - size) % codec.ALIGNMENT == 0
            read = pb.ComputeStreamRequest.FromString(payload)
            assert (read.block.rows, len(read.block.logits)) == (head.rows, size)


@pytest.mark.parametrize("rows", [2**21, 2**28, 2**35, 2**63 - 1])
def test_numbers_are_not_written_longer_than_any_parser_reads(rows):
    """A large number is written so that it can be read, wherever the elements come to lie."""
    for size in range(1, 20):
        writer = codec.Writer()
        writer.add((2,), pb.RowBlock(rows=rows), 2, [(15, np.full(size, 7, np.uint8))])
        assert pb.ComputeStreamRequest.FromString(writer.to_bytes()).block.rows == rows


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=3),
    number=st.sampled_from([1, 2, 3, 4, 8]),
    ignore_index=st.none() | st.integers(-(2**63), 2**63 - 1),
)
def test_every_tensor_of_a_request_lies_aligned(sizes, number, ignore_index):
    """However many arrays a message ends in, each of them begins at a multiple of 8."""
    dtype = dtypes.dtype_of(number)
    arrays = dict(zip(("sample_weight", "labels", "logits"), map(np.ones, sizes), strict=False))
    arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    message = pb.ComputeRequest()
    if ignore_index is not None:
        message.options.softmax_cross_entropy.ignore_index = ignore_index
    with mock.patch.object(codec, "SMALLEST_CUT", FEW):
        payload = tensors.write(type(message), message.SerializeToString(), arrays, {})
        parsed, views = codec.parse(pb.ComputeRequest, payload)
        for name, array in arrays.items():
            back = tensors.decode_field(name, parsed, name, views)
            assert back.dtype == dtype
            assert np.array_equal(back, array)
    start = np.frombuffer(payload, np.uint8).ctypes.data
    for view in views.values():
        assert (np.frombuffer(view, np.uint8).ctypes.data - start) % codec.ALIGNMENT == 0


@pytest.mark.parametrize("dtype", dtypes.FLOATS, ids=str)
def test_elements_anywhere_are_read(dtype):
    """Other clients put elements at any offset; they come out the same, and aligned."""
    array = np.arange(18000, dtype=np.float32).reshape(2, 9000).astype(dtype)
    tensor = tensors.encode("logits", array)
    for offset in range(codec.ALIGNMENT):
        payload = field(99, BYTES, bytes(offset)) + field(15, BYTES, tensor.SerializeToString())
        message, views = codec.parse(pb.ComputeRequest, payload)
        assert list(views) == [(15, 15)]
        back = tensors.decode_field("logits", message, "logits", views)
        assert back.flags.aligned
        assert back.tobytes() == array.tobytes()


def test_elements_that_lie_well_are_not_copied():
    """An array that was read looks into the payload, and cannot be written."""
    payload = tensors.write(pb.ComputeRequest, b"", {"logits": ARRAYS["logits"]}, {})
    message, views = codec.parse(pb.ComputeRequest, payload)
    back = tensors.decode_field("logits", message, "logits", views)
    assert np.shares_memory(back, np.frombuffer(payload, np.uint8))
    assert not back.flags.writeable
