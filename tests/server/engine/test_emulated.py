"""The GPU engine with its own kernels, which are played on the processor."""

import numpy as np
import pytest

from batches import Common, bits, request_of
from emulation.kernels import compiled
from fake_device import FakeDevice
from losswire_server.engine import launches
from losswire_server.engine.gpu_engine import GpuEngine
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.engine.pipeline import SLOTS

COMMONS = {
    "ids": Common("ids", np.dtype(np.float32), 70, True, False, np.linspace(0, 2, 70)),
    "few": Common("ids", np.dtype(np.float16), 5, True, False, None),
    "distribution": Common("distribution", np.dtype(np.float32), 5, True, True, None),
    "broadcast": Common("broadcast", np.dtype(np.float32), 5, True, True, None),
    "elements": Common("elements", np.dtype(np.float64), 3, True, False, None),
    "none": Common("none", np.dtype(np.float32), 5, False, False, None),
}


def play(launch, arguments, memory):
    """Launches a kernel on the processor, with addresses of this process."""
    here = arguments.copy()
    for name in launches.ARGUMENTS.names:
        if launches.ARGUMENTS[name] == np.dtype("<u8") and arguments[name]:
            here[name] = memory.host_address(arguments[name])
    compiled(launch.kernel).launch(
        launch.grid, launch.block, launch.shared_bytes, here[()], launch.cluster, "forward"
    )


def computed(requests, chunk_bytes, seed):
    device = FakeDevice(play, seed)
    engine = GpuEngine([device], SLOTS << 20, print, chunk_bytes=chunk_bytes)
    try:
        return engine.compute(requests)
    finally:
        engine.close()
        assert device.violations == []


@pytest.mark.parametrize("kind", COMMONS)
def test_real_kernels_in_the_pipeline(kind):
    """A mixture of shapes and axes, cut small: each request's own bits, near the NumPy engine's."""
    random = np.random.default_rng(1)
    shapes = [((4,), 1), ((3, 2), 1), ((2, 3), 0), ((5,), 0), ((7,), 1)]
    requests = [request_of(COMMONS[kind], random, *shape, reduction="mean") for shape in shapes]
    requests = [each for each in requests if each.batch_key == requests[0].batch_key]
    assert len(requests) > 1
    together = computed(requests, 900, 3)
    alone = [computed([request], 1 << 20, 4)[0] for request in requests]
    assert [bits(result) for result in together] == [bits(result) for result in alone]
    numpy = NumpyEngine(1)
    expected = numpy.compute(requests)
    numpy.close()
    for mine, theirs in zip(together, expected, strict=True):
        for name in ("loss", "per_example", "grad_logits", "grad_labels", "output"):
            own, other = getattr(mine, name), getattr(theirs, name)
            assert (own is None) == (other is None)
            if own is not None:
                # Two or three roundings of float32, of numbers of about 1; float16 has 2^-11.
                tolerance = 2**-10 if own.dtype == np.float16 else 1e-6
                np.testing.assert_allclose(own, other, rtol=tolerance, atol=tolerance)
