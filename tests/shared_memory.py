"""Regions made by hand: memory of memfd_create, announced and filled as any client might."""

import fcntl
import mmap
import os

import numpy as np

from losswire_proto import tensors
from losswire_proto.rules import Spec
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import tensor_pb2

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
