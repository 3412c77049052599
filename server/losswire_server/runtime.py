"""The running server: collaborators put together, started, and taken down without losing a call.

In: settings. Out: a server that is ready, and says so by health check and through `on_ready`; when
it is told to stop it refuses new calls, finishes those in flight, and goes.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc
import numpy as np
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from losswire_proto import __version__, connections, dtypes, rules
from losswire_proto.losses import LOSSES, LossCall
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_server import contradictions, gpus, memory, tracing
from losswire_server.admission import Admission, Room
from losswire_server.batcher import Batcher
from losswire_server.certificates import server_credentials
from losswire_server.engine.selection import EngineSettings, choose_engine
from losswire_server.errors import ServingFailed
from losswire_server.groups import BatchLimits
from losswire_server.handover import Handover
from losswire_server.health import Health
from losswire_server.listening import bind, check_exposure
from losswire_server.metrics import Metrics
from losswire_server.monitor import Monitor
from losswire_server.regions import Regions
from losswire_server.requests import LossRequest
from losswire_server.service import SERVED, SERVICE, LossService
from losswire_server.tokens import TokenGate
from losswire_server.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable

    from losswire_server.config import ServerSettings
    from losswire_server.engine.protocol import Engine

_FRAME_BYTES: Final = 4 << 20
"""HTTP/2 frames and socket reads of this size carried tensors fastest of those measured."""

_CALLS_OF_A_CONNECTION: Final = 1024
"""At the same time; more wait at the client, within their deadlines. It is twice the streams that a
client may have as it comes, so that these do not keep other calls of theirs from being refused."""

_UNCOMPRESSED: Final = 1
"""The bit of gRPC's identity: a call that compresses is refused before anything is inflated."""

_HEALTH: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

_FLUSH_SECONDS: Final = 5.0
"""The longest that the last replies may take to leave, once all calls are over."""

_CANCEL_SECONDS: Final = 3.0
"""The longest that gRPC may take to close connections, once it is to wait for nobody."""


async def serve(
    settings: ServerSettings, stop: asyncio.Event, on_ready: Callable[[str], None]
) -> None:
    """Serves until `stop` is set, then drains.

    Args:
        settings: the effective settings.
        stop: set by whoever wants the server to end.
        on_ready: called with the target that clients connect to, once calls are answered.

    Raises:
        StartupError: the engine, the address, a certificate or the tokens cannot be used.
        ServingFailed: what computes was lost while serving; what was in flight has been answered.
    """
    log = structlog.get_logger()
    log.info("settings", **settings.model_dump(mode="json"))
    for doubt in contradictions.doubts(settings):
        log.warning("doubtful_settings", doubt=doubt)
    check_exposure(settings)
    credentials = server_credentials(settings)
    loss = _Loss(stop)
    async with AsyncExitStack() as ending:
        interceptors = _interceptors(settings, ending)
        service = _service(settings, loss, ending)
        health = Health(SERVICE)
        server = _grpc_server(settings, interceptors, service, health)
        target = bind(server, settings, credentials)
        await server.start()
        health.tell(is_serving=True)
        log = structlog.get_logger()
        log.info("serving", target=target, pid=os.getpid(), version=__version__)
        on_ready(target)

        await stop.wait()
        admission = service.admission
        log.info("draining", seconds=settings.drain_seconds, held_bytes=admission.held_bytes)
        health.tell(is_serving=False)
        # Not by gRPC's own grace: it ends calls that arrive just then with CANCELLED.
        is_drained = await admission.drain(settings.drain_seconds)
        health.end()
        # What was answered may still be on its way to the socket: that is let out before the end.
        await _end(server, grace=_FLUSH_SECONDS if is_drained else None)
    log.info("stopped", drained=is_drained)
    if loss.why is not None:
        raise ServingFailed(f"stopped, because {loss.why}")


async def _end(server: grpc.aio.Server, grace: float | None) -> None:
    """Ends all calls and connections.

    gRPC may wait for ever for a connection that takes no more of a reply; such a one ends with the
    process.
    """
    stopping = asyncio.create_task(server.stop(grace))
    await asyncio.wait([stopping], timeout=(grace or 0.0) + _CANCEL_SECONDS)
    if stopping.done():
        stopping.result()
    else:
        structlog.get_logger().warning("connections_left")


def _interceptors(
    settings: ServerSettings, ending: AsyncExitStack
) -> list[grpc.aio.ServerInterceptor]:
    """What every call passes first; what is to be done for it at the end goes to `ending`."""
    interceptors: list[grpc.aio.ServerInterceptor] = []
    if settings.tracing:
        tracer, end_traces = tracing.start()
        ending.callback(end_traces)
        interceptors.append(tracer)
    if settings.token_file:
        gate = TokenGate(settings.token_file)
        ending.callback(asyncio.create_task(gate.follow_file()).cancel)
        interceptors.append(gate)
    return interceptors


def _service(settings: ServerSettings, loss: _Loss, ending: AsyncExitStack) -> LossService:
    """The service with all that it needs, likewise."""
    log, metrics = structlog.get_logger(), Metrics()
    engine, reason = choose_engine(_engine_settings(settings), loss.note)
    ending.callback(engine.close)
    log.info(
        "engine", name=engine.name, device=engine.device, wanted=settings.engine, reason=reason
    )
    warm_up(engine)
    limits = BatchLimits(settings.max_batch_rows, settings.max_batch_bytes, settings.max_wait_us)
    admission = Admission(_room(settings))
    window = Window(settings.stream_bytes, settings.client_share)
    regions = Regions(settings.max_region_bytes, engine.registrar)
    ending.callback(regions.close_all)
    handover = None
    if settings.shared_directory is not None:
        handover = Handover(settings.shared_directory, regions.forget)
        ending.callback(handover.close)
    batcher = Batcher(engine, limits, loss.crashed, metrics)
    ending.push_async_callback(batcher.close)
    metrics.describe(version=__version__, engine=engine.name, device=engine.device)
    _watch(metrics, admission, window, regions)
    watched = gpus.watch(metrics.registry) if engine.name == "cupy" else None
    if watched is not None:
        ending.callback(watched.close)
    if settings.metrics_port is not None:
        monitor = Monitor(metrics.registry, settings.metrics_host, settings.metrics_port)
        ending.callback(monitor.close)
        log.info("monitor", url=monitor.url)
    info = _info(settings, engine, handover)
    return LossService(batcher, admission, window, regions, info, handover, metrics=metrics)


class _Loss:
    """Stops the server when what computes is lost, and remembers why. For one event loop."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = stop
        self.why: str | None = None

    def note(self, why: str) -> None:
        """A GPU is lost. For any thread."""
        self._tell(f"a GPU was lost: {why}")

    def crashed(self, why: str) -> None:
        """Batches are not computed any more, through a fault of ours. For any thread."""
        self._tell(f"computing has failed: {why}")

    def _tell(self, why: str) -> None:
        with suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(self._end, why)

    def _end(self, why: str) -> None:
        structlog.get_logger().error("serving_failed", reason=why)
        self.why = why
        self._stop.set()


METRICS_OF_THE_MOMENT: Final = {
    "queue_requests": "Requests admitted and not answered yet",
    "queue_bytes": "Bytes of theirs",
    "calls": "Calls that have not ended",
    "streams": "ComputeStream and ComputeMany calls of these",
    "stream_window_bytes": "Bytes of streamed blocks in flight",
    "regions": "Regions of memory that clients share",
    "region_bytes": "Bytes of theirs",
    "pool_used_bytes": "Bytes of the heap in use, where malloc tells",
    "pool_free_bytes": "Bytes of it that are kept for the next requests",
}
"""What is looked up when somebody asks, by name, and what it is."""


def _watch(metrics: Metrics, admission: Admission, window: Window, regions: Regions) -> None:
    """Has the metrics show what is held at the moment."""
    looks: dict[str, Callable[[], float]] = {
        "queue_requests": lambda: admission.requests,
        "queue_bytes": lambda: admission.held_bytes,
        "calls": lambda: admission.calls,
        "streams": lambda: admission.streams,
        "stream_window_bytes": lambda: window.used,
        "regions": lambda: len(regions),
        "region_bytes": lambda: regions.nbytes,
    }
    if (pool := memory.pool()) is not None:
        looks["pool_used_bytes"] = lambda: (memory.pool() or pool).used
        looks["pool_free_bytes"] = lambda: (memory.pool() or pool).free
    for name, look in looks.items():
        metrics.watch(name, METRICS_OF_THE_MOMENT[name], look)


def _room(settings: ServerSettings) -> Room:
    return Room(
        settings.queue_bytes, settings.queue_requests, settings.max_streams, settings.client_share
    )


def _engine_settings(settings: ServerSettings) -> EngineSettings:
    return EngineSettings(
        settings.engine,
        settings.threads,
        settings.devices,
        settings.gpu_memory_bytes,
        settings.kernel_cache,
    )


def stop_on_signals(stop: asyncio.Event) -> None:
    """Sets `stop` on SIGTERM and Ctrl-C."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


def warm_up(engine: Engine) -> None:
    """Computes a little of everything once, so that the first caller does not pay for it."""
    for dtype in dtypes.FLOATS:
        logits = np.zeros((2, 3), dtype)
        call = LossCall(grad_logits=True)
        engine.compute([LossRequest(call, logits, 1, np.zeros(2, np.int64), "ids")])
        engine.compute([LossRequest(call, logits, 1, np.zeros((2, 3), dtype), "distribution")])


def _grpc_server(
    settings: ServerSettings,
    interceptors: list[grpc.aio.ServerInterceptor],
    service: LossService,
    health: Health,
) -> grpc.aio.Server:
    server = grpc.aio.server(
        interceptors=interceptors,
        options=[
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", _CALLS_OF_A_CONNECTION),
            # It would refuse calls of clients that keep to that, for those not yet cleared away.
            ("grpc.http.overload_protection", 0),
            ("grpc.http2.max_frame_size", _FRAME_BYTES),
            ("grpc.experimental.tcp_max_read_chunk_size", _FRAME_BYTES),
            ("grpc.http2.lookahead_bytes", 2 * _FRAME_BYTES),
            ("grpc.http2.min_ping_interval_without_data_ms", connections.SHORTEST_PING_MS),
            ("grpc.keepalive_time_ms", connections.SERVER_PING_MS),
            ("grpc.keepalive_timeout_ms", connections.LONGEST_PONG_MS),
            ("grpc.http2.ping_timeout_ms", connections.LONGEST_PONG_MS),
            # The first is where gRPC begins to refuse some; what is refused depends on nothing so.
            ("grpc.max_metadata_size", settings.max_metadata_bytes),
            ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),
            # Two servers on one port would share its connections unnoticed.
            ("grpc.so_reuseport", 0),
            ("grpc.compression_enabled_algorithms_bitset", _UNCOMPRESSED),
        ],
    )
    server.add_generic_rpc_handlers((service.handlers(),))
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    if settings.reflection:
        names = (SERVICE, _HEALTH, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    return server


def _info(
    settings: ServerSettings, engine: Engine, handover: Handover | None
) -> pb.GetServerInfoResponse:
    numbers = (dtypes.number_of(dtype) for dtype in dtypes.FLOATS)
    return pb.GetServerInfoResponse(
        version=__version__,
        backend=engine.name,
        device=engine.device,
        dtypes=[number for number in numbers if number is not None],
        losses=list(LOSSES),
        rpcs=SERVED,
        limits=pb.ServerLimits(
            max_message_bytes=settings.max_message_bytes,
            max_rank=rules.MAX_RANK,
            queue_bytes=settings.queue_bytes,
            max_batch_rows=settings.max_batch_rows,
            max_batch_bytes=settings.max_batch_bytes,
            max_region_bytes=settings.max_region_bytes,
        ),
        host=_host(handover),
    )


def _host(handover: Handover | None) -> pb.HostIdentity:
    identity = pb.HostIdentity(pid=os.getpid())
    if handover is not None:
        identity.handover_socket = str(handover.path)
    boot_id, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot_id.exists() and namespace.exists():
        identity.boot_id = boot_id.read_text(encoding="ascii").strip()
        identity.pid_namespace = namespace.stat().st_ino
    return identity
