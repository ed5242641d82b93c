"""A batch that a data worker cannot hand over: said at once, with the cure; by default torch drops it and waits."""

from __future__ import annotations

import multiprocessing
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from dist_dash.data.workers import stream
from dist_dash.errors import RunFailed


class Refused:
    """A batch whose memory the system refuses."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> NoReturn:
        raise self.error


SMALL = RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)")


@pytest.mark.parametrize(
    ("error", "cure"),
    [(SMALL, "/dev/shm is too small: enlarge it"), (OSError(24, "Too many open files"), "raise `ulimit -n`")],
)
def test_what_the_system_refuses(error: Exception, cure: str) -> None:
    def assemble(key: int) -> Any:
        return Refused(error) if key else key

    with pytest.raises(RunFailed, match=r"loader.workers: a batch cannot be handed over \(.*\); ") as caught:
        list(stream(assemble, range(2), 1, False))
    assert cure in str(caught.value)


def test_a_long_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    # What this process has asked for already, its workers inherit.
    monkeypatch.delitem(multiprocessing.current_process()._config, "tempdir", raising=False)  # type: ignore[attr-defined]
    with pytest.raises(RunFailed, match=rf"AF_UNIX path too long\); TMPDIR, {folder}, is too long for sockets"):
        list(stream(lambda key: torch.zeros(3), range(2), 1, False))
