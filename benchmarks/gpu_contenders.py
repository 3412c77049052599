"""Those who compute loss and gradient on one GPU, from and to its own memory.

In: a problem, and where CuPy has put it. Out: contenders whose turns are seconds of the device, by
its events. Each keeps several copies of the logits and goes through them in turn, so that none
finds its input in the second-level cache.

Written for a machine with a GPU; `make gpu-bench` runs it there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.turns import Absent, Contender
from losswire.bench.problem import WrongResult
from losswire_proto import dtypes
from losswire_proto.losses import LossCall
from losswire_server.engine import launches
from losswire_server.engine.tilings import tilings_of
from losswire_server.requests import LossRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.turns import Turn
    from losswire.bench.problem import Problem
    from losswire_server.engine.cupy_engine import CupyDevice

COPIES: Final = 3
"""Of the logits; with what is written, several times any second-level cache."""

LEEWAY: Final = 8
"""Times our tolerance that a framework's gradient may be off: PyTorch keeps the logarithms of its
probabilities in the logits' dtype, and has the gradient off by 3% where that is bfloat16."""

LAUNCHES: Final = 8
"""Of a turn, so that events and Python's own time do not count."""


@dataclass(frozen=True, slots=True)
class OnDevice:
    """A problem in the memory of a GPU.

    Attributes:
        cupy: the module.
        problem: the same in host memory, with its answers.
        logits: `COPIES` of them; bfloat16 as uint16.
        labels: class ids or distributions.
    """

    cupy: Any
    problem: Problem
    logits: list[Any]
    labels: Any

    @classmethod
    def put(cls, cupy: Any, problem: Problem) -> OnDevice:
        """Copies a problem to the device."""
        host = _plain(problem.logits)
        copies = [cupy.asarray(host) for _ in range(COPIES)]
        return cls(cupy, problem, copies, cupy.asarray(_plain(problem.arguments[1])))

    @property
    def dtype(self) -> str:
        """Of the logits."""
        return str(self.problem.logits.dtype.name)

    @property
    def request(self) -> LossRequest:
        """The problem as an engine gets it."""
        logits, labels = self.problem.arguments
        reading = "ids" if self.has_ids else "distribution"
        return LossRequest(LossCall(grad_logits=True), logits, logits.ndim - 1, labels, reading)

    @property
    def has_ids(self) -> bool:
        """Whether labels are class ids."""
        return bool(self.labels.dtype.kind == "i")


def _plain(array: Any) -> Any:
    """The array in a dtype that CuPy has; bfloat16 as its bits."""
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array


def copy(data: OnDevice) -> Contender:
    """Copying the logits within the device: as many bytes moved, and nothing computed."""

    def prepare() -> Turn:
        target = data.cupy.empty_like(data.logits[0])

        def run(source: Any) -> None:
            target.data.copy_from_device_async(source.data, source.nbytes)

        return _timed(data, run)

    return Contender("copy within the device", prepare)


def kernel(data: OnDevice, device: CupyDevice) -> Contender:
    """The project's kernel."""
    request = data.request
    launch = launches.plan(request, request.rows, device.traits, is_strided=False)
    return Contender("losswire", partial(_kernel, data, device, launch))


def tilings(data: OnDevice, device: CupyDevice) -> list[Contender]:
    """The project's kernel by every tiling that could compute these rows."""
    request = data.request
    contenders = []
    for tiling in tilings_of(request, device.traits):
        launch = launches.plan_as(tiling, request, request.rows, is_strided=False)
        name = f"{tiling.name}, {launch.block} x {launch.cluster} threads"
        contenders.append(Contender(name, partial(_kernel, data, device, launch)))
    return contenders


def _kernel(data: OnDevice, device: CupyDevice, launch: launches.Launch) -> Turn:
    request, cupy = data.request, data.cupy
    dense = cupy.empty_like(data.logits[0])
    losses = cupy.empty(request.rows, dtypes.compute_dtype(request.logits.dtype))
    fault = cupy.asarray(np.full(1, launches.NO_FAULT, np.uint64))  # beyond what `full` takes
    ids = data.labels.astype(np.int32) if data.has_ids else None
    arrays = {"dense": dense, "per_example": losses, "fault": fault}
    arrays["labels" if ids is None else "ids"] = data.labels if ids is None else ids
    record = np.zeros((), launches.ARGUMENTS)
    record["rows"], record["classes"] = request.rows, request.classes
    record["weight_of_all"] = record["scale_of_all"] = 1.0
    for name, value in launches.options(request).items():
        record[name] = value

    def run(source: Any) -> None:
        for name, array in (arrays | {"logits": source}).items():  # which so stay alive
            record[name] = array.data.ptr
        device.launch(launch, record, cupy.cuda.get_current_stream())

    run(data.logits[0])
    if int(fault[0]) != launches.NO_FAULT:
        raise AssertionError(f"row {int(fault[0])} at fault")
    _check(data.problem, losses.get(), dense.get())
    return _timed(data, run)


def torch_eager(data: OnDevice) -> Contender:
    """PyTorch's cross_entropy, forward and backward, as it is usually called."""
    return _other("PyTorch, eager", partial(_torch, data, is_compiled=False))


def torch_compiled(data: OnDevice) -> Contender:
    """The same through torch.compile."""
    return _other("PyTorch, compiled", partial(_torch, data, is_compiled=True))


def liger(data: OnDevice) -> Contender:
    """Liger-Kernel's cross-entropy, which writes the gradient over the logits."""

    def prepare() -> Turn:
        torch = _torch_module()
        try:
            from liger_kernel.transformers.functional import liger_cross_entropy  # noqa: PLC0415
        except ImportError as error:
            raise Absent("liger-kernel is not installed") from error
        if not data.has_ids:
            raise Absent("has no distributions")
        return _framework(data, torch, lambda z, y: liger_cross_entropy(z, y, reduction="sum"))

    return _other("Liger-Kernel", prepare)


def quack(data: OnDevice) -> Contender:
    """QuACK's cross-entropy."""

    def prepare() -> Turn:
        torch = _torch_module()
        try:
            from quack.cross_entropy import cross_entropy  # noqa: PLC0415
        except ImportError as error:
            raise Absent("quack-kernels is not installed") from error
        if not data.has_ids:
            raise Absent("has no distributions")
        return _framework(data, torch, lambda z, y: cross_entropy(z, y, reduction="sum"))

    return _other("QuACK", prepare)


def _other(name: str, prepare: Callable[[], Turn]) -> Contender:
    """Someone else's, whose failure is a note in its row and not the end of all rows."""

    def tried() -> Turn:
        try:
            return prepare()
        except (Absent, WrongResult):
            raise
        except Exception as error:
            raise Absent(f"fails: {type(error).__name__}: {error}"[:200]) from error

    return Contender(name, tried)


def _torch_module() -> Any:
    try:
        import torch  # noqa: PLC0415
    except ImportError as error:
        raise Absent("torch is not installed") from error
    if not torch.cuda.is_available():
        raise Absent("torch finds no GPU")
    return torch


def _torch(data: OnDevice, *, is_compiled: bool) -> Turn:
    torch = _torch_module()

    def loss(z: Any, y: Any) -> Any:
        return torch.nn.functional.cross_entropy(z, y, reduction="sum")

    if is_compiled:
        # Each shape by itself: a second one would be compiled for any shape, the ninth not at all.
        torch._dynamo.reset()  # noqa: SLF001 -- there is no other way
        loss = torch.compile(loss, dynamic=False)
    return _framework(data, torch, loss)


def _framework(data: OnDevice, torch: Any, loss: Callable[[Any, Any], Any]) -> Turn:
    """Forward and backward; the logits' gradient is made anew each time, as in training."""
    sources = [torch.from_dlpack(each) for each in data.logits]
    if data.dtype == "bfloat16":
        sources = [each.view(torch.bfloat16) for each in sources]
    labels = torch.from_dlpack(data.labels)
    if not data.has_ids and data.dtype == "bfloat16":
        labels = labels.view(torch.bfloat16)

    def run(source: Any) -> Any:
        leaf = source.detach().requires_grad_()
        loss(leaf, labels).backward()
        return leaf.grad

    # Each works on a copy: some write their gradient over the logits.
    found = run(sources[0].clone()).contiguous()
    per_example = data.problem.expected_losses  # their sum is all that they return
    gradient = found.view(torch.uint16) if data.dtype == "bfloat16" else found
    whole = np.zeros(data.problem.rows_per_call, dtypes.compute_dtype(data.problem.logits.dtype))
    whole[data.problem.rows] = per_example
    _check(data.problem, whole, gradient.cpu().numpy(), LEEWAY)
    stream = torch.cuda.current_stream()
    copies = [each.clone() for each in sources]
    return _turn(torch_events(torch, stream), lambda number: run(copies[number % COPIES]))


def torch_events(torch: Any, stream: Any) -> Iterator[Any]:
    """Two events and the seconds between them."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    yield lambda: start.record(stream)
    yield lambda: stop.record(stream)

    def seconds() -> float:
        stop.synchronize()
        return float(start.elapsed_time(stop)) / 1e3

    yield seconds


def _timed(data: OnDevice, run: Callable[[Any], None]) -> Turn:
    """A turn of launches on CuPy's current stream."""
    cuda = data.cupy.cuda
    start, stop = cuda.Event(), cuda.Event()

    def seconds() -> float:
        stop.synchronize()
        return float(cuda.get_elapsed_time(start, stop)) / 1e3

    events = iter((start.record, stop.record, seconds))
    return _turn(events, lambda number: run(data.logits[number % COPIES]))


def _turn(events: Iterator[Any], run: Callable[[int], object]) -> Turn:
    begin, end, seconds = events

    def turn() -> float:
        begin()
        for number in range(LAUNCHES):
            run(number)
        end()
        return float(seconds()) / LAUNCHES

    return turn


def _check(problem: Problem, losses: Any, gradient: Any, leeway: float = 1) -> None:
    """Holds an answer to long double.

    Raises:
        WrongResult: it is another.
    """
    shaped = gradient.view(problem.logits.dtype).reshape(problem.logits.shape)
    problem.check(SimpleNamespace(per_example=losses, grad_logits=shaped), leeway)
