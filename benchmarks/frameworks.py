"""The same loss computed in the caller's process: PyTorch, JAX and TensorFlow on the CPU.

In: logits `[rows, classes]` and class ids. Out: a function that computes per-example losses and
the gradient of their sum, as each framework's users would, with the inputs already in the
framework's own arrays. A framework that is not there raises `Absent`.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.turns import Absent, Contender, seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from benchmarks.turns import Turn
    from losswire.bench.problem import Problem

    Compute = Callable[[], tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class Local:
    """Losses and gradient of a framework, in the form in which answers are checked."""

    per_example: np.ndarray
    grad_logits: np.ndarray


def framework(name: str, problem: Problem) -> Contender:
    """A framework as a contender, checked before it is measured."""

    def prepare() -> Turn:
        compute = FRAMEWORKS[name](*problem.arguments)
        losses, gradient = compute()
        problem.check(Local(_numpy(losses), _numpy(gradient)))
        return seconds(compute)

    return Contender(name, prepare)


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        # Not every ImportError says that it is missing; some libraries are there and do not load
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == module
        raise Absent("not installed" if is_missing else f"does not load: {error}") from error


def _numpy(array: Any) -> np.ndarray:
    detached = array.detach() if hasattr(array, "detach") else array
    return importlib.import_module("numpy").asarray(detached)


def _torch(logits: np.ndarray, ids: np.ndarray) -> Compute:
    torch = _imported("torch")
    z, y = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(ids)

    def compute() -> tuple[Any, Any]:
        losses = torch.nn.functional.cross_entropy(z, y, reduction="none")
        return losses, torch.autograd.grad(losses.sum(), z)[0]

    return compute


def _torch_compiled(logits: np.ndarray, ids: np.ndarray) -> Compute:
    torch = _imported("torch")
    z, y = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(ids)

    @torch.compile(dynamic=False)
    def losses_of(z: Any) -> Any:
        return torch.nn.functional.cross_entropy(z, y, reduction="none")

    def compute() -> tuple[Any, Any]:
        losses = losses_of(z)
        return losses, torch.autograd.grad(losses.sum(), z)[0]

    try:
        compute()
    except RuntimeError as error:  # it needs a C++ compiler and more
        raise Absent(f"does not compile: {str(error).splitlines()[0]}") from error
    return compute


def _jax(logits: np.ndarray, ids: np.ndarray) -> Compute:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # never look for a GPU, nor warn of one
    jax = _imported("jax")

    def total(z: Any, y: Any) -> tuple[Any, Any]:
        log_p = jax.nn.log_softmax(z)
        losses = -jax.numpy.take_along_axis(log_p, y[:, None], axis=1)[:, 0]
        return losses.sum(), losses

    both = jax.jit(jax.value_and_grad(total, has_aux=True))
    z, y = jax.numpy.asarray(logits), jax.numpy.asarray(ids.astype("int32"))

    def compute() -> tuple[Any, Any]:
        (_, losses), gradient = jax.block_until_ready(both(z, y))
        return losses, gradient

    return compute


def _tensorflow(logits: np.ndarray, ids: np.ndarray, *, xla: bool = False) -> Compute:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # it tells of its build on each import
    tensorflow = _imported("tensorflow")
    z, y = tensorflow.constant(logits), tensorflow.constant(ids)

    @tensorflow.function(jit_compile=xla)
    def both(z: Any, y: Any) -> tuple[Any, Any]:
        with tensorflow.GradientTape() as tape:
            tape.watch(z)
            losses = tensorflow.nn.sparse_softmax_cross_entropy_with_logits(y, z)
        return losses, tape.gradient(losses, z)

    return lambda: both(z, y)


def _tensorflow_xla(logits: np.ndarray, ids: np.ndarray) -> Compute:
    return _tensorflow(logits, ids, xla=True)


FRAMEWORKS: Final[dict[str, Callable[[np.ndarray, np.ndarray], Compute]]] = {
    "PyTorch": _torch,
    "JAX": _jax,
    "TensorFlow": _tensorflow,
    "PyTorch, compiled": _torch_compiled,
    "TensorFlow, XLA": _tensorflow_xla,
}

USUAL: Final = ("PyTorch", "JAX", "TensorFlow")
"""As their documentation has it; the engine is measured against the fastest of these. The others
stand beside them."""
