"""The corpora's beginnings: what this project's own client sends, as scripts.

`python -m fuzz.seeds` (in tests/) makes calls of every loss on every path to a server in this
process that notes what arrives, and writes a script of each call to the corpora. Names of regions,
processes and files become those of the target `regions`; replies become scripts of `replies`.
"""

import asyncio
import hashlib
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from unittest import mock

import grpc
import numpy as np

import losswire
from fuzz.player import CORPUS, KEPT
from fuzz.scripts import Condition, Kind, Script, Step
from fuzz.targets.regions import FILE_BYTES
from losswire_proto import dtypes, tensors
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import options_pb2, tensor_pb2
from losswire_server.admission import Admission, Room
from losswire_server.batcher import Batcher
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.groups import BatchLimits
from losswire_server.regions import Regions
from losswire_server.runtime import _host
from losswire_server.service import SERVED, LossService
from losswire_server.window import Window
from shared_memory import PROOF

CONDITIONS = (Condition(0), Condition.SMALL_CUTS, Condition.THREADS | Condition.LITTLE_ROOM)


@dataclass(frozen=True)
class Recording(LossService):
    """The service, which notes the messages of each call.

    Attributes:
        calls: steps of each call, by the names of methods.
        replies: to calls of one message.
    """

    calls: list = field(default_factory=list)
    replies: list = field(default_factory=list)

    async def _compute(self, payload, context):
        self.calls.append(("Compute", [Step(Kind.SEND, payload)]))
        reply = await super()._compute(payload, context)
        self.replies.append((payload, reply))
        return reply

    async def _open_region(self, payload, context):
        self.calls.append(("OpenRegion", [Step(Kind.OPEN, payload)]))
        return await super()._open_region(payload, context)

    async def _compute_stream(self, messages, context):
        async for reply in super()._compute_stream(self._noted("ComputeStream", messages), context):
            yield reply

    async def _compute_many(self, messages, context):
        async for reply in super()._compute_many(self._noted("ComputeMany", messages), context):
            yield reply

    async def _noted(self, method, messages):
        steps = []
        self.calls.append((method, steps))
        async for message in messages:
            steps.append(Step(Kind.SEND, message))
            yield message


class RecordingServer:
    """Serves a `Recording` on a free port, from a thread; for `with`."""

    def __enter__(self):
        self._ready = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self.target = self._ready.result(60)
        return self

    def __exit__(self, *_error):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        engine, regions = NumpyEngine(threads=1), Regions(1 << 30)
        batcher = Batcher(engine, BatchLimits(1 << 17, 64 << 20, 0))
        info = pb.GetServerInfoResponse(rpcs=SERVED, host=_host(None))
        info.limits.max_region_bytes = regions.limit
        info.dtypes.extend(dtypes.number_of(each) for each in dtypes.FLOATS)
        admission, window = Admission(Room(1 << 30)), Window(1 << 30)
        self.service = Recording(batcher, admission, window, regions, info)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((self.service.handlers(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._ready.set_result(f"127.0.0.1:{port}")
        await self._stop.wait()
        await server.stop(None)
        await batcher.close()
        regions.close_all()
        engine.close()


def make_calls(client):
    """One call or two of each loss, with options that matter."""
    chance = np.random.default_rng(0)
    z = chance.normal(0, 2, (4, 3)).astype(np.float32)
    ids, y = np.asarray([0, 2, 1, 2]), chance.dirichlet(np.ones(3), 4).astype(np.float32)
    weight = chance.random(4)
    softmax = client.softmax_cross_entropy
    softmax(z, ids)
    softmax(z.astype(np.float16), ids.astype(np.int8), reduction="mean", class_weight=weight[:3])
    softmax(z.astype(np.float64), y, gradients=("logits", "labels"), label_smoothing=0.1)
    softmax(z, y[:1], gradients=("logits", "labels"), sample_weight=weight, reduction="sum")
    softmax(z, [0, 9, 1, -1], out_of_range="nan", ignore_index=-1, extras=("argmax", "entropy"))
    softmax(z.T.copy(), ids, axis=0, z_loss=0.1, softcap=5.0, temperature=2.0, normalizer="weights")
    softmax(np.stack([z, z]), np.stack([ids, ids]), reduction="mean", normalizer=3.0)
    client.sigmoid_cross_entropy(z, y, pos_weight=weight[:3], label_smoothing=0.2)
    client.sigmoid_cross_entropy(z, y, sample_weight=weight[:, None], reduction="mean")
    client.categorical_cross_entropy(y, ids, epsilon=1e-3, gradients=False)
    client.categorical_cross_entropy(y, y, label_smoothing=0.1, reduction="mean")
    client.binary_cross_entropy(y, y, reduction="sum")
    client.kl_divergence(z, y, temperature=2.0)
    client.kl_divergence(z, z, target_is_logits=True)
    client.focal(z, ids, gamma=1.5, alpha=0.25)
    client.focal(z, y, form="sigmoid")
    client.softmax(z.astype(dtypes.BFLOAT16))
    client.log_softmax(z, axis=0)
    client.sequence_loss(np.stack([z, z]), np.stack([ids, ids]), np.stack([weight, weight]))
    softmax(z[:0], ids[:0])


def recorded():
    """Calls by method as (method, steps), and requests with their replies."""
    patches = [
        mock.patch("losswire._stream.BLOCK_BYTES", 16),
        mock.patch("losswire._placed.INLINE_BYTES", 0),
    ]
    with RecordingServer() as server, patches[0], patches[1]:
        for transport in ("inline", "stream", "shared", "auto"):
            with losswire.Client(server.target, transport=transport) as client:
                make_calls(client)
        with losswire.Client(server.target) as client:
            futures = [client.submit("softmax_cross_entropy", [[1.0, 2.0]], [0]) for _ in range(3)]
            for future in futures:
                future.result()
    return server.service.calls, server.service.replies


def in_regions(calls):
    """Scripts of calls in shared memory: the regions they need are opened before each."""
    names, opened, scripts = {}, [], []
    for method, steps in calls:
        if method == "OpenRegion":
            opening = pb.OpenRegionRequest.FromString(steps[0].content)
            opening.process_file.pid, opening.process_file.fd = 1, len(opened) % 2
            opening.size_bytes, opening.proof = FILE_BYTES, PROOF
            opened.append(Step(Kind.OPEN, opening.SerializeToString()))
        elif method == "Compute":
            message = pb.ComputeRequest.FromString(steps[0].content)
            if b"region" in str(message).encode():
                scripts.append(_named(message, names))
    starts = [opened[index % len(opened)] for index in range(2)]
    return [[*starts, Step(Kind.SEND, each)] for each in scripts]


def _named(message, names):
    for name in ("logits", "labels", "sample_weight", "class_weight", "pos_weight"):
        if message.HasField(name) and getattr(message, name).HasField("region"):
            _name(getattr(message, name).region, names)
    for _, slice_ in message.destinations.ListFields():
        _name(slice_, names)
    return message.SerializeToString()


def _name(slice_, names):
    number = names.setdefault(slice_.region_id, len(names)) % 2
    slice_.region_id = f"r{number}"
    slice_.offset %= FILE_BYTES - slice_.length


def write(target, scripts, root=CORPUS):
    """Writes scripts that are not there yet, under every condition."""
    folder = root / target
    folder.mkdir(parents=True, exist_ok=True)
    for steps in scripts:
        for condition in CONDITIONS:
            data = Script(condition, tuple(steps)).to_bytes()
            (folder / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)


def boasts():
    """Starts of streams that say of millions of rows what takes a few bytes."""
    weight = tensors.encode("", np.ones((2, 1), np.float32))
    for rows in (1 << 19, 1 << 21, 1 << 40):
        spec = tensor_pb2.TensorSpec(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[2, rows, 3])
        options = options_pb2.LossOptions(reduction=options_pb2.REDUCTION_MEAN)
        options.kl_divergence.SetInParent()
        row = tensors.encode("", np.ones((2, 1, 3), np.float32))
        for labels in ({"labels_spec": spec, "sample_weight": weight}, {"labels": row}):
            start = pb.ComputeStreamStart(options=options, logits_spec=spec, **labels)
            yield pb.ComputeStreamRequest(start=start).SerializeToString()


def main():
    """Writes all corpora's beginnings."""
    calls, replies = recorded()
    plain = [steps for method, steps in calls if method == "Compute"]
    write("decoder", [steps * 2 for steps in plain if b"region" not in steps[0].content])
    write("stream", [steps for method, steps in calls if method == "ComputeStream"])
    write("stream", [[Step(Kind.SEND, each)] for each in boasts()], KEPT)
    together = [steps for method, steps in calls if method == "ComputeMany"]
    few = [steps[at : at + 2] for steps in together for at in range(0, len(steps), 2)]
    write("many", few)
    hand = Step(Kind.HAND, b"\0" + bytes(16))
    opening = pb.OpenRegionRequest(shared_file="00" * 16, size_bytes=FILE_BYTES, proof=PROOF)
    handed = [hand, Step(Kind.OPEN, opening.SerializeToString())]
    shared = in_regions(calls)
    close = Step(Kind.CLOSE, pb.CloseRegionRequest(region_id="r0").SerializeToString())
    write("regions", [*shared, [*handed, *shared[0][1:], close], [*shared[0], Step(Kind.HANG_UP)]])
    write("replies", [[Step(Kind.SEND, reply)] for _, reply in replies])


if __name__ == "__main__":
    main()
