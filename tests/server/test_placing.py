"""Results in shared memory: right wherever they lie, also over what they are computed from."""

import asyncio
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyloss import problems
from losswire_proto import dtypes, wire
from losswire_proto.losses import LossCall, SigmoidCrossEntropy, SoftmaxCrossEntropy
from losswire_proto.rules import Spec
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_server import replies, validation
from losswire_server.engine import tiles
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.errors import InvalidRequest, UnknownRegion
from losswire_server.regions import Regions
from losswire_server.requests import LossRequest
from shared_memory import PROOF, SharedFile

SIZE = 1 << 16


@pytest.fixture(scope="module")
def engine():
    """An engine whose tiles are so small that requests of a few rows are cut."""
    made = NumpyEngine(threads=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE_ELEMENTS", 8)
        yield made
    made.close()


@pytest.fixture(scope="module")
def shared():
    """Open regions, and memory that is one of them under two ids."""
    with asyncio.Runner() as runner, SharedFile(SIZE) as file:
        regions = Regions(1 << 30)

        async def announce():
            return [await regions.open(os.getpid(), file.fd, SIZE, PROOF) for _ in range(2)]

        file.id, file.second_id = runner.run(announce())
        yield regions, file

        async def close():
            regions.close_all()

        runner.run(close())


def results_of(request):
    """The shapes and dtypes of results that may have a destination."""
    specs = {"output": Spec.of(request.logits)}
    if request.reading != "none":
        dtype = dtypes.compute_dtype(request.logits.dtype)
        specs = {"per_example": Spec(dtype, request.example_shape)}
    if request.call.grad_logits:
        specs["grad_logits"] = Spec.of(request.logits)
    if request.call.grad_labels:
        specs["grad_labels"] = Spec.of(request.labels)
    return specs


def whole(problem):
    """The request without regions."""
    head = pb.ComputeRequest(options=wire.encode_call(problem.call)).SerializeToString()
    given = {"logits": problem.logits, "labels": problem.labels, **problem.weights}
    arrays = {name: array for name, array in given.items() if array is not None}
    payload = replies.tensors.write(pb.ComputeRequest, head, arrays, {})
    return validation.parse_compute(payload, Regions(0))


def computed(engine, request):
    """All results of a request, by name; sequence_loss's loss is one of them."""
    (result,) = engine.compute([request])
    return replies._arrays(result)


@st.composite
def layouts(draw):
    """A request, where in one region its inputs lie, and where its results go."""
    problem = draw(problems())
    request = whole(problem)
    inputs = {"logits": problem.logits}
    if problem.labels is not None:
        inputs["labels"] = problem.labels
    inputs |= problem.weights
    at, position = {}, 64
    for name, array in inputs.items():
        at[name] = position
        position += -(-array.nbytes // 8) * 8 + 8
    places, taken = {}, []
    for name, spec in results_of(request).items():
        exact = [offset for each, offset in at.items() if inputs[each].nbytes == spec.nbytes]
        shifted = [offset + 8 * draw(st.integers(-2, 4)) for offset in at.values()]
        for offset in draw(st.permutations([*exact, *exact, *shifted])):
            if offset >= 32 and all(
                offset + spec.nbytes <= start or stop <= offset for start, stop in taken
            ):
                places[name] = offset
                taken.append((offset, offset + spec.nbytes))
                break
    second = draw(st.sets(st.sampled_from([*inputs, *places])))
    return problem, request, inputs, at, places, second


@settings(max_examples=500, deadline=None)
@given(layout=layouts())
def test_results_over_inputs(engine, shared, layout):
    """Results are the same to the bit wherever in the inputs' memory they are written.

    Over an input exactly, or shifted by a few elements; over several of them; logits, labels and
    weights; in one region or in two that are the same memory.
    """
    problem, request, inputs, at, places, second = layout
    regions, file = shared
    expected = computed(engine, request)
    message = pb.ComputeRequest(options=wire.encode_call(problem.call))
    for name, array in inputs.items():
        tensor = file.put(array, at[name])
        if name in second:
            tensor.region.region_id = file.second_id
        getattr(message, name).CopyFrom(tensor)
    specs = results_of(request)
    for name, offset in places.items():
        place = file.slice(specs[name], offset)
        if name in second:
            place.region_id = file.second_id
        getattr(message.destinations, name).CopyFrom(place)
    placed = validation.parse_compute(message.SerializeToString(), regions)
    results = computed(engine, placed)
    assert results.keys() == expected.keys()
    for name, array in expected.items():
        got = results[name]
        if name in places:
            got = file.array(specs[name].dtype, specs[name].shape, places[name])
        assert got.tobytes() == array.tobytes(), name


def request_message(file, logits, labels, call, **places):
    """A request with both tensors in the region, results at offsets of it."""
    message = pb.ComputeRequest(options=wire.encode_call(call))
    message.logits.CopyFrom(file.put(logits, 64))
    message.labels.CopyFrom(file.put(labels, 1 << 12))
    for name, (spec, offset) in places.items():
        getattr(message.destinations, name).CopyFrom(file.slice(spec, offset))
    return message


LOGITS, IDS = np.zeros((4, 6), np.float32), np.zeros(4, np.int64)
GRAD, ROWS = Spec.of(LOGITS), Spec(np.dtype(np.float32), (4,))
WITH_GRADIENT = LossCall(grad_logits=True)


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ({"output": (GRAD, 64)}, r"destinations.output: expected none for .* received a slice"),
        ({"grad_labels": (ROWS, 64)}, r"destinations.grad_labels: expected none for a result"),
        ({"grad_logits": (ROWS, 64)}, r"grad_logits: expected 96 bytes for .* received 16 bytes"),
        ({"grad_logits": (GRAD, 68)}, r"at a multiple of 8, received 96 bytes at 68"),
        ({"grad_logits": (GRAD, SIZE - 88)}, r"within the region's 65536 bytes, received 65448"),
        ({"grad_logits": (GRAD, 2**64 - 96)}, r"destinations.grad_logits: expected offset"),
        (
            {"grad_logits": (GRAD, 512), "per_example": (ROWS, 600)},
            r"destinations.grad_logits: expected no overlap with destinations.per_example",
        ),
    ],
    ids=["unasked", "ids have none", "size", "alignment", "beyond", "overflow", "overlap"],
)
def test_destinations_that_cannot_be(shared, places, words):
    """A slice that is no place for a result is refused by field, expected and received."""
    regions, file = shared
    message = request_message(file, LOGITS, IDS, WITH_GRADIENT, **places)
    with pytest.raises(InvalidRequest, match=words):
        validation.parse_compute(message.SerializeToString(), regions)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"offset": 2**64 - 1}, r"logits.region: expected offset \+ length within the region's"),
        ({"offset": SIZE - 8}, r"logits.region: expected offset \+ length within the region's"),
        ({"length": 2**64 - 1}, r"logits.region: expected offset \+ length within the region's"),
        ({"length": 95}, r"logits.data: expected 96 bytes for float32 \[4, 6\], received 95"),
    ],
)
def test_inputs_that_are_not_there(shared, change, words):
    """A slice outside its region or of another size than its tensor is refused by its field."""
    regions, file = shared
    message = request_message(file, LOGITS, IDS, WITH_GRADIENT)
    for name, value in change.items():
        setattr(message.logits.region, name, value)
    with pytest.raises(InvalidRequest, match=words):
        validation.parse_compute(message.SerializeToString(), regions)


def test_regions_that_are_not_open(shared):
    """Unknown ids are NOT_FOUND wherever they stand, and long ones are not repeated whole."""
    regions, file = shared
    for where in ("logits", "labels", "destinations.grad_logits"):
        message = request_message(file, LOGITS, IDS, WITH_GRADIENT, grad_logits=(GRAD, 64))
        part = message.destinations.grad_logits
        if where != "destinations.grad_logits":
            part = getattr(message, where).region
        part.region_id = "x" * 100_000
        with pytest.raises(UnknownRegion, match=f"^{where}") as caught:
            validation.parse_compute(message.SerializeToString(), regions)
        assert len(str(caught.value)) < 200


def test_what_the_server_holds_itself_is_counted(shared):
    """Memory of the client costs no admission; copies that the server makes of it do."""
    regions, file = shared
    call = LossCall(SoftmaxCrossEntropy(), grad_logits=True)
    places = {"grad_logits": (GRAD, 1 << 13), "per_example": (ROWS, 1 << 14)}

    def held(labels, **others):
        message = request_message(file, LOGITS, labels, call, **(places | others))
        return validation.parse_compute(message.SerializeToString(), regions).held_bytes

    assert held(np.zeros((4, 6), np.float32)) == 0
    assert held(IDS) == IDS.nbytes
    assert held(np.zeros((1, 6), np.float64)) == 48
    assert held(np.zeros((4, 6), np.float32), grad_logits=(GRAD, 72)) == LOGITS.nbytes


def test_ids_and_weights_are_copied_before_they_are_checked(shared):
    """What a client writes later does not reach what was checked: ids index memory."""
    regions, file = shared
    weight = np.ones(4)
    message = request_message(file, LOGITS, IDS, WITH_GRADIENT)
    message.sample_weight.CopyFrom(file.put(weight, 1 << 13))
    request = validation.parse_compute(message.SerializeToString(), regions)
    file.array(np.int64, (4,), 1 << 12)[...] = 10**9
    file.array(np.float64, (4,), 1 << 13)[...] = np.nan
    assert np.array_equal(request.labels, IDS)
    assert np.array_equal(request.sample_weight, weight)
    assert not np.shares_memory(request.labels, file.memory)


def test_only_rows_that_are_overwritten_are_read_first(shared):
    """In place is what lies exactly over an input; slices that touch merely become copies."""
    regions, file = shared
    labels = np.zeros((4, 6), np.float32)

    def parsed(offset) -> LossRequest:
        call = LossCall(SigmoidCrossEntropy(), grad_logits=True)
        message = request_message(file, LOGITS, labels, call, grad_logits=(GRAD, offset))
        return validation.parse_compute(message.SerializeToString(), regions)

    assert parsed(64).is_in_place
    assert parsed(1 << 12).is_in_place
    assert not parsed(72).is_in_place
    assert not parsed(64 + 96).is_in_place
    assert parsed(72).logits.flags.owndata
    assert not parsed(64 + 96).logits.flags.owndata
