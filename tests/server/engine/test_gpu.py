"""The GPU engine on a real GPU, beside the NumPy engine."""

import numpy as np
import pytest

from batches import KINDS, Common, bits, placed, request_of
from losswire_server.engine.cupy_engine import find_gpus
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.engine.selection import EngineSettings, choose_engine

pytestmark = pytest.mark.gpu
SHAPES = [((5000,), 1), ((3, 700), 1), ((3, 700), 2), ((700,), 0), ((1,), 1)]


@pytest.fixture(scope="module")
def engine():
    count, words = find_gpus()
    if not count:
        pytest.skip(words)
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
