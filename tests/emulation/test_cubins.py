"""The kernels' text compiles for every architecture where there is no GPU, and tells its needs."""

import pytest

from emulation.cubins import CubinError, compile_cubin
from emulation.emulator import HERE
from emulation.test_gpu_on_cpu import PAIRS, VALUES

PRIMITIVES = HERE / "kernels" / "primitives.cu"
ARCHITECTURES = ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]
WORDS = [*VALUES, "unsigned short", "unsigned long long"]
KERNELS = [
    {"SUM": 1},
    {"VOTE": 1, "VALUE": "unsigned"},
    {"COPY": 1},
    {"LEAST": 1, "VALUE": "unsigned long long"},
    {"ROTATE": 1},
    {"BITS": "float_of"},
    {"BITS": "double_of", "VALUE": "double"},
    *({"TO_FLOAT": f"{half}_to_float"} for half in ("half", "bfloat16")),
    *({"FROM_FLOAT": f"float_to_{half}"} for half in ("half", "bfloat16")),
    *({"PAIRS_TO_FLOATS": f"{pairs}_to_floats"} for pairs in PAIRS.values()),
    *({"PAIRS_FROM_FLOATS": f"floats_to_{pairs}"} for pairs in PAIRS.values()),
    {"POWER": 1},
    *({"SHUFFLE": 1, "VALUE": value} for value in VALUES),
    *({"CLUSTER": 1, "VALUE": value, "BLOCKS": 8} for value in VALUES),
    *({"MOVE": 1, "VALUE": value} for value in WORDS),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_primitive_compiles(architecture):
    """Each becomes machine code whose registers fit 1024 threads and none of which spills."""
    for macros in KERNELS:
        cubin = compile_cubin(PRIMITIVES, macros, architecture, "primitive")
        assert cubin.bytes.startswith(b"\x7fELF"), macros
        assert 0 < cubin.registers <= 64, macros
        assert 8 < cubin.instructions < 1_000, macros
        assert cubin.spill_stores == cubin.spill_loads == cubin.stack_bytes == 0, macros


def test_spills_and_shared_memory_are_told(tmp_path):
    """What a kernel needs is in the report: registers, spills, stack, static shared memory."""
    source = tmp_path / "greedy.cu"
    source.write_text(
        """
        extern "C" __global__ void __launch_bounds__(1024, 2) greedy(float* memory) {
            __shared__ float held[10];
            float kept[128];
        #pragma unroll
            for (int at = 0; at < 128; ++at) kept[at] = memory[at * 1024 + threadIdx.x];
            held[threadIdx.x % 10] = kept[5];
            __syncthreads();
        #pragma unroll
            for (int at = 0; at < 128; ++at)
                memory[at * 1024 + threadIdx.x] = kept[127 - at] + held[at % 10];
        }
        """
    )
    cubin = compile_cubin(source, {}, "sm_90", "greedy")
    assert cubin.registers == 32
    assert cubin.spill_stores > 0
    assert cubin.spill_loads > 0
    assert cubin.stack_bytes > 0
    assert cubin.shared_bytes == 40


def test_what_does_not_compile_is_told(tmp_path):
    """An error carries the compiler's log; a name that is not there and no architecture as well."""
    source = tmp_path / "wrong.cu"
    source.write_text('#include "device.cuh"\nextern "C" __global__ void k(float* m) { n[0] = 1; }')
    with pytest.raises(CubinError, match='identifier "n" is undefined'):
        compile_cubin(source, {}, "sm_90", "k")
    with pytest.raises(CubinError, match="the log tells nothing of absent"):
        compile_cubin(PRIMITIVES, {"SUM": 1}, "sm_90", "absent")
    with pytest.raises(CubinError, match="sm_10: "):
        compile_cubin(PRIMITIVES, {"SUM": 1}, "sm_10", "primitive")
