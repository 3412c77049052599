"""Loss calls and tensors as messages, and messages that are not what they should be."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from losswire_proto import dtypes, tensors, wire
from losswire_proto.losses import LossCall, SoftmaxCrossEntropy
from losswire_proto.rules import InvalidField
from losswire_proto.v1 import options_pb2, tensor_pb2

losses = st.builds(
    SoftmaxCrossEntropy,
    ignore_index=st.none() | st.integers(-(2**63), 2**63 - 1),
    out_of_range=st.sampled_from(["error", "nan", "ignore"]),
    label_gradient=st.sampled_from(["exact", "tf"]),
)
calls = st.builds(
    LossCall,
    loss=losses,
    axis=st.integers(-(2**31), 2**31 - 1),
    reduction=st.just("mean"),
    normalizer=st.sampled_from(["valid", "weights", "size"]) | st.floats(0, 1e300),
    empty_mean=st.sampled_from(["nan", "zero"]),
    grad_logits=st.booleans(),
    grad_labels=st.booleans(),
)


@given(call=calls)
def test_calls_survive_the_wire(call):
    """Any call comes back from its message as it was, ignore_index 0 and axis 0 included."""
    payload = wire.encode_call(call).SerializeToString()
    assert wire.decode_call(options_pb2.LossOptions.FromString(payload)) == call


def test_defaults_take_no_room():
    """A call at its defaults is a message with nothing but the loss in it."""
    assert wire.encode_call(LossCall()).ByteSize() == 2


def message(**fields):
    return options_pb2.LossOptions(
        softmax_cross_entropy=options_pb2.SoftmaxCrossEntropyOptions(), **fields
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("reduction", 0), ("reduction", 77), ("empty_mean", 0), ("normalizer_rule", 0)],
)
def test_unspecified_and_unknown_enums_are_refused(field, value):
    """An enum's zero, when sent, and numbers without meaning are named with what is allowed."""
    with pytest.raises(InvalidField, match=f"{field}: expected one of .*enum value {value}"):
        wire.decode_call(message(**{field: value}))


def test_own_enums_are_refused_too():
    """The same within the options of a loss."""
    own = options_pb2.SoftmaxCrossEntropyOptions(out_of_range=0)
    with pytest.raises(InvalidField, match="out_of_range: expected one of ERROR, NAN, IGNORE"):
        wire.decode_call(options_pb2.LossOptions(softmax_cross_entropy=own))


def test_no_loss_is_refused():
    """A message without a loss has nothing to compute."""
    with pytest.raises(InvalidField, match=r"options\.loss: expected one loss, received none"):
        wire.decode_call(options_pb2.LossOptions())


@pytest.mark.parametrize(
    "unknown",
    [
        # a loss and an option with numbers that this version does not know
        options_pb2.LossOptions.FromString(b"\x9a\x01\x00"),
        options_pb2.LossOptions.FromString(b"\x0a\x03\x98\x06\x01"),
        # field 999, as a client of a later contract might set it
        options_pb2.LossOptions.FromString(message().SerializeToString() + b"\xb8\x3e\x01"),
    ],
    ids=["loss", "option", "field"],
)
def test_what_this_version_lacks_is_refused(unknown):
    """A loss, an option or a field without a definition is never passed over in silence."""
    with pytest.raises(wire.NotSupported, match="does not"):
        wire.decode_call(unknown)


@pytest.mark.parametrize("number", range(1, 13))
def test_arrays_survive_the_wire(number):
    """Every dtype comes back with shape and bits, row-major and little-endian in between."""
    dtype = dtypes.dtype_of(number)
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    for each in (
        array,
        array[:, ::2],
        np.asfortranarray(array),
        array[:0],
        array[0, 0, 1:2].reshape(()),
    ):
        sent = tensors.encode("x", each)
        assert sent.dtype == number
        back = tensors.decode("x", tensor_pb2.Tensor.FromString(sent.SerializeToString()))
        assert back.dtype == dtype
        assert back.shape == each.shape
        assert np.array_equal(back, each)


def test_big_endian_is_normalised():
    """A big-endian array arrives as the same numbers."""
    array = np.arange(5, dtype=">f4")
    assert tensors.encode("x", array).data == np.arange(5, dtype="<f4").tobytes()


def tensor(**fields):
    return tensor_pb2.Tensor(**{"dtype": 3, "shape": [2, 3], "data": bytes(24)} | fields)


REGION = tensor_pb2.RegionSlice(region_id="nowhere", length=24)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (tensor(dtype=0), "x.dtype: expected a known DataType, received enum value 0"),
        (tensor(dtype=99), "x.dtype: expected a known DataType, received enum value 99"),
        (tensor(shape=[2, -3]), "x.shape: expected dimensions >= 0, received [2, -3]"),
        (tensor(shape=[2**31, 2**31, 2]), "x.shape: expected product(shape) below 2^58"),
        (tensor(shape=[2**62, 2**62, 0]), "below 2^58"),
        (tensor(shape=[0, 2**58]), "below 2^58"),
        (tensor(shape=[1] * 33), "x.shape: expected at most 32 dimensions, received 33"),
        (tensor(data=bytes(23)), "x.data: expected 24 bytes for float32 [2, 3], received 23 bytes"),
        (tensor(data=bytes(25)), "received 25 bytes"),
        (tensor(region=REGION), "x: expected one storage, received both data and region"),
        (tensor_pb2.Tensor(dtype=3, shape=[0]), "received neither"),
        (
            tensor_pb2.Tensor(dtype=3, shape=[2, 3], region=REGION),
            "x.region: expected the id of an open region, received 'nowhere'",
        ),
    ],
)
def test_broken_tensors_are_refused(bad, words):
    """Each way a tensor can contradict itself is named with what was expected."""
    with pytest.raises(InvalidField) as caught:
        tensors.decode("x", bad)
    assert words in str(caught.value)


def test_a_shape_of_many_dimensions_is_not_spelt_out():
    """Dimensions beyond the limit are refused by their number, and take no memory here."""
    message = tensor_pb2.TensorSpec(dtype=3, shape=[1] * 100_000)
    tracemalloc.start()
    with pytest.raises(InvalidField, match="at most 32 dimensions, received 100000"):
        tensors.read_spec("x", message)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_decoding_copies_nothing():
    """A decoded array looks into the message's bytes and cannot be written."""
    assert not tensors.decode("x", tensor()).flags.owndata
    assert not tensors.decode("x", tensor()).flags.writeable


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("axis", 1.0),
        ("axis", True),
        ("axis", 2**63),
        ("reduction", "average"),
        ("reduction", None),
        ("normalizer", "mean"),
        ("normalizer", -1),
        ("normalizer", float("nan")),
        ("normalizer", float("inf")),
        ("normalizer", True),
        ("normalizer", None),
        ("empty_mean", 0),
        ("grad_logits", 1),
    ],
)
def test_bad_common_options(field, value):
    """A common option outside what is allowed is refused by its definition, by name."""
    with pytest.raises(InvalidField, match=f"^{field}: expected .*, received {value!r}$"):
        LossCall(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ignore_index", 1.5),
        ("ignore_index", 2**63),
        ("out_of_range", "clip"),
        ("label_gradient", 1),
    ],
)
def test_bad_own_options(field, value):
    """The same for the options of softmax cross-entropy."""
    with pytest.raises(InvalidField, match=f"^{field}: expected .*, received {value!r}$"):
        LossCall(loss=SoftmaxCrossEntropy(**{field: value}))
