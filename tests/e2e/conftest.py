"""Members trained together, and the same members trained alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.joined import QUICK
from tests.e2e.runs import finish


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("together") / "run"
    finish(run, 3, 3, *QUICK)
    return run


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    for member in range(3):
        finish(run / f"member_{member:02d}", 1, 3, *QUICK, f"--member={member}")
    return run
