"""The GPU engine on a real GPU, beside the NumPy engine."""

from dataclasses import replace

import numpy as np
import pytest

from batches import KINDS, Common, bits, placed, request_of
from gpu_found import found_gpu
from kernel_cases import (
    ELEMENT_CASES,
    EVERYTHING,
    FAINT,
    FLOATS,
    PLAIN,
    ROW_CASES,
    adversarial,
    assert_digits_of_padded,
    assert_faint,
    assert_near,
    exact_results,
    padded,
)
from kernel_cases import (
    request_of as case_of,
)
from losswire_proto.losses import LossCall
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.engine.selection import EngineSettings, choose_engine
from losswire_server.requests import UNKNOWN, LossRequest

pytestmark = pytest.mark.gpu
SHAPES = [((5000,), 1), ((3, 700), 1), ((3, 700), 2), ((700,), 0), ((1,), 1)]


@pytest.fixture(scope="module")
def engine():
    found_gpu()
    made, _ = choose_engine(EngineSettings("cupy"), print)
    yield made
    made.close()


def batch_of(kind, dtype, classes):
    random = np.random.default_rng(classes)
    has_labels = kind in {"distribution", "broadcast"}
    common = Common(kind, np.dtype(dtype), classes, kind != "none", has_labels, None)
    made = [request_of(common, random, *shape, reduction="mean") for shape in SHAPES]
    return [each for each in made if each.batch_key == made[0].batch_key]


@pytest.mark.parametrize("classes", [3, 100, 1000, 5000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_numpy(engine, kind, dtype, classes):
    """A mixture of shapes and axes: each request's own bits, near the NumPy engine's."""
    batch = batch_of(kind, dtype, classes)
    together = engine.compute(batch)
    assert [bits(each) for each in together] == [bits(engine.compute([each])[0]) for each in batch]
    numpy = NumpyEngine()
    expected = numpy.compute(batch)
    numpy.close()
    for mine, theirs in zip(together, expected, strict=True):
        for name in ("loss", "per_example", "grad_logits", "grad_labels", "output"):
            own, other = getattr(mine, name), getattr(theirs, name)
            assert (own is None) == (other is None)
            if own is not None:
                # Roundings of float32 in sums of up to 5000 terms.
                tolerance = 1e-5 if own.dtype == np.float32 else 1e-12
                np.testing.assert_allclose(own, other, rtol=tolerance, atol=tolerance)


def test_registered_memory(engine):
    """Logits that lie in registered memory, and their gradient over them, change no bit."""
    [request, *_] = batch_of("ids", np.float32, 1000)
    expected = bits(engine.compute([request])[0])
    memory = np.zeros(32 << 20, np.uint8)
    lying, _ = placed(request, memory, 0, in_place=True)
    engine.register(memory.ctypes.data, memory.nbytes)
    try:
        assert bits(engine.compute([lying])[0]) == expected
    finally:
        engine.unregister(memory.ctypes.data)


@pytest.fixture(scope="module")
def numpy_engine():
    made = NumpyEngine()
    yield made
    made.close()


def assert_near_exact(request, engine, numpy_engine):
    """The GPU's results are those of the NumPy engine in float64, but for rounding."""
    (result,) = engine.compute([request])
    names = ("per_example", "grad_logits", "output", "grad_labels")
    found = {name: getattr(result, name) for name in names} | dict(result.extras)
    assert_near(found, request, exact_results(request, numpy_engine))


@pytest.mark.parametrize("classes", [7, 301, 601, 5_000, 70_000, 300_000])
@pytest.mark.parametrize("case", ROW_CASES)
def test_losses_of_rows(case, classes, engine, numpy_engine):
    """Every loss, its options off and on, by every tiling that the device has."""
    loss, more = ROW_CASES[case]
    assert_near_exact(case_of(loss, (33, classes), **more), engine, numpy_engine)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("classes", [1, 10, 64, 100, 1_000, 1_001, 1_002, 32_000, 50_257])
def test_dtypes(dtype, classes, engine, numpy_engine):
    """Every dtype, rows aligned to 16 bytes or to one element."""
    assert_near_exact(case_of(PLAIN, (65, classes), dtype), engine, numpy_engine)


@pytest.mark.parametrize("labels", ["ids", "distribution"])
@pytest.mark.parametrize("classes", [3, 8, 10, 32, 64])
def test_whole_blocks_of_few_classes(classes, labels, engine, numpy_engine):
    """Rows that lie apart in shared memory and rows that do not, in full blocks and the last."""
    assert_near_exact(case_of(PLAIN, (300, classes), labels=labels), engine, numpy_engine)


@pytest.mark.parametrize("labels", ["ids", "distribution"])
@pytest.mark.parametrize("classes", [7, 301, 601, 2_500, 70_000])
def test_the_class_axis_changes_no_bit(classes, labels, engine):
    """A row has the same bits wherever its classes lie."""
    last = case_of(EVERYTHING, (11, classes), labels=labels, has_class_weight=True)
    first = replace(
        last,
        call=replace(last.call, axis=0),
        logits=np.ascontiguousarray(last.logits.T),
        labels=np.ascontiguousarray(last.labels.T),
        axis=0,
        form=UNKNOWN,
    )
    a, b = engine.compute([last])[0], engine.compute([first])[0]
    assert a.per_example.tobytes() == b.per_example.tobytes()
    assert a.grad_logits.tobytes() == np.ascontiguousarray(b.grad_logits.T).tobytes()


@pytest.mark.parametrize("case", ELEMENT_CASES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_losses_of_elements(case, dtype, engine, numpy_engine):
    """Losses element by element."""
    request = case_of(ELEMENT_CASES[case], (1_003, 7), dtype, labels="elements")
    assert_near_exact(request, engine, numpy_engine)


@pytest.mark.parametrize("classes", [7, 301, 601, 5_000, 70_000, 300_000])
def test_adversarial_rows(classes, engine, numpy_engine):
    """NaN, infinities, masks and extremes stay in their rows."""
    ids = np.array([0, 1, 1, 0, 0, 2, 1, 0, 0, 0])
    call = LossCall(PLAIN, grad_logits=True, reduction="mean")
    request = LossRequest(call, adversarial(classes, np.float32), 1, ids, "ids")
    assert_near_exact(request, engine, numpy_engine)


@pytest.mark.parametrize("labels", ["ids", "distribution"])
@pytest.mark.parametrize("classes", [64, 512, 2_048, 8_192, 65_536, 400_000])
def test_equal_logits_far_below_keep_digits(classes, labels, engine):
    """Small terms are many, and each loses in the same direction."""
    request = padded(30, classes, labels)
    (result,) = engine.compute([request])
    assert_digits_of_padded(request, result.per_example, result.grad_logits)


@pytest.mark.parametrize("case", FAINT)
def test_faint_numbers_are_not_0(case, engine):
    """Below 2^-126 float32 has fewer digits, but has them: compiled without -ftz=true."""
    request, exact = FAINT[case]()
    assert_faint(engine.compute([request])[0].per_example, exact)


@pytest.mark.parametrize("classes", [10, 1_000, 32_000, 131_072])
def test_the_same_bits_from_run_to_run(classes, engine):
    """Nothing depends on which block came first."""
    request = case_of(PLAIN, (500, classes))
    first = bits(engine.compute([request])[0])
    for _ in range(5):
        assert bits(engine.compute([request])[0]) == first
