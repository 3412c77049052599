"""Bad input: the same words from the client, before a byte is sent, and from the server.

Each case is one request, told twice: as a caller's arguments and as a message that some other
client sends with generated code.
"""

import grpc
import ml_dtypes
import numpy as np
import pytest

import losswire
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import loss_service_pb2_grpc, options_pb2, tensor_pb2

NUMBERS = {
    "float32": 3,
    "float64": 4,
    "int8": 5,
    "int32": 7,
    "int64": 8,
    "uint64": 12,
    "float16": 1,
    "bfloat16": 2,
}

LOGITS = np.zeros((2, 3), np.float32)
IDS = np.array([0, 1])
ONE_HOT = np.eye(3, dtype=np.float32)[:2]


def tensor(array):
    return tensor_pb2.Tensor(
        dtype=NUMBERS[array.dtype.name], shape=array.shape, data=array.tobytes()
    )


def message(logits=LOGITS, labels=IDS, sample_weight=None, class_weight=None, own=None, **options):
    ignore_index = options.pop("ignore_index", None)
    own = options_pb2.SoftmaxCrossEntropyOptions(ignore_index=ignore_index, **(own or {}))
    request = pb.ComputeRequest(
        options=options_pb2.LossOptions(softmax_cross_entropy=own, **options),
        logits=tensor(logits),
        labels=tensor(labels),
    )
    if sample_weight is not None:
        request.sample_weight.CopyFrom(tensor(sample_weight))
    if class_weight is not None:
        request.class_weight.CopyFrom(tensor(class_weight))
    return request


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.target) as channel:
        yield loss_service_pb2_grpc.LossServiceStub(channel)


@pytest.fixture
def offline():
    """A client with nobody to talk to: what it refuses, it refuses by itself."""
    with losswire.Client("127.0.0.1:1") as client:
        yield client


def refusal(stub, request):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Compute(request, timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    return caught.value.details()


OPTIONS = {
    "label_smoothing": (1.5, "label_smoothing: expected a number in [0, 1], received 1.5"),
    "z_loss": (-1.0, "z_loss: expected a finite number >= 0, received -1.0"),
    "softcap": (0.0, "softcap: expected a finite number > 0, received 0.0"),
    "temperature": (0.0, "temperature: expected a finite number > 0, received 0.0"),
}

BOTH = {
    "ids of another shape": (
        {"labels": np.array([0, 1, 2])},
        "labels: expected class ids (an integer dtype, shape [2]: logits' shape without axis 1)"
        " or distributions (a float dtype, broadcastable to [2, 3]), received int64 [3]",
    ),
    "distributions of another shape": ({"labels": np.zeros((2, 4), np.float32)}, "float32 [2, 4]"),
    "floats where ids are needed": ({"labels": np.float32([0, 1])}, "received float32 [2]"),
    "integers where floats are needed": ({"labels": np.zeros((2, 3), np.int32)}, "int32 [2, 3]"),
    "axis too large": (
        {"axis": 2},
        "axis: expected an integer in [-2, 2) for logits float32 [2, 3], received 2",
    ),
    "axis too small": ({"axis": -3}, "received -3"),
    "id too large": (
        {"logits": np.zeros((2, 2, 3)), "labels": np.array([[0, 2], [3, 9]])},
        "labels: expected class ids in [0, 3), received 3 at index (1, 0)",
    ),
    "id too large by one": ({"labels": np.array([3, 0])}, "received 3 at index (0)"),
    "id negative": ({"labels": np.int8([1, -1])}, "received -1 at index (1)"),
    "id beyond int64": (
        {"labels": np.uint64([1, 2**64 - 1])},
        f"received {2**64 - 1} at index (1)",
    ),
    "id out of range beside ignore_index": (
        {"labels": np.array([-100, -1]), "ignore_index": -100},
        "labels: expected class ids in [0, 3), or ignore_index -100, received -1 at index (1)",
    ),
    "ignore_index with distributions": (
        {"labels": ONE_HOT, "ignore_index": 1},
        "ignore_index: expected None where labels are no ids, received 1",
    ),
    "rank 0": (
        {"logits": np.float32(1).reshape(()), "labels": np.array(0)},
        "logits.shape: expected at least one dimension, received a scalar",
    ),
    "zero classes": (
        {"logits": np.zeros((2, 0), np.float32)},
        "logits.shape: expected at least one class along axis -1, received [2, 0]",
    ),
    "integer logits": (
        {"logits": np.zeros((2, 3), np.int32)},
        "logits.dtype: expected one of float16, bfloat16, float32, float64, received int32",
    ),
    "NaN weights": (
        {"sample_weight": np.float32([1, np.nan])},
        "sample_weight: expected finite values, received nan at index (1)",
    ),
    "signalling NaN in half precision": (
        {"sample_weight": np.array([0x3F80, 0x7F81], np.uint16).view(ml_dtypes.bfloat16)},
        "sample_weight: expected finite values, received nan at index (1)",
    ),
    "infinite weights": ({"sample_weight": np.float64([-np.inf, 1])}, "-inf at index (0)"),
    "class weights of another shape": (
        {"class_weight": np.ones(2)},
        "class_weight: expected a float dtype, shape [3], received float64 [2]",
    ),
    "negative class weight": (
        {"class_weight": np.float32([1, -2, 1])},
        "class_weight: expected finite values >= 0, received -2.0 at index (1)",
    ),
    "weights of another shape": (
        {"sample_weight": np.ones(3)},
        "sample_weight: expected a float dtype, broadcastable to [2], received float64 [3]",
    ),
}


@pytest.mark.parametrize(("arguments", "words"), BOTH.values(), ids=BOTH.keys())
def test_client_and_server_say_the_same(stub, offline, arguments, words):
    """Each bad request is refused in the same words on both sides."""
    said_by_server = refusal(stub, message(**arguments))
    given = {"logits": LOGITS, "labels": IDS} | arguments
    with pytest.raises(losswire.InvalidInput) as caught:
        offline.softmax_cross_entropy(**given)
    assert words in str(caught.value)
    assert str(caught.value) == said_by_server
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(("value", "words"), OPTIONS.values(), ids=OPTIONS.keys())
def test_bad_options_in_the_same_words(stub, offline, request, value, words):
    """Each option outside what is allowed is named, with value and what is allowed."""
    name = request.node.callspec.id
    assert refusal(stub, message(own={name: value})) == words
    with pytest.raises(losswire.InvalidInput) as caught:
        offline.softmax_cross_entropy(LOGITS, IDS, **{name: value})
    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda c: c.softmax_cross_entropy(LOGITS, IDS, extras="argmin"),
            "extras: expected some of 'logsumexp', 'argmax', 'entropy', received ('argmin',)",
        ),
        (
            lambda c: c.softmax_cross_entropy(
                LOGITS, ONE_HOT, class_weight=[1.0, 1, 1], label_gradient="tf"
            ),
            "label_gradient: expected 'exact' with class_weight",
        ),
        (
            lambda c: c.sigmoid_cross_entropy(LOGITS, IDS),
            "labels: expected one number per element (a float dtype, shape [2, 3]), received int64",
        ),
        (
            lambda c: c.sigmoid_cross_entropy(LOGITS, ONE_HOT, pos_weight=[-1.0]),
            "pos_weight: expected finite values >= 0, received -1.0 at index (0)",
        ),
        (
            lambda c: c.categorical_cross_entropy(LOGITS, IDS, epsilon=0.5),
            "epsilon: expected a number in [0, 0.5), received 0.5",
        ),
        (
            lambda c: c.categorical_cross_entropy(IDS, IDS),
            "probabilities.dtype: expected one of float16",
        ),
        (
            lambda c: c.kl_divergence(LOGITS, IDS),
            "target: expected distributions (a float dtype, broadcastable to [2, 3])",
        ),
        (
            lambda c: c.kl_divergence(LOGITS, ONE_HOT, gradients="labels"),
            "gradients: expected 'labels' only with float labels of softmax_cross_entropy",
        ),
        (lambda c: c.focal(LOGITS, IDS, gamma=-1), "gamma: expected a finite number >= 0"),
        (lambda c: c.focal(LOGITS, IDS, form="tanh"), "form: expected one of 'softmax', 'sigmoid'"),
        (
            lambda c: c.focal(LOGITS, ONE_HOT, form="sigmoid", ignore_index=1),
            "ignore_index: expected None where labels are no ids, received 1",
        ),
        (lambda c: c.softmax(LOGITS, axis=2), "axis: expected an integer in [-2, 2)"),
        (
            lambda c: c.sequence_loss(LOGITS[None], IDS, [[1.0, 1.0]]),
            "targets: expected class ids (an integer dtype, shape [1, 2]",
        ),
        (
            lambda c: c.sequence_loss(LOGITS, IDS, [1.0, 1.0]),
            "logits.shape: expected [batch, time, classes], received [2, 3]",
        ),
    ],
)
def test_bad_input_of_every_loss(offline, call, words):
    """What a loss cannot take is refused by name, before a byte is sent."""
    with pytest.raises(losswire.InvalidInput) as caught:
        call(offline)
    assert words in str(caught.value)


def changed(**fields):
    """A good message with some of its logits' fields changed."""
    request = message()
    request.logits.MergeFrom(tensor_pb2.Tensor(**fields))
    return request


def without(*fields):
    request = message()
    for field in fields:
        request.ClearField(field)
    return request


def reshaped(shape):
    request = message()
    request.logits.shape[:] = shape
    return request


def of_dtype(number):
    request = message()
    request.logits.dtype = number
    return request


REGION = tensor_pb2.RegionSlice(region_id="nowhere", length=24)
ELSEWHERE = without()
ELSEWHERE.logits.ClearField("data")
ELSEWHERE.logits.region.CopyFrom(REGION)
PLACED = message(grad_logits=True)
PLACED.destinations.grad_logits.CopyFrom(REGION)

SEQUENCES = message(logits=np.zeros((2, 3, 4), np.float32), labels=np.zeros((3, 4), np.int32))
SEQUENCES.options.sequence_loss.SetInParent()
SEQUENCES.options.axis = 0

SERVER_ONLY = {
    "sequences along another axis": (SEQUENCES, "axis: expected the last one with sequence_loss"),
    "byte length": (changed(data=bytes(23)), "logits.data: expected 24 bytes for float32 [2, 3]"),
    "negative dimension": (reshaped([-2, -3]), "logits.shape: expected dimensions >= 0"),
    "overflow of 64 bits": (reshaped([2**32, 2**32, 3]), "below 2^58"),
    "dtype zero": (of_dtype(0), "logits.dtype: expected a known DataType"),
    "dtype unknown": (of_dtype(77), "logits.dtype: expected a known DataType"),
    "two storages": (changed(region=REGION), "logits: expected one storage"),
    "no logits": (without("logits"), "logits: expected to be set, received nothing"),
    "no labels": (without("labels"), "labels: expected to be set, received nothing"),
    "no options": (without("options"), "options: expected to be set, received nothing"),
    "enum zero": (message(reduction=0), "reduction: expected one of NONE, SUM, MEAN"),
    "bad normalizer": (message(reduction=3, normalizer_value=-1.0), "normalizer: expected"),
    "gradient to ids": (message(grad_labels=True), "gradients: expected 'labels' only with float"),
}


@pytest.mark.parametrize(("request_", "words"), SERVER_ONLY.values(), ids=SERVER_ONLY.keys())
def test_broken_messages(stub, request_, words):
    """What only another client can send is refused by the server."""
    assert words in refusal(stub, request_)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (ELSEWHERE, "logits.region: expected the id of an open region, received 'nowhere'"),
        (PLACED, "destinations.grad_logits: expected the id of an open region"),
    ],
)
def test_regions_that_are_not_open(stub, request_, words):
    """A region that the server does not know is NOT_FOUND, for a client to open it again."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.Compute(request_, timeout=20)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert words in caught.value.details()


def test_bytes_that_are_no_message(server):
    """Bytes that do not parse are the caller's mistake, not the server's."""
    with grpc.insecure_channel(server.target) as channel:
        call = channel.unary_unary("/losswire.v1.LossService/Compute")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff" * 100, timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "received 100 other bytes" in caught.value.details()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"logits": [[1.0], [1.0, 2.0]]}, "logits: expected an array, received list"),
        ({"logits": "abc"}, "logits.dtype: expected one of"),
        ({"logits": None}, "logits.dtype: expected one of"),
        ({"labels": [True, False]}, "received bool [2]"),
        ({"gradients": "weights"}, "gradients: expected True, False, or some of"),
        ({"gradients": ("labels",)}, "gradients: expected 'labels' only with float labels"),
        ({"axis": 0.5}, "axis: expected an integer of 64 bits, received 0.5"),
        (
            {"normalizer": np.ones(3)},
            "normalizer: expected one of 'valid', 'weights', 'size', or a finite",
        ),
        ({"timeout": 0}, "timeout: expected a finite number of seconds > 0, received 0"),
        ({"timeout": float("nan")}, "timeout: expected"),
    ],
)
def test_arguments_that_are_no_request(offline, arguments, words):
    """What cannot even be put into a message is refused with the argument's name."""
    with pytest.raises(losswire.InvalidInput) as caught:
        offline.softmax_cross_entropy(**({"logits": LOGITS, "labels": IDS} | arguments))
    assert words in str(caught.value)


def test_a_bad_request_harms_no_other(server, client):
    """Between refusals, good requests are answered as ever."""
    expected = client.softmax_cross_entropy(LOGITS, IDS)
    with grpc.insecure_channel(server.target) as channel:
        stub = loss_service_pb2_grpc.LossServiceStub(channel)
        for request, _ in SERVER_ONLY.values():
            refusal(stub, request)
            result = client.softmax_cross_entropy(LOGITS, IDS)
            assert np.array_equal(result.loss, expected.loss)
