"""Memory that clients announce: what is mapped, what is refused, and when it is let go."""

import asyncio
import ctypes
import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from losswire_server import regions as module
from losswire_server.errors import NotAllowed, Overloaded, UnknownRegion
from losswire_server.regions import MOST_REGIONS, Regions
from shared_memory import PROOF, SharedFile, opened

pytestmark = pytest.mark.usefixtures("nothing_is_left")

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


def test_room_is_waited_for(monkeypatch):
    """A call that ends when its reply has arrived already leaves its room to the next one."""
    ended, sleep = asyncio.Event(), asyncio.sleep

    async def play():
        regions, views = Regions(PAGE), []

        async def meanwhile(_seconds):
            views.clear()
            ended.set()
            await sleep(0)

        with SharedFile(PAGE) as one, SharedFile(PAGE) as other:
            views.append(regions.find("logits", await opened(regions, one), 0, 1))
            monkeypatch.setattr(asyncio, "sleep", meanwhile)
            await opened(regions, other)
        assert ended.is_set()
        assert len(regions) == 1
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
    map_ = module.map_file

    def slow(*arguments):
        result = map_(*arguments)
        mapped.set()
        assert go_on.wait(30)
        return result

    monkeypatch.setattr(module, "map_file", slow)

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
    map_ = module.map_file

    def slow(*arguments):
        mapping.set()
        assert go_on.wait(30)
        return map_(*arguments)

    monkeypatch.setattr(module, "map_file", slow)

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


class Registrar:
    """Notes what it is told."""

    def __init__(self):
        self.registered = {}
        self.calls = []

    def register(self, address, nbytes):
        self.registered[address] = nbytes
        self.calls.append(nbytes)

    def unregister(self, address):
        # It must still be there: one who looks at what is not mapped dies.
        assert ctypes.string_at(address, PAGE)
        del self.registered[address]


def test_a_registrar_knows_of_regions_while_they_are_mapped():
    """Told when they are mapped, and before they go: closed, crowded out, or with their process."""

    async def scenario():
        registrar = Registrar()
        regions = Regions(2 * PAGE, registrar)
        files = [SharedFile(PAGE) for _ in range(4)]
        ids = [await opened(regions, file) for file in files[:2]]
        view = regions.find("logits", ids[0], 0, PAGE)
        ids.append(await opened(regions, files[2]))  # crowds out the second: the first is used
        assert registrar.calls == [PAGE] * 3
        assert len(registrar.registered) == 2
        regions.close(ids[0])
        assert len(registrar.registered) == 2
        view.release()
        del view
        assert len(registrar.registered) == 1
        regions.close_all()
        await asyncio.sleep(0)  # the turn that the mapping arrived in is over
        assert registrar.registered == {}
        for file in files:
            file.close()

    asyncio.run(scenario())
