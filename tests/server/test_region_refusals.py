"""What clients announce and is no memory to share: refused, in words that tell nothing."""

import asyncio
import errno
import fcntl
import os
import socket
import tempfile
from pathlib import Path

import pytest

from losswire_server.errors import InvalidRequest, NotAllowed, Overloaded
from losswire_server.regions import Regions
from shared_memory import PAGE, PROOF, SharedFile, opened

pytestmark = pytest.mark.usefixtures("nothing_is_left")

LIMIT = 1 << 20
REFUSAL = "process_file: expected a process of the server's user and pid namespace"


async def refused(regions, **fields):
    """What is said to one who announces something else."""
    with SharedFile(PAGE) as file, pytest.raises(NotAllowed) as caught:
        await opened(regions, file, **fields)
    return str(caught.value)


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
