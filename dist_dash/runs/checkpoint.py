"""Checkpoint sets, complete and consistent: every rank writes its part, and one rename makes the set appear.

checkpoints/step_00000100/manifest.json
                          member_00/replica_00.pt …
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dist_dash.data.same_data import what_differs
from dist_dash.data.time_limit import Interrupted, TimeLimit
from dist_dash.errors import BadInput, RunFailed, everywhere, first_line
from dist_dash.files import digest_of, naming, read_json, remove, sync_folder, write_json
from dist_dash.ranks.exchange import Exchange
from dist_dash.runs.choices import (
    HARMLESS,
    LENGTH,
    PLACES,
    OtherSettings,
    differing,
    flat,
    refuse_other_settings,
    under,
)
from dist_dash.runs.owner import OwnedFolder
from dist_dash.runs.preemption import Stopped

FORMAT = 2


class CheckpointSets:
    """The checkpoint sets of one run.

    Args:
        folder: the run's.
        exchange: all ranks save and load together.
        recipe: the resolved recipe, nested; a set of another recipe is refused, unless the difference is harmless.
        data: what is known of the data, see `DataFacts.as_json`; a set of other data is refused.
        keep: how many of the newest sets stay.
        say: prints a line for the user, on rank 0.
        limit: with a file system that does not answer.
        extend: whether a set of a shorter run will do.
        completed: gives the run's flat recipe with today's defaults: for fields that an earlier version did not have.
    """

    def __init__(
        self,
        folder: OwnedFolder,
        exchange: Exchange,
        recipe: dict[str, Any],
        data: dict[str, Any],
        keep: int,
        say: Callable[[str], None],
        limit: TimeLimit | None = None,
        extend: bool = False,
        completed: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self._completed, self._may_differ = completed, LENGTH if extend else ()
        self._limit = limit or TimeLimit(exchange.deadline)
        self._folder, self._exchange, self._data, self._keep, self._say = folder, exchange, data, keep, say
        self._recipe = {k: v for k, v in flat(recipe).items() if not under(k, HARMLESS)}
        self._layout = layout = exchange.layout
        self._sizes = {"members": layout.members, "replicas": layout.replicas, "first_member": layout.first_member}
        self._newest: int | None = None

    def save(self, step: int, states: Sequence[dict[str, Any]], shared: dict[str, Any]) -> None:
        """Write a set; all ranks call it, and all raise if one of them fails: earlier sets stay intact.

        Args:
            step: updates done.
            states: one of each member of this rank; tensors, numbers, strings and containers of them.
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
                own = {}
                for member, state in zip(self._layout.own_members, states, strict=True):
                    name = self.part(member, self._layout.replica)
                    digest, size = _write(partial / name, {**state, "rng": _rng_state()})
                    own[name] = {"blake2b": digest, "bytes": size}
            written = {name: part for parts in exchange.collect(own) for name, part in parts.items()}
            with exchange.together(f"checkpoint of step {step}"):
                if is_first:
                    facts = {"format": FORMAT, "step": step, **self._sizes, "recipe": self._recipe}
                    facts |= {"data": self._data, "shared": shared}
                    self._publish(partial, {**facts, "parts": written})
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
        write_json(partial / "manifest.json", manifest)
        for folder in [*(path for path in partial.iterdir() if path.is_dir()), partial]:
            sync_folder(folder)
        self._folder.check_owner()
        step = manifest["step"]
        # A set of this step or a later one is torn: else this run would have continued from it.
        for torn in [s for s in self._folder.checkpoint_steps() if s >= step]:
            remove(self._path(torn))
        partial.rename(self._path(step))
        sync_folder(self._folder.checkpoints)
        for old in self._folder.checkpoint_steps()[: -self._keep]:
            remove(self._path(old))

    def load(self) -> tuple[int, list[list[dict[str, Any]]], dict[str, Any]] | None:
        """The newest complete set: its step, for each member of this rank its replicas' states, the shared facts.

        A torn set is reported and skipped. This rank's random number generators are restored.

        Raises:
            BadInput: the set belongs to another layout, to another recipe or to other data (what differs is listed), or
                no set can be read.
            RunFailed: the file system does not answer.
            Stopped: a rank was asked to stop before it had read its part; nothing has changed.
        """
        newest_first = self._exchange.collect(self._folder.checkpoint_steps())[0][::-1]
        for step in newest_first:
            manifest, states, problem = dict[str, Any](), list[list[dict[str, Any]]](), None
            try:
                late = partial("run: the file system of {} has not answered".format, self._path(step))
                manifest = self._limit.call(self._manifest, step, what=late)
                self._check_same_run(manifest)
                states = self._limit.call(self._states, step, manifest, what=late)
            except Interrupted:
                problem = ("stop", "")
            except RunFailed:
                raise
            except OtherSettings as error:
                problem = ("input", str(error))
            except Exception as error:  # whatever a file that is not as it was written brings forth
                problem = ("torn", first_line(error))
            problems = [p for p in self._exchange.collect(problem) if p is not None]
            if any(kind == "stop" for kind, _ in problems):
                raise Stopped
            if any(kind == "input" for kind, _ in problems):
                raise everywhere(BadInput(next(text for kind, text in problems if kind == "input")))
            if problems:
                self._say(f"checkpoint {self._path(step)} is torn ({problems[0][1]}); it is skipped")
                continue
            _set_rng_state(states[0][self._layout.replica]["rng"])
            if not manifest.get("data"):
                self._say(f"checkpoint {self._path(step)} has no digest of the data: whether they changed is not known")
            self._newest = step
            return step, states, manifest["shared"]
        if newest_first:
            where = self._folder.checkpoints
            raise everywhere(BadInput(f"run: no checkpoint set in {where} can be read; --fresh starts over"))
        return None

    def _path(self, step: int) -> Path:
        return self._folder.checkpoints / f"step_{step:08d}"

    @staticmethod
    def part(member: int, replica: int) -> str:
        """Name of what one rank writes, inside a set."""
        return f"member_{member:02d}/replica_{replica:02d}.pt"

    def _manifest(self, step: int) -> dict[str, Any]:
        """What a set says of itself; raises anything where it is damaged, or another step's."""
        manifest: dict[str, Any] = read_json(self._path(step) / "manifest.json", "set")
        if manifest["step"] != step:
            raise ValueError(f"it is the set of step {manifest['step']!r}")
        if not all(isinstance(number, int) for number in (manifest["shared"]["metrics_bytes"], manifest["members"])):
            raise ValueError("its manifest is not one")
        return manifest

    def _check_same_run(self, manifest: dict[str, Any]) -> None:
        mine = {"format": FORMAT, **self._sizes, **self._recipe}
        theirs = {**{k: manifest.get(k, 0) for k in ("format", *self._sizes)}, **flat(manifest["recipe"])}
        if new := self._recipe.keys() - theirs.keys():
            theirs |= {field: value for field, value in self._completed().items() if field in new}
        data = manifest.get("data")  # where they lie says nothing, if what they are is known
        may_differ = (*self._may_differ, *(PLACES if data else ()))
        refuse_other_settings(self._folder.path, differing([theirs, mine], may_differ))
        if data and (what := what_differs(data, self._data)):
            how = "bring those back, use another --run, or --fresh"
            what = f"these are not the data that {self._folder.path} was started with ({what})"
            raise OtherSettings(f"data: {what}; {how}")

    def _states(self, step: int, manifest: dict[str, Any]) -> list[list[dict[str, Any]]]:
        replicas, parts = range(self._layout.replicas), manifest["parts"]
        return [[self._read(step, parts, self.part(m, r)) for r in replicas] for m in self._layout.own_members]

    def _read(self, step: int, parts: dict[str, Any], name: str) -> dict[str, Any]:
        path = self._path(step) / name
        if digest_of(path) != parts[name]["blake2b"]:
            raise ValueError(f"{name} has changed since it was written")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state


def _write(path: Path, state: dict[str, Any]) -> tuple[str, int]:
    with naming(path), path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    return digest_of(path), path.stat().st_size


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
