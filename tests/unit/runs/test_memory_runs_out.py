"""Memory that runs out is one line with the cure; every other RuntimeError keeps its traceback."""

import pytest

from dist_dash.runs.process import FAILED, guarded

ALLOCATOR = "[enforce fail at alloc_cpu.cpp:128] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError(ALLOCATOR), RuntimeError("can't start new thread")])
def test_out_of_memory(error, capsys):
    def runs_out() -> int:
        raise error

    assert guarded(runs_out) == FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"dist-dash: memory ran out{f' ({error})' if str(error) else ''}; lower loader.batch_size or "
    )
