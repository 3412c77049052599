"""The emulation plays each primitive as `device.cuh` promises; a kernel that breaks one faults."""

import ml_dtypes
import numpy as np
import pytest

from emulation.emulator import HERE, EmulationError, compile_kernel
from emulation.guarded import GuardedMemory, guarded

PRIMITIVES = HERE / "kernels" / "primitives.cu"
FAULTS = HERE / "kernels" / "faults.cu"
ORDERS = ["forward", "reverse", 1, 2]
VALUES = {
    "float": np.float32,
    "double": np.float64,
    "int": np.int32,
    "unsigned": np.uint32,
    "long long": np.int64,
}
HALVES = {"half": np.float16, "bfloat16": ml_dtypes.bfloat16}
PAIRS = {"half": "halves", "bfloat16": "bfloat16s"}
DEEDS = [
    *("SHARED", "GLOBAL", "GLOBAL_WRITE", "DIVISION", "SHIFT"),
    *("PACK", "BLOCK_BARRIER", "WARP_BARRIER", "DIFFERENT"),
    *("CLUSTER_BARRIER", "CLUSTER_RANK", "CLUSTER_OUTSIDE", "COPY", "STACK", "SEEN"),
]
ALL_HALVES = np.arange(1 << 16, dtype=np.uint16)


def primitive(**macros):
    return compile_kernel(PRIMITIVES, macros, "primitive")


def struct(given, taken, count=0):
    return np.array([given.ctypes.data, taken.ctypes.data, count], np.int64).tobytes()


def do(deed, address, place, blocks=1, shared_bytes=256):
    """Launch one cluster of 64 threads a block that does what no kernel may."""
    arguments = np.array([address, place, DEEDS.index(deed)], np.int64).tobytes()
    kernel = compile_kernel(FAULTS, {}, "fault")
    kernel.launch(blocks, 64, shared_bytes, arguments, cluster=blocks)


def numbers(dtype, *shape):
    """Numbers whose every byte counts, the negative ones too."""
    generator = np.random.default_rng(5)
    if np.issubdtype(dtype, np.floating):
        return generator.normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    return generator.integers(limits.min, limits.max, shape, dtype)


@pytest.mark.parametrize("order", ORDERS)
def test_a_block_reduces(order):
    """Shuffles, a barrier and shared memory give each of several blocks its sum."""
    given = np.arange(3 * 1000, dtype=np.float32).reshape(3, 1000)
    sums = np.zeros(3, np.float32)
    primitive(SUM=1).launch(3, 256, 8 * 4, struct(given, sums, 1000), order=order)
    # Every partial sum is an integer below 2**24: exact in float32 in any order.
    np.testing.assert_array_equal(sums, given.sum(1, dtype=np.float64))


def test_a_launch_from_a_block_on():
    """Blocks before the first that is asked for do not run; the others are numbered as ever."""
    given = np.arange(3 * 1000, dtype=np.float32).reshape(3, 1000)
    sums = np.zeros(3, np.float32)
    primitive(SUM=1).launch(3, 256, 8 * 4, struct(given, sums, 1000), first=1)
    np.testing.assert_array_equal(sums[1:], given[1:].sum(1, dtype=np.float64))
    assert sums[0] == 0


def test_fibers_without_the_own_switch():
    """The C library's contexts, for processors without the few lines of assembly, do the same."""
    given = np.arange(1000, dtype=np.float32)
    sums = np.zeros(1, np.float32)
    kernel = primitive(SUM=1, GPU_ON_CPU_UCONTEXT=1)
    kernel.launch(1, 256, 8 * 4, struct(given, sums, 1000))
    assert sums == [999 * 500]
    with pytest.raises(EmulationError, match="block 0 thread 128 touches byte 16"):
        kernel.launch(1, 256, 4 * 4, struct(given, sums, 1000))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("value", VALUES)
def test_shuffles(value, order):
    """Each lane gets the word of the lane it asks for, in every type."""
    given = numbers(VALUES[value], 64)
    taken = np.zeros((2, 64), VALUES[value])
    primitive(SHUFFLE=1, VALUE=value).launch(1, 64, 0, struct(given, taken), order=order)
    np.testing.assert_array_equal(taken[0], given[np.arange(64) ^ 1])
    np.testing.assert_array_equal(taken[1], np.repeat(given[[7, 39]], 32))


@pytest.mark.parametrize("order", ORDERS)
def test_votes(order):
    """A warp votes for itself: bits by lane, any, and memory that all see after `warp_sync`."""
    given = np.zeros(64, np.uint32)
    given[[32, 35, 63]] = 1
    taken = np.zeros((3, 64), np.uint32)
    primitive(VOTE=1, VALUE="unsigned").launch(1, 64, 2 * 4, struct(given, taken), order=order)
    expected = [np.repeat(pair, 32) for pair in ([0, 1 << 31 | 0b1001], [0, 1], [31, 63])]
    np.testing.assert_array_equal(taken, expected)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("blocks", [1, 2, 4, 8])
@pytest.mark.parametrize("value", ["float", "long long"])
def test_a_cluster_reads_its_blocks(value, blocks, order):
    """Every block reads every block's shared memory by its rank, cluster by cluster."""
    given = numbers(VALUES[value], 3 * blocks)
    taken = np.zeros((3 * blocks, blocks), VALUES[value])
    kernel = primitive(CLUSTER=1, VALUE=value)
    kernel.launch(3 * blocks, 32, 16, struct(given, taken), cluster=blocks, order=order)
    ranks = np.arange(blocks)
    expected = given.reshape(3, blocks)[:, (ranks[:, None] + ranks) % blocks]
    np.testing.assert_array_equal(taken, expected.reshape(-1, blocks))


def test_cluster_reads_need_both_meetings():
    """A block's memory is there between the first and the last `cluster_sync` only."""
    given, taken = numbers(np.float32, 2), np.zeros((2, 2), np.float32)
    for omitted, message in [
        ("OMIT_FIRST", "block 0 thread 1 cluster_read of block 1 before the first cluster_sync"),
        ("OMIT_LAST", "block 1 thread 1 cluster_read of block 0, of which threads have ended"),
    ]:
        kernel = primitive(CLUSTER=1, BLOCKS=2, **{omitted: 1})
        with pytest.raises(EmulationError, match=message):
            kernel.launch(2, 32, 16, struct(given, taken), cluster=2)


@pytest.mark.parametrize("value", [*VALUES, "unsigned short", "unsigned long long"])
def test_words_and_packs_move(value):
    """Words of 2, 4 and 8 bytes and packs of 16 arrive as they were, and nothing beyond them."""
    dtype = VALUES.get(value, np.uint16 if value == "unsigned short" else np.uint64)
    kernel = primitive(MOVE=1, VALUE=value)
    for size in (16 * 40, 16 * 40 + 1):
        given = GuardedMemory(numbers(dtype, size), "input", alignment=16, writable=False)
        taken = GuardedMemory(np.zeros(size, dtype), "output", alignment=16)
        kernel.launch(1, 32, 0, struct(given.array, taken.array, size))
        np.testing.assert_array_equal(taken.array, given.array)
        taken.check()


def test_an_array_ends_where_its_page_ends():
    """The short way to a guarded array keeps its numbers, and its memory alive."""
    given = guarded(np.arange(64, dtype=np.float32), "logits")
    np.testing.assert_array_equal(given, np.arange(64))
    with pytest.raises(EmulationError, match="thread 33 touches address"):
        do("GLOBAL", given.ctypes.data, 64)


@pytest.mark.parametrize("order", ORDERS)
def test_copies_arrive_when_waited_for(order):
    """What was copied is there after `copy_async_wait`, and not before."""
    given, taken = numbers(np.float32, 4 * 64), np.zeros(4 * 64, np.float32)
    primitive(COPY=1).launch(1, 64, 64 * 16, struct(given, taken), order=order)
    np.testing.assert_array_equal(taken, given[::-1])
    primitive(COPY=1, OMIT_WAIT=1).launch(1, 64, 64 * 16, struct(given, taken), order=order)
    assert np.isnan(taken).any()


@pytest.mark.parametrize("order", ORDERS)
def test_the_least_of_a_grid(order):
    """`atomic_min` keeps the least, compares as unsigned and gives what was there before."""
    given = numbers(np.uint64, 4 * 64)
    taken = np.array([2**64 - 1, 0], np.uint64)
    kernel = primitive(LEAST=1, VALUE="unsigned long long")
    kernel.launch(4, 64, 64 * 8, struct(given, taken), order=order)
    assert taken[0] == given.min()
    if order == "forward":
        assert taken[1] == np.unique(np.minimum.accumulate(given)).size


@pytest.mark.parametrize("is_paired", [False, True])
@pytest.mark.parametrize("half", HALVES)
def test_every_half_becomes_its_float(half, is_paired):
    """All 65536 bit patterns of a 16-bit format have NumPy's value; a NaN stays one."""
    taken = np.zeros(ALL_HALVES.size, np.float32)
    kernel = primitive(TO_FLOAT=f"{half}_to_float")
    if is_paired:
        kernel = primitive(PAIRS_TO_FLOATS=f"{PAIRS[half]}_to_floats")
    kernel.launch(1, 256, 0, struct(ALL_HALVES, taken, ALL_HALVES.size))
    expected = ALL_HALVES.view(HALVES[half]).astype(np.float32)
    is_nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(taken), is_nan)
    np.testing.assert_array_equal(taken.view(np.uint32)[~is_nan], expected.view(np.uint32)[~is_nan])


@pytest.mark.parametrize("is_paired", [False, True])
@pytest.mark.parametrize("half", HALVES)
def test_floats_round_to_the_nearest_half(half, is_paired):
    """Every half, all ties between two, their neighbours, overflow and NaN become NumPy's half."""
    values = ALL_HALVES.view(HALVES[half]).astype(np.float32)
    finite = np.sort(values[np.isfinite(values)].astype(np.float64))
    ties = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
    beyond = np.array([65519.996, 65520, 1e38, 3.39e38, 3.4e38, 1e-45, 2.0**-25, np.inf], "f4")
    around = [np.nextafter(ties, np.float32(side)) for side in (-np.inf, np.inf)]
    payloads = np.array([0x7F800001, 0xFFFFFFFF, 0x7FC00000], np.uint32).view(np.float32)
    given = np.concatenate([values, ties, *around, beyond, -beyond, payloads])
    given = given[: given.size // 2 * 2]
    taken = np.zeros(given.size, np.uint16)
    kernel = primitive(FROM_FLOAT=f"float_to_{half}")
    if is_paired:
        kernel = primitive(PAIRS_FROM_FLOATS=f"floats_to_{PAIRS[half]}")
    kernel.launch(1, 256, 0, struct(given, taken, given.size))
    with np.errstate(over="ignore", invalid="ignore"):
        expected = given.astype(HALVES[half])
    is_nan = np.isnan(given)
    assert np.isnan(taken.view(HALVES[half])[is_nan].astype(np.float32)).all()
    np.testing.assert_array_equal(taken[~is_nan], expected.view(np.uint16)[~is_nan])


def test_powers_of_2():
    """Near NumPy's; 0 below the least normal number; infinity and NaN as they must be."""
    given = np.concatenate(
        [
            np.linspace(-126, 128, 2_000, endpoint=False, dtype=np.float32),
            np.array([-126.5, -149, -np.inf, 128, np.inf, np.nan], np.float32),
        ]
    )
    taken = np.zeros_like(given)
    primitive(POWER=1).launch(1, 256, 0, struct(given, taken, given.size))
    np.testing.assert_allclose(taken[:2_000], np.exp2(given[:2_000].astype(float)), rtol=2.0**-22)
    np.testing.assert_array_equal(taken[2_000:], [0, 0, 0, np.inf, np.inf, np.nan])


@pytest.mark.parametrize(("value", "back"), [("float", "float_of"), ("double", "double_of")])
def test_bits(value, back):
    """A number's bits make the same number again."""
    given = numbers(VALUES[value], 32)
    taken = np.zeros_like(given)
    primitive(BITS=back, VALUE=value).launch(1, 32, 0, struct(given, taken))
    np.testing.assert_array_equal(taken, given)


def test_a_missing_barrier_shows_in_another_order():
    """A kernel that reads before others wrote is right forwards by luck, and NaN in reverse."""
    given, taken = numbers(np.float32, 64), np.zeros(64, np.float32)
    for order in ORDERS:
        primitive(ROTATE=1).launch(1, 64, 64 * 4, struct(given, taken), order=order)
        np.testing.assert_array_equal(taken, np.roll(given, 1))
    broken = primitive(ROTATE=1, OMIT_BARRIER=1)
    broken.launch(1, 64, 64 * 4, struct(given, taken), order="forward")
    np.testing.assert_array_equal(taken[1:], given[:-1])
    broken.launch(1, 64, 64 * 4, struct(given, taken), order="reverse")
    assert np.isnan(taken[1:]).all()


@pytest.mark.parametrize(
    ("deed", "place", "message"),
    [
        ("SHARED", 64, "block 0 thread 33 touches byte 256 of the 256 bytes of shared memory"),
        ("SHARED", -1, "block 0 wrote byte -4 of its 256 bytes of shared memory"),
        ("GLOBAL", 64, "block 0 thread 33 touches address 0x[0-9a-f]+, .*: byte 256 of the 256 of"),
        ("GLOBAL", 1 << 28, "block 0 thread 33 touches address"),
        ("DIVISION", 0, "block 0 thread 33 divides an integer by zero"),
        ("SHIFT", 32, "block 0 thread 33 overflows, shifts too far"),
        ("PACK", 1, "block 0 thread 33 store_once at .* not aligned to 16 bytes"),
        ("BLOCK_BARRIER", 32, "deadlock: .*0 thread 0 to 31 waits in block_sync; .*32 to 63 ended"),
        ("WARP_BARRIER", 40, "deadlock: .*thread 32 to 39 waits in warp_sync; .*40 to 63 ended"),
        ("DIFFERENT", 8, "thread 8 comes to warp_any while others of its warp wait in warp_shuf"),
        ("CLUSTER_BARRIER", 1, "deadlock: block 0 thread 0 to 63 waits in cluster_sync; block 1 "),
        ("CLUSTER_RANK", 2, "block 0 thread 0 cluster_read of block 2 of a cluster of 2"),
        ("CLUSTER_OUTSIDE", 64, "block 0 thread 0 cluster_read at byte 256 of the 256 bytes of"),
        ("COPY", 0, "block 0 thread 0 ended with copies under way"),
        ("STACK", 0, "block 0 thread 0 touches its own stack, which is full"),
    ],
)
def test_faults_are_told(deed, place, message):
    """A fault is an exception that names block, thread and deed; the process lives on."""
    memory = GuardedMemory(np.zeros(64, np.float32), "memory")
    for _ in range(2):
        with pytest.raises(EmulationError, match=message):
            do(deed, memory.address, place, blocks=2)


def test_the_last_byte_of_odd_shared_memory_is_guarded():
    """Also where the end of shared memory is no multiple of 16, a write behind it is told."""
    with pytest.raises(EmulationError, match="block 0 wrote byte 252 of its 252 bytes"):
        do("SHARED", 0, 63, shared_bytes=252)


def test_shared_memory_holds_nothing_before():
    """Every block finds NaN where it has written nothing."""
    taken = np.zeros(64, np.float32)
    do("SEEN", taken.ctypes.data, 3, blocks=2)
    assert np.isnan(taken).all()


def test_what_is_read_only_cannot_be_written():
    """Memory that is for reading is read, and a write to it is a fault."""
    memory = GuardedMemory(np.zeros(64, np.float32), "logits", writable=False)
    do("GLOBAL", memory.address, 63)
    with pytest.raises(EmulationError, match="byte 252 of the 256 of logits"):
        do("GLOBAL_WRITE", memory.address, 63)


def test_memory_is_guarded_before_its_start_too():
    """Placed at the start of its pages, an array has the guard before its first byte."""
    memory = GuardedMemory(np.zeros(3, np.float32), "labels", at_start=True)
    with pytest.raises(EmulationError, match="byte -4 of the 12 of labels"):
        do("GLOBAL_WRITE", memory.address, -1)
    do("GLOBAL_WRITE", memory.address, 3)
    with pytest.raises(AssertionError, match="bytes around labels were written"):
        memory.check()


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ({"grid": 3, "cluster": 2}, "grid: a multiple of the cluster of 2 expected, got 3"),
        ({"block": 40}, "block: a multiple of 32 up to 1024 expected, got 40"),
        ({"arguments": b"short"}, "arguments: 24 bytes expected, 5 received"),
    ],
)
def test_no_launch(geometry, message):
    """What no GPU would launch as meant is refused before anything runs."""
    kernel = compile_kernel(FAULTS, {}, "fault")
    usual = {"grid": 1, "block": 64, "shared_bytes": 0, "arguments": bytes(24)}
    with pytest.raises(ValueError, match=message):
        kernel.launch(**(usual | geometry))


def test_what_does_not_compile_is_told(tmp_path):
    """The compiler's warnings are errors, and are in the message; so is a missing compiler."""
    source = tmp_path / "unused.cu"
    source.write_text(
        '#include "device.cuh"\nextern "C" __global__ void k(int rows) { int spare = rows; }\n'
    )
    with pytest.raises(EmulationError, match=r"unused variable .*spare"):
        compile_kernel(source, {}, "k")
    with pytest.raises(EmulationError, match=r"no C\+\+ compiler: 'no-such-c\+\+'"):
        compile_kernel(source, {}, "k", compiler="no-such-c++")
