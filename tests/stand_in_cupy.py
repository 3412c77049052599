"""What the device asks of CuPy, noted instead of done.

`tests/frameworks/test_cupy.py` holds its names to CuPy's own.
"""

import types

HOPPER = {
    "name": b"H100", "totalGlobalMem": 80 << 30, "major": 9, "minor": 0,
    "multiProcessorCount": 132,
}  # fmt: skip

MACHINE_CODE = b"\x7fELF, machine code"

NOTED = [
    "malloc", "free", "hostAlloc", "freeHost", "hostRegister", "hostUnregister", "eventRecord",
    "eventSynchronize", "streamWaitEvent", "memcpyAsync", "eventDestroy",
]  # fmt: skip


class CudaError(RuntimeError):
    """Stands for CuPy's two, which carry a cudaError_t."""

    def __init__(self, status):
        super().__init__(f"cudaError {status}")
        self.status = status


class CompileError(Exception):
    """Stands for NVRTC's."""


class StandIn:
    """A CuPy that notes its calls, and fails with the status that is set."""

    def __init__(self):
        self.calls, self.status, self.compiled = [], 0, []
        runtime = types.SimpleNamespace(
            **{name: self.noting(name) for name in NOTED},
            CUDARuntimeError=CudaError,
            eventCreateWithFlags=self.noting("eventCreateWithFlags", 77),
            eventQuery=lambda _event: self.status,
            getDeviceProperties=lambda _number: HOPPER,
        )
        self.cuda = types.SimpleNamespace(
            runtime=runtime,
            driver=types.SimpleNamespace(CUDADriverError=CudaError),
            compiler=types.SimpleNamespace(
                CompileException=CompileError, compile_using_nvrtc=self.compile
            ),
            function=types.SimpleNamespace(Module=self.module),
            nvrtc=types.SimpleNamespace(getVersion=lambda: (13, 0)),
            Device=lambda number: types.SimpleNamespace(use=lambda: self.note("use", number)),
            Stream=self.Stream,
        )

    class Stream:
        """Stands for CuPy's."""

        ptr = 5

        def __init__(self, *, non_blocking):
            assert non_blocking

        def __enter__(self):
            return self

        def __exit__(self, *_error):
            pass

    def note(self, name, *arguments):
        self.calls.append((name, *arguments))
        if self.status:
            raise CudaError(self.status)

    def noting(self, name, answer=1 << 20):
        def call(*arguments):
            self.note(name, *arguments)
            return answer

        return call

    def compile(self, source, options, *, cache_in_memory):
        assert "extern" in source
        assert cache_in_memory
        self.compiled.append(options)
        return MACHINE_CODE, None

    def module(self):
        def function(grid, block, arguments, *, shared_mem):
            self.note("launch", grid, block, arguments, shared_mem)

        def load(code):
            assert type(code) is bytes  # CuPy takes nothing else
            assert code == MACHINE_CODE
            self.note("load")

        def get_function(entry):
            self.note("look up", entry)
            return function

        return types.SimpleNamespace(load=load, get_function=get_function)
