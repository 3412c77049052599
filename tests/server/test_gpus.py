"""The GPUs' figures, from a library that is played and from one that is not there."""

import sys
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from losswire_server import gpus


class PlayedError(Exception):
    """What NVIDIA's library raises."""


class Played:
    """NVIDIA's management library with two GPUs."""

    NVMLError = PlayedError

    def __init__(self, *, has_driver=True):
        self.has_driver = has_driver
        self.opened = 0

    def nvmlInit(self):  # noqa: N802 -- the library's names
        if not self.has_driver:
            raise PlayedError
        self.opened += 1

    def nvmlShutdown(self):  # noqa: N802
        self.opened -= 1

    def nvmlDeviceGetCount(self):  # noqa: N802
        if not self.has_driver:
            raise PlayedError
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        return SimpleNamespace(used=100 + handle, total=1000)

    def nvmlDeviceGetUtilizationRates(self, handle):  # noqa: N802
        return SimpleNamespace(gpu=25 * (handle + 1), memory=3)


def values(registry, name):
    return [registry.get_sample_value(name, {"gpu": index}) for index in ("0", "1")]


def test_figures_of_each_gpu(monkeypatch):
    """Looked up when asked; without them, not with old ones, once the driver is gone."""
    nvml, registry = Played(), CollectorRegistry()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    watched = gpus.watch(registry)
    assert values(registry, "losswire_gpu_memory_used_bytes") == [100, 101]
    assert values(registry, "losswire_gpu_memory_bytes") == [1000, 1000]
    assert values(registry, "losswire_gpu_utilisation") == [0.25, 0.5]
    nvml.has_driver = False
    assert values(registry, "losswire_gpu_utilisation") == [None, None]
    watched.close()
    assert nvml.opened == 0


@pytest.mark.parametrize(
    "library", [None, Played(has_driver=False)], ids=["no library", "no driver"]
)
def test_where_there_is_none(monkeypatch, library):
    """No figures, and no error."""
    monkeypatch.setitem(sys.modules, "pynvml", library)
    registry = CollectorRegistry()
    assert gpus.watch(registry) is None
    assert values(registry, "losswire_gpu_memory_bytes") == [None, None]
