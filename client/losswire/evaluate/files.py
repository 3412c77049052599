"""Tensors in files, looked at where they are: .npy, .npz and .safetensors.

In: a path, with `:name` for one of several tensors. Out: an array over the file, of which only what
is read takes memory; a compressed .npz is read whole. Whatever is wrong with a file is one line.
"""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import ml_dtypes
import numpy as np

from losswire._errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from losswire_proto.dtypes import Array

_SAFETENSORS: Final[Mapping[str, Any]] = {
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
    "I8": np.int8,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "U8": np.uint8,
    "U16": np.uint16,
    "U32": np.uint32,
    "U64": np.uint64,
}
_LONGEST_HEADER: Final = 100 << 20
"""Bytes; the format's own limit."""


def read(argument: str) -> Array:
    """The tensor that an argument names: `file` or `file:name`.

    Raises:
        InvalidInput: no such file or tensor, or the file is not what its name says.
    """
    path, name = _parts(argument)
    try:
        match path.suffix:
            case ".npy":
                return _npy(path, name)
            case ".npz":
                return _npz(path, name)
            case ".safetensors":
                return _safetensors(path, name)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, InvalidInput):
            raise
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InvalidInput(f"{path}: cannot be read as {path.suffix}: {why}") from error
    raise InvalidInput(f"{path}: expected a .npy, .npz or .safetensors file")


def _parts(argument: str) -> tuple[Path, str | None]:
    """Path and name; a path may have colons of its own."""
    if Path(argument).exists() or ":" not in argument:
        return Path(argument), None
    path, _, name = argument.rpartition(":")
    return Path(path), name


def _npy(path: Path, name: str | None) -> Array:
    if name is not None:
        raise InvalidInput(f"{path}: holds one tensor, without a name; received {name!r}")
    array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _npz(path: Path, name: str | None) -> Array:
    with np.load(path, allow_pickle=False) as tensors:
        array: Array = tensors[_only(path, name, tensors.files)]
    return array


def _safetensors(path: Path, name: str | None) -> Array:
    """The format: 8 bytes with the header's length, the header in JSON, and the tensors' bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
            raise InvalidInput(f"{path}: no .safetensors file, or a truncated one")
        header = json.loads(file.read(length))
    tensors = {key: value for key, value in header.items() if key != "__metadata__"}
    chosen = _only(path, name, list(tensors))
    kind, shape = tensors[chosen]["dtype"], tuple(tensors[chosen]["shape"])
    start, stop = tensors[chosen]["data_offsets"]
    if kind not in _SAFETENSORS:
        raise InvalidInput(f"{path}: {chosen}: {kind} tensors are not supported")
    dtype = np.dtype(_SAFETENSORS[kind])
    begin = 8 + length + start
    if (
        stop - start != math.prod(shape) * dtype.itemsize
        or not 0 <= start <= stop <= size - 8 - length
    ):
        raise InvalidInput(f"{path}: {chosen}: truncated, or not as its header says")
    if not stop - start:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype.newbyteorder("<"), "r", begin, shape)


def _only(path: Path, name: str | None, names: list[str]) -> str:
    """The name that is asked for, or that of the only tensor."""
    if name is None and len(names) == 1:
        return names[0]
    if name not in names:
        there = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        wanted = "one of its tensors by name" if name is None else f"a tensor {name!r}"
        raise InvalidInput(f"{path}: expected {wanted} ({path}:NAME), there are: {there}")
    return str(name)
