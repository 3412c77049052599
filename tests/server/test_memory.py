"""The allocator keeps what it has: large buffers cost page faults once, not each time."""

import resource
import subprocess
import sys

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
