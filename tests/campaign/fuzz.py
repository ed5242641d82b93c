"""Mutated files of a finished and of a stopped run: `python -m tests.campaign.fuzz [--count 500] [--seed 0]`.

Right is: the same result as without the change, or one line and exit status 2 with nothing written; never an import of
anything that the files name, never a program started, never a file written elsewhere, never a traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from dist_dash.commands.cli import main as dist_dash
from tests.campaign.mutations import PLANTED, Change, of_arrays, of_json, of_weights
from tests.campaign.watch import Watch
from tests.support.ranks import Ranks

LIMIT = 120  # seconds of one command
MOST = 1500  # letters of a line
RECIPE = [
    "--data=Synthetic",
    "--data.size=4",
    "--data.channels=1",
    "--data.classes=3",
    "--data.train=24",
    "--data.test=12",
]
RECIPE += [
    "--model=MLP",
    "--model.hidden=4",
    "--optimizer=SGD",
    "--optimizer.lr=0.05",
    "--engine=Torch",
    "--max_steps=6",
]
RECIPE += ["--loader.batch_size=4", "--record.progress=false", "--checkpoints.every_steps=2", "--checkpoints.keep=3"]
PLANTED_CODE = "open('planted.ran', 'w').close()\ndef net(**given): raise SystemExit\nNet = net\n"


@dataclass(frozen=True)
class Target:
    """A kind of file, how it is changed, and the command that reads it.

    Args:
        name: of the kind.
        file: in the prepared folder.
        change: draws a change.
        command: its arguments, in the prepared folder.
        result: what the command gives, to be compared, from the folder and from what it printed.
        written: what must be absent where the command refuses.
    """

    name: str
    file: str
    change: Callable[[random.Random, bytes], Change]
    command: tuple[str, ...]
    result: Callable[[Path, str], Any]
    written: tuple[str, ...] = ("p.npz",)


def _predicted(folder: Path, _: str) -> Any:
    with np.load(folder / "p.npz") as found:
        return {name: found[name].tobytes() for name in found.files}


def _printed(_: Path, printed: str) -> Any:
    return printed


def _trained(folder: Path, _: str) -> Any:
    ended = folder / "stopped"
    return {path.name: path.read_bytes() for path in [*(ended / "ensemble").glob("*.s*"), ended / "predictions.npz"]}


PREDICT = ("predict", "run", "x.npz", "--output", "p.npz")
RESUME = ("train", *RECIPE, "--members=1", "--method=SGD", "--run=stopped")
SCORE = ("evaluate", "--predictions", "run/predictions.npz", "--json")
TARGETS = (
    Target("ensemble.json", "run/ensemble/ensemble.json", of_json, PREDICT, _predicted),
    Target("weights", "run/ensemble/member_01.safetensors", of_weights, PREDICT, _predicted),
    Target("predictions", "run/predictions.npz", of_arrays, SCORE, _printed),
    Target("manifest", "stopped/checkpoints/step_00000004/manifest.json", of_json, RESUME, _trained, ("stopped/DONE",)),
)


AS_ONE_RANK = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GLOO_SOCKET_IFNAME": "lo"}


class TooLong(BaseException):
    """A command has not ended within the limit."""


class Fuzz:
    """The prepared runs, and what the commands give of them unchanged.

    Args:
        folder: empty, or new.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.prepared, self.trial = self.folder / "prepared", self.folder / "trial"
        self.watch = Watch(self.folder, frozenset({PLANTED, "antigravity", "hubconf"}))
        self.prepared.mkdir(parents=True)
        for name, members, method in (("run", 2, "DASH"), ("stopped", 1, "SGD")):
            given = [*RECIPE, f"--members={members}", f"--method={method}", f"--run={self.prepared / name}"]
            ranks = Ranks(members, dist_dash, ["train", *given])
            if ranks.results() != [("value", 0)] * members:
                raise RuntimeError(ranks.output(0))
        stopped = self.prepared / "stopped"  # as if it had been killed after its second set
        shutil.rmtree(stopped / "checkpoints/step_00000006")
        shutil.rmtree(stopped / "ensemble")
        for name in ("DONE", "predictions.npz", "evaluation.json"):
            (stopped / name).unlink()
        pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 4, 4), dtype=np.uint8)
        np.savez(self.prepared / "x.npz", x=pixels)
        for name in (PLANTED, "hubconf"):
            (self.prepared / f"{name}.py").write_text(PLANTED_CODE)
        self.expected: dict[str, Any] = {}
        for target in TARGETS:
            status, printed, said = self._run(target)
            if status != 0:
                raise RuntimeError(f"{target.name}: {status} {said}")
            self.expected[target.name] = target.result(self.trial, printed)

    def wrong_with(self, target: Target, content: bytes) -> str:
        """What falls short where the target's file holds this; empty where all is right."""
        with self.watch.on() as seen:
            status, printed, said = self._run(target, content)
        lines = said.splitlines()
        if seen:
            return "; ".join(dict.fromkeys(seen))
        if status not in (0, 2) or "Traceback" in said:
            return f"exit {status}: {said[-300:]}"
        if status == 0:
            # What is left out aloud may change the figures.
            if any("left out" in line for line in lines):
                return ""
            return "" if target.result(self.trial, printed) == self.expected[target.name] else "changed without a word"
        if not lines or not lines[-1].startswith("dist-dash: ") or (target.name != "manifest" and len(lines) > 1):
            return f"not one line: {said[-300:]!r}"
        if len(lines[-1]) > MOST:
            return f"a line of {len(lines[-1])} letters"
        left = [name for name in target.written if (self.trial / name).exists()]
        return f"left behind: {left}" if left else ""

    def _run(self, target: Target, content: bytes | None = None) -> tuple[int | str, str, str]:
        """The command's exit status, or what it raised; its stdout and stderr."""
        shutil.rmtree(self.trial, ignore_errors=True)
        shutil.copytree(self.prepared, self.trial)
        if content is not None:
            (self.trial / target.file).write_bytes(content)
        out, err = io.StringIO(), io.StringIO()
        own = {**AS_ONE_RANK, "DIST_DASH_RENDEZVOUS": f"file://{self.trial}/store"} if target.name == "manifest" else {}
        before, environment = Path.cwd(), dict(os.environ)
        os.chdir(self.trial)
        os.environ.update(own)
        before_alarm = signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(LIMIT)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
                warnings.simplefilter("default")
                status: int | str = dist_dash([*target.command])
        except SystemExit as error:
            status = f"SystemExit {error}"
        except (Exception, TooLong):
            status = traceback.format_exc(limit=-3)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before_alarm)
            os.chdir(before)
            os.environ.clear()
            os.environ.update(environment)
            if dist.is_initialized():  # a rank that is refused ends with its process
                dist.destroy_process_group()
            gc.collect()  # threads of gloo go on until its groups are collected
        return status, out.getvalue(), err.getvalue()


def _too_long(*_: object) -> None:
    raise TooLong


def trials(seed: int) -> Iterator[tuple[Target, random.Random]]:
    """Kinds of files in turn, each with the source of its change."""
    for number in itertools.count():
        yield TARGETS[number % len(TARGETS)], random.Random(f"{seed} {number}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trials, say what fell short and how many held; 0 where all did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    held = 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        fuzz = Fuzz(Path(folder))
        for number, (target, draw) in enumerate(itertools.islice(trials(options.seed), options.count)):
            content, what = target.change(draw, (fuzz.prepared / target.file).read_bytes())
            wrong = fuzz.wrong_with(target, content)
            held += not wrong
            if wrong:
                print(f"{number}. {target.name}, {what}: {wrong}", flush=True)
            if (number + 1) % 50 == 0:
                print(f"{number + 1} tried", flush=True)
    print(f"{held} of {options.count} hold")
    return int(held < options.count)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
