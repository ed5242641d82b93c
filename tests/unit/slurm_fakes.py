"""Slurm's commands as scripts that say what a test has put into their mouths, and note what they were asked."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

SHOWN = (
    "JobId={own} {array}JobName={name} UserId=a(1) GroupId=a(1) MCS_label=N/A Priority=1 Nice=0 Account=a QOS=normal "
    "JobState={state} Reason={reason} Dependency=(null) Requeue=1 Restarts={restarts} BatchFlag=1 Reboot=0 "
    "ExitCode=0:0 PreemptEligibleTime=2026-11-21T11:27:27 PreemptTime={preempted} SuspendTime=None SecsPreSuspend=0 "
    "WorkDir=/home/a Comment={comment} Power="
)


def shown(own: object, task: str = "", **facts: object) -> str:
    """A line of `scontrol show job -o`, as Slurm 22.05 prints it; `task` is `123_4` in an array."""
    parent, _, index = task.partition("_")
    array = f"ArrayJobId={parent} ArrayTaskId={index} ArrayTaskThrottle=2 " if task else ""
    usual = {"name": "a", "state": "RUNNING", "reason": "None", "restarts": 0, "preempted": "None", "comment": "c"}
    return SHOWN.format(own=own, array=array, **{**usual, **facts})


class FakeSlurm:
    """The only commands on PATH; each that was never told anything is not installed, but for sbatch.

    Args:
        folder: for the scripts.
        monkeypatch: of the test.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        folder.mkdir()
        monkeypatch.setenv("PATH", str(folder))
        self.say("sbatch")

    def say(self, command: str, *lines: str, error: str = "", status: int = 0) -> None:
        """What a command prints, on stdout and stderr, from now on."""
        told = "".join(f"{line}\n" for line in lines)
        script = self._folder / command
        script.write_text(
            f'#!/bin/sh\necho "$@" >> {shlex.quote(str(self._notes(command)))}\n'
            f"printf %s {shlex.quote(told)}\nprintf %s {shlex.quote(error)} >&2\n"
            f'[ -z "$SQUEUE_STATES" ] || echo filtered\nexit {status}\n'
        )
        script.chmod(0o755)

    def asked(self, command: str) -> list[str]:
        """The arguments of every call so far."""
        notes = self._notes(command)
        return notes.read_text().splitlines() if notes.exists() else []

    def _notes(self, command: str) -> Path:
        return self._folder / f"{command}.asked"
