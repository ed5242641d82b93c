"""Shared by all tests: what a skipped test means, which tests share a process, and what interrupts reach."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# Started in the background by a script (`nohup bash tests/run.sh &`), this process ignores Ctrl-C and the end of its
# terminal, and so would every process that a test starts and interrupts.
for number, handler in {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}.items():
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

# The same examples in every run: a failure is a change in the code, not a draw of the dice. Nothing is kept on disk.
settings.register_profile("dist_dash", deadline=None, derandomize=True, database=None, max_examples=60)
settings.register_profile("quick", settings.get_profile("dist_dash"), max_examples=10)
settings.load_profile("quick" if os.environ.get("DIST_DASH_QUICK") else "dist_dash")

SLURM = "tests/slurm/"
LONGEST_FIRST = (SLURM, "tests/e2e/", "tests/distributed/", "tests/")
"""Folders in the order in which several workers take them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: [item.nodeid.startswith(folder) for folder in LONGEST_FIRST].index(True))
    for item in items:
        if item.path.is_relative_to(here / "gpu"):
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    report = yield
    if report.skipped and os.environ.get("DIST_DASH_NO_SKIPS") and item.get_closest_marker("gpu") is None:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, but must run: {report.longrepr}"
    return report


class ByFile(LoadScopeScheduling):
    """With several workers, a file's tests share one, and its fixtures; so do all that share the Slurm cluster.

    What takes longest is begun first. Slurm's tests wait more than they compute, so that the others run beside them.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return SLURM if file.startswith(SLURM) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile:
    config.option.loadscopereorder = False
    return ByFile(config, log)
