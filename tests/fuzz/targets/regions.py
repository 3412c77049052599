"""OpenRegion, CloseRegion, handed-over files, and calls whose tensors and results lie in regions.

Four files stand ready; scripts name regions `r0`, `r1`, … in the order in which they were opened,
this process by pid 1, and files by fd 0 to 3. What memory holds is looked at before and after each
call: nothing may have changed but what a result was to be written to.
"""

import asyncio
import fcntl
import gc
import os
import re
import socket
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np

from fuzz import answers, truth
from fuzz.answers import Code, Refused
from fuzz.house import REGION_BYTES, House
from fuzz.scripts import Condition, Kind
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_server.handover import NAME_BYTES, TAKEN, Handover
from shared_memory import SharedFile

KINDS = (Kind.SEND, Kind.SEND, Kind.SEND, Kind.OPEN, Kind.CLOSE, Kind.HAND, Kind.HANG_UP, Kind.HOLD)
MESSAGES = {
    Kind.SEND: pb.ComputeRequest,
    Kind.OPEN: pb.OpenRegionRequest,
    Kind.CLOSE: pb.CloseRegionRequest,
}

FILE_BYTES = 20 << 10
"""Three of them are less than a process may share, four are more."""

GOOD_FILES = 2
_SEAL_FUTURE_WRITE = 0x10
_CONTENT = np.random.default_rng(1).normal(size=(FILE_BYTES - 32) // 4).astype("f4").tobytes()
_NOBODY = 4_194_304
"""Beyond the largest process id that Linux gives."""


async def play(script, engine):
    """Makes the calls of a script, one after the other."""
    before = _open_files()
    with ExitStack() as stack:
        house = House(script, engine)
        if any(step.kind is Kind.HAND for step in script.steps):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            house.handover = Handover(Path(folder), house.regions.forget)
        async with house:
            player = _Player(house, script, engine, stack)
            for step in script.steps:
                await player.play(step)
            await player.end()
            del player
        assert not len(house.regions), "regions are left"
        assert not house.regions._owners, "processes are watched that share nothing"
    await asyncio.sleep(0)  # lets go of what woke this task last: a result
    if _open_files() != before:
        gc.collect()
        assert _open_files() == before, "files are left open"


def _open_files():
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- names would cost a call each


class _Player:
    """A client of one script: its files, its regions, and what it expects.

    Attributes:
        ids: of the regions that were opened, in order.
        files: which file each is.
    """

    def __init__(self, house, script, engine, stack):
        self._house, self._engine = house, engine
        self._condition = script.condition
        seals = [fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_SHRINK, 0]
        seals.append(fcntl.F_SEAL_SHRINK | _SEAL_FUTURE_WRITE)
        self._files = [stack.enter_context(SharedFile(FILE_BYTES, each)) for each in seals]
        for file in self._files:
            file.memory[32:] = _CONTENT
            stack.callback(file.memory.close)
        self.ids, self.files, self._sizes = [], {}, {}
        self._handed = {}
        self._client = None
        self._is_held, self._held = False, []

    async def play(self, step):
        match step.kind:
            case Kind.OPEN:
                await self._open(step.content)
            case Kind.CLOSE:
                await self._close(step.content)
            case Kind.HAND:
                await self._hand(step.content)
            case Kind.HANG_UP:
                await self._hang_up()
            case Kind.HOLD:
                self._is_held = True
            case Kind.SEND if self._is_held:
                # Not waited for: what comes next meets it while it computes.
                payload, self._is_held = self._translated(pb.ComputeRequest, step.content), False
                self._held.append(asyncio.create_task(self._house.unary("Compute", payload)))
                await asyncio.sleep(0)
            case Kind.SEND:
                await self._compute(step.content)

    async def end(self):
        for call in self._held:
            answer = await call
            if answer.code is not None:
                allowed = answers.REFUSED | {Code.NOT_FOUND, Code.RESOURCE_EXHAUSTED}
                answers.check_status(answer.code, answer.details, allowed)
        self._held.clear()
        await self._hang_up()
        if self._house.handover is not None:
            self._house.handover.close()
        self._house.regions.close_all()

    def _translated(self, kind, payload):
        """The message with real ids in the place of names; other bytes as they are."""
        try:
            message = answers.parsed(kind, payload)
        except Refused:
            return payload
        for slice_ in _slices(message):
            slice_.region_id = self._real(slice_.region_id)
        if kind is pb.CloseRegionRequest:
            message.region_id = self._real(message.region_id)
        if kind is pb.OpenRegionRequest and message.HasField("process_file"):
            process = message.process_file
            if process.pid == 1:
                process.pid = os.getpid()
            elif process.pid > 0:
                process.pid = max(process.pid, _NOBODY + 1)
            if process.fd in range(len(self._files)):
                process.fd = self._files[process.fd].fd
            elif process.fd > 0:
                process.fd = max(process.fd, 1 << 20)
        return message.SerializeToString()

    def _real(self, name):
        number = re.fullmatch(r"r(\d)", name)
        if number and int(number[1]) < len(self.ids):
            return self.ids[int(number[1])]
        return name

    def _is_open(self, region_id):
        return region_id in self._house.regions._by_id

    async def _open(self, payload):
        payload = self._translated(pb.OpenRegionRequest, payload)
        shared = sum(region.size for region in self._house.regions._by_id.values())
        proofs = self._proofs()
        answer = await self._house.unary("OpenRegion", payload)
        # A result may have been written over a proof, also while it was looked at.
        seen = [proofs, self._proofs()]
        if answer.code is not None:
            allowed = answers.REFUSED | {Code.PERMISSION_DENIED, Code.RESOURCE_EXHAUSTED}
            answers.check_status(answer.code, answer.details, allowed)
            with suppress(Refused):
                message = answers.parsed(pb.OpenRegionRequest, payload)
                is_sound = all(self._is_sound(message, each) for each in seen)
                is_sound = is_sound and shared + message.size_bytes <= REGION_BYTES
                assert not is_sound, f"a sound region was refused: {answer.details}"
            return
        message = answers.parsed(pb.OpenRegionRequest, payload)
        [reply] = answer.replies
        region_id = pb.OpenRegionResponse.FromString(reply).region_id
        assert region_id not in self.ids, "an id twice"
        if message.HasField("process_file"):
            is_sound = any(self._is_sound(message, each) for each in seen)
            assert is_sound, f"a region that is to be refused: {message}"
            own = {file.fd: number for number, file in enumerate(self._files)}
            file = own[message.process_file.fd]
        else:
            file = self._handed.pop(message.shared_file)
            number = self._files[file].fd
            assert message.proof in [each.get(number) for each in seen], "another proof"
            assert 32 <= message.size_bytes <= FILE_BYTES, "another size"
        assert file < GOOD_FILES, "a file that could shrink, or cannot be written"
        self.ids.append(region_id)
        self.files[region_id], self._sizes[region_id] = file, message.size_bytes

    def _proofs(self):
        """What the files begin with now, by their descriptors."""
        return {file.fd: bytes(file.memory[:32]) for file in self._files[:GOOD_FILES]}

    @staticmethod
    def _is_sound(message, proofs):
        return (
            message.HasField("process_file")
            and message.process_file.pid == os.getpid()
            and message.process_file.fd in proofs
            and message.proof == proofs[message.process_file.fd]
            and 32 <= message.size_bytes <= FILE_BYTES
        )

    async def _close(self, payload):
        payload = self._translated(pb.CloseRegionRequest, payload)
        is_open = False
        with suppress(Refused):
            is_open = self._is_open(answers.parsed(pb.CloseRegionRequest, payload).region_id)
        answer = await self._house.unary("CloseRegion", payload)
        assert (answer.code is None) == is_open, f"closed or not: {answer}"
        if answer.code is not None:
            allowed = {Code.NOT_FOUND, Code.INVALID_ARGUMENT}
            answers.check_status(answer.code, answer.details, allowed)

    async def _hand(self, content):
        """Hands a file over: the first byte says which, the others are its name."""
        if self._client is None:
            self._client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._client.connect(str(self._house.handover.path))
            self._client.setblocking(False)
        number, name = content[:1], content[1:]
        files = [self._files[number[0] % 4].fd] * (1 + (number[0] > 200)) if number else []
        with suppress(OSError):  # the server has closed the connection
            socket.send_fds(self._client, [name or b"\0"], files)
            await asyncio.sleep(0.001)
            if self._client.recv(1) == TAKEN:
                assert len(name) == NAME_BYTES, "a name of another length was taken"
                assert len(files) == 1, "one file was not taken"
                self._handed[name.hex()] = number[0] % 4

    async def _hang_up(self):
        if self._client is not None:
            self._client.close()
            self._client = None
            await asyncio.sleep(0.001)

    async def _compute(self, payload):
        payload = self._translated(pb.ComputeRequest, payload)
        before = [bytes(file.memory) for file in self._files]
        opened = {name for name in self.ids if self._is_open(name)}
        answer = await self._house.unary("Compute", payload)
        after = [bytes(file.memory) for file in self._files]
        try:
            message = answers.parsed(pb.ComputeRequest, payload)
            inline = self._inline(message, before, opened)
            wanted = self._wanted(message, inline, opened)
        except Refused:
            wanted = None
        assert answer.code is not None or wanted is not None, "answered what is to be refused"
        if answer.code is not None:
            self._check_refusal(answer, wanted)
            wanted = []
        else:
            response = pb.ComputeResponse.FromString(answer.replies[0])
            results = answers.arrays_in(response)
            for name, file, start, stop, spec in wanted:
                assert name not in results, f"{name} in the reply, too"
                flat = np.frombuffer(after[file], np.uint8)[start:stop]
                results[name] = flat.view(spec.dtype).reshape(spec.shape)
            if not self._held:
                answers.check_results(inline, results, self._engine)
        if not self._held:  # another call may write over what this one reads
            self._check_memory(before, after, wanted)

    def _check_refusal(self, answer, wanted):
        allowed = answers.REFUSED | {Code.NOT_FOUND}
        if Condition.LITTLE_ROOM in self._condition:
            allowed |= {Code.RESOURCE_EXHAUSTED}
        answers.check_status(answer.code, answer.details, allowed)
        is_full = answer.code in answers.FULL or "queue_bytes" in answer.details
        assert is_full or wanted is None, f"a sound request was refused: {answer.details}"

    def _check_memory(self, before, after, wanted):
        """Nothing has changed but results."""
        for number, (old, new) in enumerate(zip(before, after, strict=True)):
            if old == new:
                continue
            changed = np.frombuffer(old, np.uint8) != np.frombuffer(new, np.uint8)
            for _, file, start, stop, _ in wanted:
                if file == number:
                    changed[start:stop] = False
            assert not changed.any(), f"file {number} has changed at {np.flatnonzero(changed)[:8]}"

    def _found(self, slice_, opened):
        """The file that a slice lies in, and where."""
        if slice_.region_id not in opened:
            raise Refused("no such region")
        start, stop = slice_.offset, slice_.offset + slice_.length
        if stop > self._sizes[slice_.region_id]:
            raise Refused("beyond the region")
        return self.files[slice_.region_id], start, stop

    def _inline(self, message, memory, opened):
        """The same request with its tensors in the message, and no destinations."""
        inline = pb.ComputeRequest()
        inline.CopyFrom(message)
        inline.ClearField("destinations")
        for name in ("logits", "labels", *truth.WEIGHTS):
            tensor = getattr(inline, name)
            if inline.HasField(name) and tensor.HasField("region"):
                if tensor.HasField("data"):
                    raise Refused("two storages")
                file, start, stop = self._found(tensor.region, opened)
                tensor.ClearField("region")
                tensor.data = memory[file][start:stop]
        return inline

    def _wanted(self, message, inline, opened):
        """Where results are to go: name, file, start, stop, spec."""
        specs = answers.plain_request(inline).result_specs
        wanted = []
        for descriptor, slice_ in message.destinations.ListFields():
            name = descriptor.name
            if name not in specs or slice_.length != specs[name].nbytes or slice_.offset % 8:
                raise Refused(name)
            file, start, stop = self._found(slice_, opened)
            for _, other, first, last, _ in wanted:
                if other == file and max(first, start) < min(last, stop):
                    raise Refused("overlap")
            wanted.append((name, file, start, stop, specs[name]))
        return wanted


def _slices(message):
    """All slices of regions within a message."""
    for descriptor, value in message.ListFields():
        if descriptor.message_type and not descriptor.is_repeated:
            if value.DESCRIPTOR.name == "RegionSlice":
                yield value
            else:
                yield from _slices(value)
