"""Members that were trained alone become one run, which is then as good as if they had been trained together.

`RUN/member_00`, `RUN/member_01`, … are finished runs of one part of the ensemble each (`dist-dash train --members M
--member I --run RUN/member_0I`): of one member, or of as many as the part's chain of updates has produced. Joined, RUN
holds what a finished run does; weights, predictions and scores equal those of members that were trained together to the
bit. Three things cannot be had afterwards: lines of `metrics.jsonl` for steps at which not every part wrote one;
`ensemble` and `diversity` in the lines of evaluations under way, for they need predictions that nobody kept; and the
cosines between the members' perturbations.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dist_dash.data.same_data import what_differs
from dist_dash.ensembles.ensemble import StoredEnsemble
from dist_dash.ensembles.evaluation import Evaluated, save_results, save_trace, score_predictions
from dist_dash.ensembles.predictor import Predicted
from dist_dash.errors import BadInput
from dist_dash.files import read_json, replacing, write_atomically, write_json
from dist_dash.metrics.mixture import members_in_words
from dist_dash.metrics.predictions import Predictions, load_arrays, load_predictions
from dist_dash.ranks.launched import Launcher
from dist_dash.recipe.components import code_named
from dist_dash.recipe.recipe_of_run import recipe_of
from dist_dash.runs.choices import PLACES, WITHOUT_EFFECT, differing, flat
from dist_dash.runs.folder import RunFolder
from dist_dash.runs.owner import OwnedFolder
from dist_dash.runs.record import say
from dist_dash.runs.slurm import is_over

PATIENCE = 60.0  # seconds that the last members to finish wait for each other
OF_ALL = ("ensemble", "diversity")  # keys of an evaluation's line that one part alone does not know
MAY_DIFFER = (*WITHOUT_EFFECT, *PLACES)
OF_THE_DATA = ("format", "shape", "classes", "class_names", "uint8")


class Incomplete(BadInput):
    """Members are missing, or not finished."""


def join_and_say(run: str, allow_code: Collection[str]) -> int:
    """Join, or say that there is nothing to join; returns the exit status, 0."""
    if not join(run, allow_code=allow_code):
        say(f"{run} is finished already; it is joined again once a member has finished anew")
    return 0


def join(run: str | Path, patience: float = 0.0, allow_code: Collection[str] | None = ()) -> bool:
    """Make `run` a finished run of all the members in it, and print the table.

    What a join that was killed has left is written again. A folder that is joined already is left alone, unless a
    member has finished anew since.

    Args:
        run: the folder that holds the members' run folders.
        patience: seconds to wait for another process that owns the folder.
        allow_code: see `load_ensemble`; None: what the members' recipes name, which are the user's own then.

    Returns:
        Whether there was something to do.

    Raises:
        Incomplete: members are missing or not finished.
        BadInput: the members do not belong together, or another process owns the folder.
    """
    folder = OwnedFolder(run)
    if folder.checkpoints.exists():
        raise BadInput(f"run: {folder.path} holds a run of its own (checkpoints); join members in another folder")
    if _is_up_to_date(folder):
        return False
    _parts(folder, allow_code)  # refused before anything is written
    with folder.held(Launcher().job, is_over, patience), folder.noting_failure():
        if _is_up_to_date(folder):  # joined by whoever owned it until now
            return False
        _write(folder, _parts(folder, allow_code))
    say(f"joined; everything is in {folder.path}")
    return True


def join_if_complete(run: str | Path) -> bool:
    """Join if all members are finished; for the end of each member's job.

    A member marks its own end before it looks at the others: of two that finish at once at least one sees both. Where
    both do, the second waits until the first gives the folder up, looks again and finds the work done.

    Returns:
        Whether `run` is joined now; False where members are missing.

    Raises:
        BadInput: the members do not belong together, or another process has owned the folder for a minute.
    """
    try:
        join(run, PATIENCE, allow_code=None)
    except Incomplete:
        return False
    return True


def _is_up_to_date(folder: RunFolder) -> bool:
    if not folder.done.exists():
        return False
    at = folder.done.stat().st_mtime_ns
    finished = [member.done for member in map(folder.member, folder.members()) if member.done.exists()]
    return not any(done.stat().st_mtime_ns > at for done in finished)


# -- the parts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainedAlone:
    """The finished run of one part of the ensemble.

    Args:
        folder: the run.
        recipe: its resolved recipe, nested.
        environment: its `environment.json`.
        stored: its members.
    """

    folder: RunFolder
    recipe: dict[str, Any]
    environment: dict[str, Any]
    stored: StoredEnsemble

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """Its `metrics.jsonl`, parsed. Raises `BadInput`."""
        return self.folder.lines()


def _parts(folder: RunFolder, allow_code: Collection[str] | None) -> list[TrainedAlone]:
    """All runs in `folder`, in the order of their members.

    Raises:
        Incomplete: some are missing or not finished.
        BadInput: they do not belong together.
    """
    there = folder.members()
    if not there:
        how = f"dist-dash train --members M --member I --run {folder.member(0).path.with_name('member_0I')}"
        raise Incomplete(f"run: {folder.path} holds no members; each is trained by `{how}`")
    recipes = {number: recipe for number in there if (recipe := _recipe(folder.member(number))) is not None}
    asked = [recipe["members"] for recipe in recipes.values() if isinstance(recipe.get("members"), int)]
    members = max(asked, default=max(there) + 1)
    states = {number: _unfinished(folder.member(number)) for number in range(members)}
    missing = [f"{folder.member(number).path.name} {state}" for number, state in states.items() if state]
    # What differs may be of an earlier attempt while members are missing: their jobs must not complain of it.
    _check_equal(folder, recipes, Incomplete if missing else BadInput)
    if strangers := [number for number in there if number >= members]:
        names = ", ".join(folder.member(number).path.name for number in strangers)
        raise BadInput(f"run: {folder.path} holds {names}, but the recipe has {members} members")
    if missing:
        raise Incomplete(f"run: {folder.path} cannot be joined: {', '.join(missing)}")
    parts = [_part(folder, number, recipes, allow_code) for number in range(members)]
    _check_fit(folder, parts)
    return parts


def _recipe(member: RunFolder) -> dict[str, Any] | None:
    """A member's recipe; None where it has not written it yet."""
    return recipe_of(member) if member.recipe.exists() else None


def _unfinished(member: RunFolder) -> str:
    """How far a member's run has come, by its folder; empty where it is finished."""
    if not member.path.is_dir():
        return "is missing"
    # Listed, not asked for by name: a network file system remembers for a while that a name was not there.
    if member.done.name in {path.name for path in member.path.iterdir()}:
        return ""
    for marker, what in ((member.failed, "has failed"), (member.to_continue, "was stopped")):
        if marker.exists():
            return f"{what} ({marker.read_text().strip() or 'it did not say why'})"
    return "is not finished"


def _part(
    folder: RunFolder, number: int, recipes: dict[int, dict[str, Any]], allow_code: Collection[str] | None
) -> TrainedAlone:
    member = folder.member(number)
    environment, spec = read_json(member.environment, "run"), read_json(member.ensemble / "ensemble.json", "run")
    entries = spec.get("members") if isinstance(spec, dict) else None
    if number not in recipes or not isinstance(environment, dict) or not isinstance(entries, list) or not entries:
        raise BadInput(f"run: {member.path} is no finished run of a member")
    names = [str(entry.get("file")) for entry in entries if isinstance(entry, dict)]
    held = [name for name in names if (member.ensemble / name).is_file()]
    due = [folder.weights(number * len(entries) + place) for place in range(len(entries))]
    if held != due:
        found = ", ".join(held) or "no weights"
        raise BadInput(f"run: {member.path} holds {found}; it must hold {', '.join(due)} and nothing else")
    allowed = code_named(recipes[number]) if allow_code is None else allow_code
    return TrainedAlone(member, recipes[number], environment, StoredEnsemble(member.ensemble, spec, allowed))


def _check_fit(folder: RunFolder, parts: Sequence[TrainedAlone]) -> None:
    """Refuse parts of different numbers of replicas or members, which no recipe holds, or of different data."""
    found = {}
    for number, part in enumerate(parts):
        data = {name: part.stored.spec.get(name) for name in OF_THE_DATA}
        replicas = part.environment.get("layout", {}).get("replicas")
        found[number] = {
            "replicas": replicas,
            "extended": part.environment.get("extended"),
            "saved members": len(part.stored),
            "data": data,
        }
        if not all(one.stored.data for one in parts):  # of an earlier version: where they lie is all that is known
            recipe = flat(part.recipe)
            found[number]["place of the data"] = [recipe[name] for name in PLACES if name in recipe]
    _check_equal(folder, found)
    for number, part in enumerate(parts):
        _ = part.stored.code  # refused where it is not whole, or names code that is not allowed
        then, now = parts[0].stored.data, part.stored.data
        if then and now and (what := what_differs(then, now)):
            raise BadInput(
                f"run: the members in {folder.path} were trained on different data: member {number}'s differ from "
                f"member 0's ({what})"
            )
    for name in ("mean", "std"):  # of unlike machines, they may differ in the last digits
        values = [np.asarray(part.stored.spec.get(name), dtype=float) for part in parts]
        odd = [n for n, v in enumerate(values) if v.shape != values[0].shape or not np.allclose(v, values[0], 1e-5)]
        if odd:
            raise BadInput(f"run: the members in {folder.path} were trained on different data: {name} of {_some(odd)}")


def _check_equal(folder: RunFolder, choices: dict[int, dict[str, Any]], kind: type[BadInput] = BadInput) -> None:
    """Refuse members that were trained with different choices."""
    found = []
    for field, values in differing([flat(one) for one in choices.values()], MAY_DIFFER).items():
        whose: dict[str, list[int]] = {}
        for number, value in zip(choices, values, strict=True):
            whose.setdefault(repr(value), []).append(number)
        found.append(f"{field} " + ", ".join(f"{_shortened(value)} ({_some(of)})" for value, of in whose.items()))
    if found:
        what = "; ".join(found[:8]) + ("; …" if len(found) > 8 else "")
        raise kind(f"run: the members in {folder.path} were trained differently: {what}")


def _some(members: Sequence[int]) -> str:
    return _shortened(members_in_words(members).replace(",", ""))


def _shortened(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


# -- what becomes of them ----------------------------------------------------------------------------------------------


def _write(folder: OwnedFolder, parts: Sequence[TrainedAlone]) -> None:
    """Write everything that a finished run has, the marker last; the parts' own folders stay as they are."""
    first = parts[0]
    entries = [entry for part in parts for entry in part.stored.spec["members"]]
    joined = StoredEnsemble(folder.ensemble, {**first.stored.spec, "members": entries}, first.stored.allow_code)
    found = _evaluated(parts, joined)
    lines = merged_lines([part.lines for part in parts])
    folder.clear()
    folder.ensemble.mkdir()
    for part in parts:
        for entry in part.stored.spec["members"]:
            # Copied: a second name for the same file would change with it where somebody edits one of them in place.
            with replacing(folder.ensemble / entry["file"]) as temporary:
                shutil.copyfile(part.stored.folder / entry["file"], temporary)
    joined.write()
    write_atomically(folder.recipe, first.folder.recipe.read_text())
    write_json(folder.environment, _environment(parts))
    write_atomically(folder.metrics, "".join(json.dumps(line) + "\n" for line in lines))
    save_results(folder, found)
    _write_traces(folder, parts)
    folder.check_owner()
    folder.mark(folder.done)


def _evaluated(parts: Sequence[TrainedAlone], joined: StoredEnsemble) -> Evaluated:
    """All members' predictions of the test split, and their scores.

    Raises:
        BadInput: a file is missing or holds something else, or the parts were evaluated on different samples.
    """
    found: list[Predictions] = []
    for number, part in enumerate(parts):
        own, members = load_predictions(part.folder.predictions, "predictions"), len(part.stored)
        if own.log_probs.ndim != 3 or len(own.log_probs) != members:
            whose = "one member's" if members == 1 else f"{members} members'"
            raise BadInput(f"predictions: {part.folder.predictions} does not hold {whose} log_probs and labels")
        found.append(own)
        ours, theirs = own.labels, found[0].labels
        if ours.shape != theirs.shape or (ours != theirs).any():
            how = f"{len(theirs)} and {len(ours)} samples"
            if len(ours) == len(theirs):
                how = f"{(ours != theirs).sum()} of {len(ours)}"
            raise BadInput(f"predictions: the labels of members 0 and {number} differ ({how}); their test data did")
        if own.log_probs.shape != found[0].log_probs.shape:
            raise BadInput(f"predictions: the shapes of log_probs of members 0 and {number} differ")
    log_probs, labels = np.concatenate([own.log_probs for own in found]), found[0].labels
    networks = (network for part in parts for network in part.stored.networks())
    predicted = Predicted(log_probs, labels, np.ones(len(labels), bool), [])
    return score_predictions(predicted, "test", parts[0].recipe.get("seed"), weights=joined.weights, networks=networks)


def _write_traces(folder: RunFolder, parts: Sequence[TrainedAlone]) -> None:
    """Put together what every part kept of the same evaluation: the samples are the same for all."""
    common = set.intersection(*({path.name for path in part.folder.trace.glob("step_*.npz")} for part in parts))
    folder.trace.mkdir()
    for name in sorted(common):
        found = [load_arrays(part.folder.trace / name, "member") for part in parts]
        if all(np.array_equal(one["ids"], found[0]["ids"]) for one in found):
            log_probs = np.concatenate([one["log_probs"] for one in found])
            save_trace(folder.trace / name, log_probs, found[0]["labels"], found[0]["ids"])


def _environment(parts: Sequence[TrainedAlone]) -> dict[str, Any]:
    """The first part's with the layout of all; and, in `members`, each one's own with its host and job."""
    each = []
    for part in parts:
        owner = part.folder.owner()
        each.append({"host": owner.get("host"), "job": owner.get("job"), **part.environment})
    layout = parts[0].environment.get("layout", {})
    of_all = {**layout, "world": len(parts) * layout.get("replicas", 1), "members": len(parts)}
    return {**parts[0].environment, "layout": of_all, "members": each}


def merged_lines(records: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` of all parts, from those of each: per-member values become lists in member order.

    Lines of steps at which not all parts wrote one are left out. Events stay, and name their member.
    """
    of = [{(line["kind"], line["step"]): line for line in lines if line["kind"] != "event"} for lines in records]
    common = [_merged([lines[key] for lines in of]) for key in of[0] if all(key in lines for lines in of)]
    events = [
        {**line, "text": f"member {number}: {line['text']}"}
        for number, lines in enumerate(records)
        for line in lines
        if line["kind"] == "event"
    ]
    return sorted(common + events, key=lambda line: line["step"])


def _merged(values: Sequence[Any]) -> Any:
    """Lists of one value per member put together, also in `timing`; what is the same for all is the first one's."""
    first = values[0]
    if isinstance(first, dict) and all(isinstance(value, dict) for value in values):
        names = [name for name in first if name not in OF_ALL and all(name in value for value in values)]
        return {name: _merged([value[name] for value in values]) for name in names}
    return [item for value in values for item in value] if isinstance(first, list) else first
