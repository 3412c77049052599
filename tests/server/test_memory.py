"""The allocator keeps what it has: large buffers cost page faults once, not each time."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from losswire_server import memory

SCRIPT = """
import resource, sys
from losswire_server.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for _ in range(3):
    bytearray(64 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    bytearray(64 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode):
    command = [sys.executable, "-c", SCRIPT, mode]
    return int(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)


def test_large_buffers_are_touched_for_the_first_time_once():
    """Ten buffers of 64 MiB, one after another, fault hardly any page; unasked, nearly all."""
    pages = 10 * (64 << 20) // resource.getpagesize()
    assert page_faults("kept") < pages / 100
    assert page_faults("default") > pages / 1000  # a huge page counts once for 512


LIMITED = """
import sys
from pathlib import Path
from losswire_server.memory import keep_buffers
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20
keep_buffers(int(sys.argv[1]) << 20)
before = resident()
buffers = [bytes([number]) * (64 << 20) for number in range(1, 13)]
del buffers
print(resident() - before)
"""


@pytest.mark.parametrize(("limit", "least", "most"), [(1024, 768, 1024), (600, 0, 600), (0, 0, 8)])
def test_no_more_is_kept_than_the_pool_may(limit, least, most):
    """Of 768 MiB that were in use at once, in MiB; what is beyond the limit goes back."""
    command = [sys.executable, "-c", LIMITED, str(limit)]
    ran = subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert least <= int(ran.stdout) <= most


USED = """
from losswire_server.memory import keep_buffers, pool
keep_buffers(1 << 30)
before = pool()
buffer = bytes(64 << 20)
held = pool()
del buffer
kept = pool()
print(held.used - before.used >> 20, before.free - held.free >> 20, kept.free - held.free >> 20)
"""


def test_the_pool_tells_what_it_holds():
    """64 MiB that are in use, and then are kept for the next; but for a header."""
    if memory.pool() is None:
        pytest.skip("this system's malloc does not tell what it holds")
    command = [sys.executable, "-c", USED]
    ran = subprocess.run(command, capture_output=True, check=True, timeout=60, text=True)
    assert all(63 <= int(mebibytes) <= 64 for mebibytes in ran.stdout.split())


HUGE = """
import sys
from pathlib import Path
from losswire_server import memory
assert memory.keep_freed_memory()
bytearray(int(sys.argv[1]))
if not memory.ask_for_huge_pages():
    print(Path("/proc/self/maps").read_text())
    sys.exit("refused")
filled = [bytes([number]) * (4 << 20) for number in range(16)]
mappings = Path("/proc/self/smaps").read_text().split("VmFlags:")
asked = [each for each, flags in zip(mappings, mappings[1:]) if " hg" in flags.splitlines()[0]]
print(sum("[heap]" in each for each in asked))
print(sum(int(each.split("AnonHugePages:")[1].split()[0]) for each in asked) >> 10)
"""


@pytest.mark.parametrize("free", [0, 1 << 20])
def test_the_heap_comes_in_huge_pages(free):
    """Most of what is filled lies in them, where the system gives them to who asks.

    Whatever the heap has free at its end before, by which it then has less to grow.
    """
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("this system has no huge pages to give")
    command = [sys.executable, "-c", HUGE, str(free)]
    ran = subprocess.run(command, capture_output=True, check=False, timeout=60, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    heaps, mebibytes = map(int, ran.stdout.split())
    assert heaps == 1
    assert mebibytes > 48  # of 64; some may not be free in one piece
