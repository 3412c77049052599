"""Memory that clients announce: what is mapped, what is refused, and when it is let go."""

import asyncio
import errno
import fcntl
import gc
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from losswire_server import regions as module
from losswire_server.errors import InvalidRequest, NotAllowed, Overloaded, UnknownRegion
from losswire_server.regions import MOST_REGIONS, Regions
from shared_memory import PROOF, SharedFile

LIMIT = 1 << 20
PAGE = mmap.PAGESIZE
REFUSAL = "process_file: expected a process of the server's user and pid namespace"
OWNER = """
import sys
from shared_memory import SharedFile
file = SharedFile(4096)
print(file.fd, flush=True)
sys.stdin.read()
"""


def open_here():
    """This process's file descriptors, by number and name, and its mappings of shared memory."""
    files = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            files[link.name] = str(link.readlink())
        except FileNotFoundError:  # the one that lists them
            continue
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if "memfd" in line]
    return files, len(mapped)


@pytest.fixture(autouse=True)
def _nothing_is_left():
    """Whatever was announced, refused or killed: no descriptor and no mapping stays."""
    gc.collect()
    before = open_here()
    yield
    gc.collect()
    assert open_here() == before


async def opened(regions, file, size=None, **fields):
    """The id of a file of this process."""
    given = {"pid": os.getpid(), "fd": file.fd, "size": size or file.size, "proof": PROOF}
    return await regions.open(**{**given, **fields})


async def refused(regions, **fields):
    """What is said to one who announces something else."""
    with SharedFile(PAGE) as file, pytest.raises(NotAllowed) as caught:
        await opened(regions, file, **fields)
    return str(caught.value)


def test_open_find_close():
    """What the client writes is seen here and the other way round, until the region is closed."""

    async def play():
        regions = Regions(LIMIT)
        with SharedFile(PAGE) as file:
            region_id = await opened(regions, file)
            file.memory[100:103] = b"abc"
            view = regions.find("logits", region_id, 100, 3)
            assert bytes(view) == b"abc"
            view[0:1] = b"x"
            assert file.memory[100:103] == b"xbc"
            regions.close(region_id)
            assert bytes(view) == b"xbc", "a call that uses it finishes first"
            for call in (regions.close, lambda id_: regions.find("logits", id_, 0, 1)):
                with pytest.raises(UnknownRegion, match="expected the id of an open region"):
                    call(region_id)
        assert len(regions) == 0

    asyncio.run(play())


def other_files(folder):
    """Files of this process that are no memory to share."""
    plain = Path(folder, "plain")
    plain.write_bytes(PROOF * 200)
    reader, writer = os.pipe()
    ours = socket.socket()
    return [
        os.open(plain, os.O_RDONLY),
        os.open(folder, os.O_RDONLY | os.O_DIRECTORY),
        os.open("/dev/zero", os.O_RDWR),
        os.open("/dev/null", os.O_RDWR),
        reader,
        writer,
        ours.detach(),
    ]


def test_one_answer_to_all_that_is_not_there_or_not_allowed():
    """Processes, files and proofs that are wrong get the same words, and leave nothing open."""

    async def play():
        regions = Regions(LIMIT)
        answers = [
            await refused(regions, **fields)
            for fields in (
                *({"pid": pid} for pid in (0, -1, 2**22 + 1, 2**40, 2**63 - 1, -(2**63))),
                *({"fd": fd} for fd in (-1, 2**31 - 1, -(2**31), 9999)),
                *({"proof": proof} for proof in (b"", PROOF[:31], PROOF + b"\0", bytes(32))),
            )
        ]
        with tempfile.TemporaryDirectory() as folder:
            for fd in other_files(folder):
                # A right proof shows that one can read it; a wrong one must not show that it is.
                answers.append(await refused(regions, fd=fd, proof=bytes(32)))
                os.close(fd)
        with SharedFile(PAGE, seals=0) as shrinking:
            answers.append(await refused(regions, fd=shrinking.fd, proof=bytes(32)))
            answers.append(await refused(regions, fd=shrinking.fd, proof=bytes(32), size=LIMIT))
        assert set(answers) == {answers[0]}
        assert answers[0].startswith(REFUSAL)
        assert len(regions) == 0

    asyncio.run(play())


def test_an_empty_file_proves_nothing():
    """A file that is shorter than a proof is refused, whatever came as proof."""

    async def play():
        regions = Regions(LIMIT)
        fd = os.memfd_create("empty", os.MFD_ALLOW_SEALING)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        try:
            await refused(regions, fd=fd, proof=b"")
        finally:
            os.close(fd)

    asyncio.run(play())


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "expected 1 to 1048576"),
        (-1, "expected 1 to 1048576"),
        (LIMIT + 1, "expected 1 to 1048576"),
        (2**64 - 1, "expected 1 to 1048576"),
        (31, "expected 32 to the file's 4096, received 31"),
        (PAGE + 1, "expected 32 to the file's 4096, received 4097"),
    ],
)
def test_sizes_that_cannot_be(size, words):
    """A size of nothing, beyond the limit or beyond the file is refused with what is allowed."""

    async def play():
        with SharedFile(PAGE) as file, pytest.raises(InvalidRequest, match=f"size_bytes: {words}"):
            await Regions(LIMIT).open(os.getpid(), file.fd, size, PROOF)

    asyncio.run(play())


def test_memory_that_could_be_taken_away():
    """Memory that may shrink is refused; sealed memory stays whole whatever its owner does."""

    async def play():
        regions = Regions(LIMIT)
        for seals in (0, fcntl.F_SEAL_GROW):
            with SharedFile(PAGE, seals) as file, pytest.raises(InvalidRequest, match="F_SEAL_SHR"):
                await opened(regions, file)
        with SharedFile(PAGE) as file:
            region_id = await opened(regions, file)
            with pytest.raises(PermissionError):
                os.ftruncate(file.fd, 0)
            view = regions.find("logits", region_id, 0, PAGE)
            file.memory[:] = bytes(PAGE)
            assert bytes(view) == bytes(PAGE)
        regions.close_all()

    asyncio.run(play())


def test_memory_that_cannot_be_written_to():
    """Memory sealed against writing is refused like any that the server may not open."""

    async def play():
        fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
        os.write(fd, PROOF)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE)
        with pytest.raises(NotAllowed, match=REFUSAL):
            await Regions(LIMIT).open(os.getpid(), fd, 32, PROOF)
        os.close(fd)

    asyncio.run(play())


def test_huge_pages_are_refused():
    """Pages from a pool that may run empty would kill the server when it touches them."""
    try:
        fd = os.memfd_create("huge", os.MFD_ALLOW_SEALING | os.MFD_HUGETLB)
        os.ftruncate(fd, 2 << 20)
    except OSError:
        pytest.skip("this kernel has no huge pages of its own pool")

    async def play():
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        with pytest.raises(InvalidRequest, match="pages of the usual size"):
            await Regions(4 << 20).open(os.getpid(), fd, 2 << 20, bytes(32))

    asyncio.run(play())
    os.close(fd)


def test_the_least_recently_used_go_first():
    """For a region that there is no room for, those go that were not used for the longest time."""

    async def play():
        regions, files = Regions(3 * PAGE), [SharedFile(PAGE) for _ in range(5)]
        ids = [await opened(regions, file) for file in files[:3]]
        regions.find("logits", ids[0], 0, 1)  # used, so that ids[1] is the oldest now
        ids.append(await opened(regions, files[3]))
        kept = regions.find("logits", ids[2], 0, 1)  # and in use
        regions.find("logits", ids[0], 0, 1)
        regions.find("logits", ids[3], 0, 1)
        ids.append(await opened(regions, files[4]))
        assert [each in regions._by_id for each in ids] == [False, False, True, True, True]
        for file in files:
            file.close()
        assert bytes(kept) == PROOF[:1]
        regions.close_all()

    asyncio.run(play())


def test_regions_in_use_stay():
    """Where calls look into all that a process may share, another region has to wait."""

    async def play():
        regions, files = Regions(2 * PAGE), [SharedFile(PAGE) for _ in range(3)]
        ids = [await opened(regions, file) for file in files[:2]]
        views = [regions.find("logits", each, 0, 1) for each in ids]
        with pytest.raises(Overloaded, match="calls are using 8192 of 8192 bytes"):
            await opened(regions, files[2])
        assert [bytes(view) for view in views] == [PROOF[:1]] * 2
        del views
        await opened(regions, files[2])
        assert len(regions) == 2
        for file in files:
            file.close()
        regions.close_all()

    asyncio.run(play())


def test_the_number_of_regions_is_bounded():
    """However small they are, a process has no more than so many; the oldest make room."""

    async def play():
        regions = Regions(LIMIT)
        with SharedFile(PAGE) as file:
            ids = [await opened(regions, file, size=32) for _ in range(MOST_REGIONS + 5)]
        assert len(regions) == MOST_REGIONS
        assert [id_ in regions._by_id for id_ in ids[:6]] == [False] * 5 + [True]
        regions.close_all()

    asyncio.run(play())


def test_files_are_left_for_connections(monkeypatch):
    """All processes together take no more than half the server's file descriptors."""
    monkeypatch.setattr(module.resource, "getrlimit", lambda _which: (6, 6))

    async def play():
        regions = Regions(LIMIT)
        with SharedFile(PAGE) as file:
            for _ in range(3):
                await opened(regions, file)
            with pytest.raises(Overloaded, match="no room for more regions"):
                await opened(regions, file)
        regions.close_all()

    asyncio.run(play())


@pytest.mark.parametrize("function", ["pidfd_open", "open"])
def test_no_file_descriptors_left(monkeypatch, function):
    """A server without descriptors is busy; the client's file is not to blame."""

    def fail(*_arguments):
        raise OSError(errno.EMFILE, "too many open files")

    async def play():
        regions = Regions(LIMIT)
        with SharedFile(PAGE) as file:
            with monkeypatch.context() as patch:
                patch.setattr(os, function, fail)
                with pytest.raises(Overloaded, match="no room for more regions"):
                    await opened(regions, file)
            assert await opened(regions, file)
        regions.close_all()

    asyncio.run(play())


class Owner:
    """Another process, with memory to share."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-c", OWNER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        self.pid, self.fd, self.size = self._process.pid, int(self._process.stdout.readline()), PAGE

    def kill(self):
        self._process.kill()
        self._process.communicate()


async def turns(condition):
    """Lets the event loop go on until something is so."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came")


def test_what_a_process_shared_ends_with_it():
    """When a process is killed its regions go, and those of others stay."""

    async def play():
        regions, owners = Regions(LIMIT), [Owner(), Owner()]
        ids = [await opened(regions, owner, pid=owner.pid) for owner in owners for _ in range(2)]
        view = regions.find("logits", ids[0], 0, 32)
        owners[0].kill()
        await turns(lambda: len(regions) == 2)
        assert bytes(view) == PROOF, "a call that uses it finishes first"
        with pytest.raises(UnknownRegion):
            regions.find("logits", ids[1], 0, 1)
        assert bytes(regions.find("logits", ids[2], 0, 32)) == PROOF
        del view
        owners[1].kill()
        await turns(lambda: len(regions) == 0)

    asyncio.run(play())


def test_a_process_that_ends_while_it_is_looked_at(monkeypatch):
    """Memory that was mapped when its process had gone is let go, and not watched for ever."""
    mapped, go_on = threading.Event(), threading.Event()
    map_ = module._map

    def slow(*arguments):
        result = map_(*arguments)
        mapped.set()
        assert go_on.wait(30)
        return result

    monkeypatch.setattr(module, "_map", slow)

    async def play():
        regions, owner = Regions(LIMIT), Owner()
        task = asyncio.ensure_future(opened(regions, owner, pid=owner.pid))
        await asyncio.to_thread(mapped.wait, 30)
        owner.kill()
        await turns(lambda: not regions._owners)
        go_on.set()
        with pytest.raises(NotAllowed, match=REFUSAL):
            await task
        assert len(regions) == 0

    asyncio.run(play())


def test_a_call_that_is_taken_back_while_it_maps(monkeypatch):
    """Nobody gets the id of a region whose announcement was cancelled, and it is not kept."""
    mapping, go_on = threading.Event(), threading.Event()
    map_ = module._map

    def slow(*arguments):
        mapping.set()
        assert go_on.wait(30)
        return map_(*arguments)

    monkeypatch.setattr(module, "_map", slow)

    async def play():
        regions = Regions(LIMIT)
        with SharedFile(PAGE) as file:
            task = asyncio.ensure_future(opened(regions, file))
            await asyncio.to_thread(mapping.wait, 30)
            task.cancel()
            await asyncio.wait([task])
            go_on.set()
            assert not regions._owners
        assert len(regions) == 0

    asyncio.run(play())
