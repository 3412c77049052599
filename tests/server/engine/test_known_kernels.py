"""Kernels that were needed before are compiled before the first caller waits."""

import threading

import pytest

import fake_kernels
from losswire_server.engine import known_kernels
from losswire_server.engine.device import LaunchError
from losswire_server.engine.gpu_engine import GpuEngine
from losswire_server.engine.known_kernels import MOST, KnownKernels
from losswire_server.engine.launches import Kernel
from pipelines import PLENTY, fake, rows_of

PLAIN = Kernel("rows.cu", "losswire_rows", (("LOGIT", "float"), ("LOSS", '"cross_entropy.cuh"')))
OTHER = Kernel("few.cu", "losswire_few", (("THREADS", "128"),))


def test_kernels_are_remembered_from_start_to_start(tmp_path):
    """What one start has launched, the next one knows, in the same order and once each."""
    first = KnownKernels(tmp_path / "cache")
    for kernel in (PLAIN, OTHER, PLAIN):
        first.add(kernel)
    assert list(first) == [PLAIN, OTHER]
    again = KnownKernels(tmp_path / "cache")
    assert list(again) == [PLAIN, OTHER]
    again.add(OTHER)
    assert list(KnownKernels(tmp_path / "cache")) == [PLAIN, OTHER]


def test_kernels_of_other_sources_are_not(tmp_path, monkeypatch):
    """A changed source may not have the same macros."""
    KnownKernels(tmp_path).add(PLAIN)
    monkeypatch.setattr(known_kernels, "sources_digest", lambda: "of another version")
    assert list(KnownKernels(tmp_path)) == []


def test_spoilt_lines_are_passed_over(tmp_path):
    """A line that was cut off, or holds something else, costs its kernel and no other."""
    KnownKernels(tmp_path).add(PLAIN)
    [file] = tmp_path.iterdir()
    with file.open("ab") as end:
        end.write(b'{"a": 1}\n["x", "y"]\n7\n["rows.cu", "cut\n')
    KnownKernels(tmp_path).add(OTHER)
    assert list(KnownKernels(tmp_path)) == [PLAIN, OTHER]


@pytest.mark.parametrize("content", [b"\xff\xfe", None], ids=["not text", "a folder"])
def test_a_file_that_cannot_be_used_is_no_error(tmp_path, content):
    """Nothing is known then, and what is launched is known for this start."""
    KnownKernels(tmp_path).add(PLAIN)
    [file] = tmp_path.iterdir()
    if content is None:
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(content)
    known = KnownKernels(tmp_path)
    assert list(known) == []
    known.add(OTHER)
    assert list(known) == [OTHER]


def test_there_is_an_end_to_what_is_remembered(tmp_path):
    """A start compiles no more than so many."""
    known = KnownKernels(tmp_path)
    for number in range(MOST + 5):
        known.add(Kernel("rows.cu", "losswire_rows", (("RUNS", str(number)),)))
    assert len(list(known)) == MOST
    assert len(list(KnownKernels(tmp_path))) == MOST


def test_threads_add_each_kernel_once(tmp_path):
    """Two that come at the same time are one line."""
    known = KnownKernels(tmp_path)
    together = threading.Barrier(8)

    def add():
        together.wait(30)
        known.add(PLAIN)

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [file] = tmp_path.iterdir()
    assert len(file.read_text().splitlines()) == 1


def engine_of(device, known):
    return GpuEngine([device], PLENTY, print, kernels=fake_kernels, known=known)


def test_an_engine_compiles_what_was_needed_before(tmp_path):
    """Before it computes anything; what it launches is added."""
    device = fake()
    engine = engine_of(device, KnownKernels(tmp_path))
    engine.compute([rows_of(3)])
    engine.close()
    assert device.compiled == []
    launched = [launch.kernel for launch, _ in device.launches]
    again = fake()
    engine_of(again, KnownKernels(tmp_path)).close()
    assert again.compiled == launched[:1]


def test_a_kernel_that_does_not_compile_any_more_is_passed_over(tmp_path):
    """The engine starts; whoever needs the kernel will be told."""
    known = KnownKernels(tmp_path)
    known.add(PLAIN)
    known.add(OTHER)
    device = fake(failures={("compile", 1): LaunchError("no such macro")})
    engine = engine_of(device, known)
    engine.compute([rows_of(3)])
    engine.close()
    assert device.compiled == [OTHER]
