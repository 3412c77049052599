"""Regions made by hand: memory of memfd_create, announced and filled as any client might."""

import fcntl
import mmap
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from losswire_proto import tensors
from losswire_proto.rules import Spec
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import tensor_pb2

LAYOUTS = ["ordinary", "region", "offset", "strided", "transposed"]
PAGE = mmap.PAGESIZE
PROOF = bytes(range(1, 33))


class SharedFile:
    """Memory of this process that another can map, with a proof at its start.

    Args:
        size: in bytes.
        seals: of the file; it cannot shrink unless told otherwise.
    """

    def __init__(self, size, seals=fcntl.F_SEAL_SHRINK, flags=0):
        self.size = size
        self.fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
        os.ftruncate(self.fd, size)
        self.memory = mmap.mmap(self.fd, size)
        self.memory[:32] = PROOF
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)
        self.id = ""

    def close(self):
        os.close(self.fd)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.close()

    def announcement(self, **fields):
        """Its `OpenRegionRequest`, with other fields where they are given."""
        file = pb.ProcessFile(pid=fields.pop("pid", os.getpid()), fd=fields.pop("fd", self.fd))
        return pb.OpenRegionRequest(
            **{"process_file": file, "size_bytes": self.size, "proof": PROOF, **fields}
        )

    def open(self, stub):
        """Announces it; it has an id from now on."""
        self.id = stub.OpenRegion(self.announcement()).region_id
        return self

    def array(self, dtype, shape, offset):
        """What lies at an offset, to read and to write."""
        spec = Spec(np.dtype(dtype), tuple(shape))
        flat = np.frombuffer(self.memory, np.uint8)[offset : offset + spec.nbytes]
        return flat.view(spec.dtype).reshape(spec.shape)

    def slice(self, spec, offset):
        """The slice that holds an array."""
        return tensor_pb2.RegionSlice(region_id=self.id, offset=offset, length=spec.nbytes)

    def put(self, array, offset):
        """Writes an array at an offset; the tensor that says where it is."""
        self.array(array.dtype, array.shape, offset)[...] = array
        tensor = tensors.describe("array", Spec.of(array))
        tensor.region.CopyFrom(self.slice(Spec.of(array), offset))
        return tensor


def laid_out(client, array, layout):
    """A copy of an array in memory of some kind."""
    shape = array.shape
    match layout:
        case "ordinary":
            made = np.empty(shape, array.dtype)
        case "region":
            made = client.empty(shape, array.dtype)
        case "offset":
            made = client.empty(array.size + 5, array.dtype)[3 : array.size + 3].reshape(shape)
        case "strided":
            made = client.empty((*shape, 2), array.dtype)[..., 1]
        case "transposed":
            made = client.empty(shape[::-1], array.dtype).T
    made[...] = array
    return made


def is_in_region(client, array):
    """Whether an array lies in memory that a client can share as it is."""
    return client._paths.shared.regions.find(array) is not None


def open_here():
    """This process's files, by number and name, and its mappings of shared memory.

    Without what gRPC and event loops open and close as they like.
    """
    files = {}
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            files[link.name] = str(link.readlink())
    passing = ("socket:", "pipe:", "anon_inode:[event")
    files = {number: name for number, name in files.items() if not name.startswith(passing)}
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if "memfd" in line]
    return files, len(mapped)


async def opened(regions, file, size=None, **fields):
    """The id of a file of this process."""
    given = {"pid": os.getpid(), "fd": file.fd, "size": size or file.size, "proof": PROOF}
    return await regions.open(**{**given, **fields})


def held_by(pid, name="memfd:losswire"):
    """Files and mappings of shared memory, and processes watched, that a process has."""
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            links.append(str(link.readlink()))
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [each for each in (*links, *maps) if name in each or "pidfd" in each]


def wait_until(condition, client):
    """Polls by calls of a client, which go through the server's event loop."""
    for _ in range(5000):
        if condition():
            return
        client.server_info()
    raise AssertionError("it never came")
