"""A share of the campaign `python -m tests.campaign.kills`: the lost rank is named, whoever hosts the store."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.campaign.kills import Trial, run_trial

TRIALS = [
    Trial(2, 2, 0, signal.SIGKILL, 0.3, "rank 0", deadline=60, from_first_step=True),
    Trial(3, 3, 1, signal.SIGKILL, 0.8, "rank 0", deadline=60, from_first_step=True),
    Trial(2, 1, 1, signal.SIGKILL, 1.3, "launcher", deadline=60, from_first_step=True),
    Trial(4, 2, 3, signal.SIGKILL, 0.3, "file", deadline=60, from_first_step=True),
    Trial(3, 3, 1, signal.SIGSTOP, 1.3, "rank 0", deadline=15, from_first_step=True),
    Trial(2, 2, 0, signal.SIGSTOP, 0.8, "rank 0", deadline=15, from_first_step=True),
]


def test_who_is_lost_is_named(tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(len(TRIALS))]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(len(TRIALS)) as threads:
        found = dict(zip(map(str, TRIALS), threads.map(run_trial, TRIALS, folders), strict=True))
    assert not any(found.values()), found
