"""Checkpoint sets, complete and consistent: every rank writes its part, and one rename makes the set appear.

checkpoints/step_00000100/manifest.json
                          member_00/replica_00.pt …
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dist_dash.data.time_limit import Interrupted, TimeLimit
from dist_dash.errors import BadInput, RunFailed, everywhere
from dist_dash.files import naming, sync_folder, write_atomically
from dist_dash.ranks.exchange import Exchange
from dist_dash.runs.choices import HARMLESS, differing, flat, under
from dist_dash.runs.owner import OwnedFolder
from dist_dash.runs.preemption import Stopped

FORMAT = 2


class CheckpointSets:
    """The checkpoint sets of one run.

    Args:
        folder: the run's.
        exchange: all ranks save and load together.
        recipe: the resolved recipe, nested; a set of another recipe is refused, unless the difference is harmless.
        keep: how many of the newest sets stay.
        say: prints a line for the user, on rank 0.
        limit: with a file system that does not answer.
    """

    def __init__(
        self,
        folder: OwnedFolder,
        exchange: Exchange,
        recipe: dict[str, Any],
        keep: int,
        say: Callable[[str], None],
        limit: TimeLimit | None = None,
    ) -> None:
        self._limit = limit or TimeLimit(exchange.deadline)
        self._folder, self._exchange, self._keep, self._say = folder, exchange, keep, say
        self._recipe = {k: v for k, v in flat(recipe).items() if not under(k, HARMLESS)}
        self._layout = layout = exchange.layout
        self._sizes = {"members": layout.members, "replicas": layout.replicas, "first_member": layout.first_member}
        self._newest: int | None = None

    def save(self, step: int, state: dict[str, Any], shared: dict[str, Any]) -> None:
        """Write a set; all ranks call it, and all raise if one of them fails: earlier sets stay intact.

        Args:
            step: updates done.
            state: this rank's; tensors, numbers, strings and containers of them.
            shared: small facts about the whole run, JSON; kept in the manifest.

        Raises:
            RunFailed: the disk is full or broken, or another run owns the folder.
        """
        if step == self._newest:
            return  # this process has saved or loaded this set itself
        exchange, is_first = self._exchange, self._layout.rank == 0
        # The name holds the owner's token: a stale owner that still writes finds no such folder any more.
        partial = self._folder.checkpoints / f".step_{step:08d}.{self._folder.token}.partial"
        with exchange.together(f"checkpoint of step {step}"):
            if is_first:
                self._begin(partial)
        try:
            with exchange.together(f"checkpoint of step {step}"):
                name = self._part(self._layout.member, self._layout.replica)
                digest, size = _write(partial / name, {**state, "rng": _rng_state()})
            written = exchange.collect((name, {"blake2b": digest, "bytes": size}))
            with exchange.together(f"checkpoint of step {step}"):
                if is_first:
                    facts = {"format": FORMAT, "step": step, **self._sizes, "recipe": self._recipe, "shared": shared}
                    self._publish(partial, {**facts, "parts": dict(written)})
            self._newest = step
        except BaseException:
            if is_first:
                shutil.rmtree(partial, ignore_errors=True)
            raise

    def _begin(self, partial: Path) -> None:
        """Remove what earlier owners have left half written, and make room for the parts."""
        self._folder.check_owner()
        for leftover in self._folder.checkpoints.glob(".*.partial"):
            shutil.rmtree(leftover)
        for member in range(self._layout.members):
            (partial / f"member_{member:02d}").mkdir(parents=True)

    def _publish(self, partial: Path, manifest: dict[str, Any]) -> None:
        """Complete a set, give it its name, and remove the sets that are superseded."""
        write_atomically(partial / "manifest.json", json.dumps(manifest, indent=1))
        for folder in [*(path for path in partial.iterdir() if path.is_dir()), partial]:
            sync_folder(folder)
        self._folder.check_owner()
        step = manifest["step"]
        # A set of this step or a later one is torn: else this run would have continued from it.
        for torn in [s for s in self._folder.checkpoint_steps() if s >= step]:
            shutil.rmtree(self._path(torn))
        partial.rename(self._path(step))
        sync_folder(self._folder.checkpoints)
        for old in self._folder.checkpoint_steps()[: -self._keep]:
            shutil.rmtree(self._path(old))

    def load(self) -> tuple[int, list[dict[str, Any]], dict[str, Any]] | None:
        """The newest complete set: its step, the state of each replica of this rank's member, the shared facts.

        A torn set is reported and skipped. This rank's random number generators are restored.

        Raises:
            BadInput: the set belongs to another layout or recipe (what differs is listed), or no set can be read.
            RunFailed: the file system does not answer.
            Stopped: a rank was asked to stop before it had read its part; nothing has changed.
        """
        newest_first = self._exchange.collect(self._folder.checkpoint_steps())[0][::-1]
        for step in newest_first:
            manifest, states, problem = None, [], None
            try:
                late = partial("run: the file system of {} has not answered".format, self._path(step))
                read = (self._path(step) / "manifest.json").read_text
                manifest = json.loads(self._limit.call(read, what=late))
                self._check_same_run(manifest)
                states = self._limit.call(self._states, step, manifest, what=late)
            except Interrupted:
                problem = ("stop", "")
            except RunFailed:
                raise
            except BadInput as error:
                problem = ("input", str(error))
            except (OSError, ValueError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
                problem = ("torn", str(error).splitlines()[0] if str(error) else type(error).__name__)
            problems = [p for p in self._exchange.collect(problem) if p is not None]
            if any(kind == "stop" for kind, _ in problems):
                raise Stopped
            if any(kind == "input" for kind, _ in problems):
                raise everywhere(BadInput(next(text for kind, text in problems if kind == "input")))
            if problems:
                self._say(f"checkpoint {self._path(step)} is torn ({problems[0][1]}); it is skipped")
                continue
            _set_rng_state(states[self._layout.replica]["rng"])
            assert manifest is not None
            self._newest = step
            return step, states, manifest["shared"]
        if newest_first:
            where = self._folder.checkpoints
            raise everywhere(BadInput(f"run: no checkpoint set in {where} can be read; --fresh starts over"))
        return None

    def _path(self, step: int) -> Path:
        return self._folder.checkpoints / f"step_{step:08d}"

    @staticmethod
    def _part(member: int, replica: int) -> str:
        return f"member_{member:02d}/replica_{replica:02d}.pt"

    def _check_same_run(self, manifest: dict[str, Any]) -> None:
        mine = {"format": FORMAT, **self._sizes, **self._recipe}
        theirs = {**{k: manifest.get(k, 0) for k in ("format", *self._sizes)}, **flat(manifest["recipe"])}
        found = sorted(differing([theirs, mine]).items())
        differences = [f"{field} {before!r} → {now!r}" for field, (before, now) in found]
        if differences:
            what = "; ".join(differences[:8]) + ("; …" if len(differences) > 8 else "")
            raise BadInput(
                f"run: {self._folder.path} was started with other settings ({what}); use another --run, or --fresh"
            )

    def _states(self, step: int, manifest: dict[str, Any]) -> list[dict[str, Any]]:
        return [self._read(step, manifest, replica) for replica in range(self._layout.replicas)]

    def _read(self, step: int, manifest: dict[str, Any], replica: int) -> dict[str, Any]:
        name = self._part(self._layout.member, replica)
        path = self._path(step) / name
        if _digest(path) != manifest["parts"][name]["blake2b"]:
            raise ValueError(f"{name} has changed since it was written")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state


def _write(path: Path, state: dict[str, Any]) -> tuple[str, int]:
    with naming(path), path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    return _digest(path), path.stat().st_size


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _rng_state() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    numpy_state = [kind, torch.from_numpy(keys.astype(np.int64)), *rest]  # type: ignore[union-attr]
    return {"torch": torch.get_rng_state(), "cuda": cuda, "python": random.getstate(), "numpy": numpy_state}


def _set_rng_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
