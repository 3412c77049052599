"""The GPUs' own figures among the metrics: memory and utilisation, as the driver counts them.

In: NVIDIA's management library, where nvidia-ml-py and a driver are there. Out: families for a
registry, looked up whenever somebody asks; of all of the host's GPUs that this process may see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry


class Gpus(Collector):
    """Collects memory in use and in all, and the share of time that a kernel ran, of each GPU."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        nvml.nvmlInit()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The figures of now; of none where the driver does not answer."""
        nvml = self._nvml
        used = GaugeMetricFamily("losswire_gpu_memory_used_bytes", "Memory in use", labels=["gpu"])
        total = GaugeMetricFamily("losswire_gpu_memory_bytes", "Memory there is", labels=["gpu"])
        busy = GaugeMetricFamily(
            "losswire_gpu_utilisation", "Share of time that a kernel ran", labels=["gpu"]
        )
        try:
            for index in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                used.add_metric([str(index)], memory.used)
                total.add_metric([str(index)], memory.total)
                share = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
                busy.add_metric([str(index)], share)
        except nvml.NVMLError:
            return
        yield from (used, total, busy)

    def close(self) -> None:
        """Lets go of the library."""
        self._nvml.nvmlShutdown()


def watch(registry: CollectorRegistry) -> Gpus | None:
    """Adds the GPUs' figures; None where there is no library or no driver to ask."""
    try:
        import pynvml  # noqa: PLC0415 -- comes with the CUDA extras alone

        gpus = Gpus(pynvml)
    except (ImportError, OSError):
        return None
    except pynvml.NVMLError:
        return None
    registry.register(gpus)
    return gpus
