"""Members that were trained alone become one run, which is then as good as if they had been trained together.

`RUN/member_00`, `RUN/member_01`, … are finished runs of one member each (`dist-dash train --members M --member I --run
RUN/member_0I`). Joined, RUN holds what a finished run does; weights, predictions and scores equal those of members that
were trained together to the bit. Three things cannot be had afterwards: lines of `metrics.jsonl` for steps at which not
every member wrote one; `ensemble` and `diversity` in the lines of evaluations under way, for they need predictions that
nobody kept; and the cosines between the members' perturbations.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dist_dash.ensembles.ensemble import save_spec
from dist_dash.ensembles.parts import Incomplete, Part, parts_of, predictions_of
from dist_dash.ensembles.results import save_results
from dist_dash.errors import BadInput
from dist_dash.files import replacing, write_atomically
from dist_dash.metrics.predictions import load_arrays
from dist_dash.metrics.summary import evaluate
from dist_dash.ranks.launched import Launcher
from dist_dash.runs.folder import RunFolder
from dist_dash.runs.owner import OwnedFolder
from dist_dash.runs.record import say
from dist_dash.runs.slurm import is_over

PATIENCE = 60.0  # seconds that the last members to finish wait for each other
OF_ALL = ("ensemble", "diversity")  # keys of an evaluation's line that one member alone does not know


def join_and_say(run: str) -> int:
    """Join, or say that there is nothing to join; returns the exit status, 0."""
    if not join(run):
        say(f"{run} is finished already; it is joined again once a member has finished anew")
    return 0


def join(run: str | Path, patience: float = 0.0) -> bool:
    """Make `run` a finished run of all the members in it, and print the table.

    What a join that was killed has left is written again. A folder that is joined already is left alone, unless a
    member has finished anew since.

    Args:
        run: the folder that holds the members' run folders.
        patience: seconds to wait for another process that owns the folder.

    Returns:
        Whether there was something to do.

    Raises:
        Incomplete: members are missing or not finished.
        BadInput: the members do not belong together, or another process owns the folder.
    """
    folder = OwnedFolder(run)
    if _is_up_to_date(folder):
        return False
    _parts(folder)  # refused before anything is written
    with folder.held(Launcher().job, is_over, patience), folder.noting_failure():
        if _is_up_to_date(folder):  # thanks to whoever owned it until now
            return False
        _write(folder, _parts(folder))
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
        join(run, PATIENCE)
    except Incomplete:
        return False
    return True


def _is_up_to_date(folder: RunFolder) -> bool:
    if not folder.done.exists():
        return False
    at = folder.done.stat().st_mtime_ns
    finished = [member.done for member in map(folder.member, folder.members()) if member.done.exists()]
    return not any(done.stat().st_mtime_ns > at for done in finished)


def _parts(folder: RunFolder) -> list[Part]:
    if folder.checkpoints.exists():
        raise BadInput(f"run: {folder.path} holds a run of its own (checkpoints); join members in another folder")
    return parts_of(folder)


def _write(folder: OwnedFolder, parts: Sequence[Part]) -> None:
    """Write everything that a finished run has, the marker last; the members' own folders stay as they are."""
    first = parts[0]
    log_probs, labels = predictions_of(parts)
    result = evaluate(log_probs, labels, "test", first.recipe.get("seed"))
    lines = merged_lines([part.lines() for part in parts])
    folder.clear()
    folder.ensemble.mkdir()
    for number, part in enumerate(parts):
        # Copied: a second name for the same file would change with it where somebody edits one of them in place.
        with replacing(folder.ensemble / folder.weights(number)) as temporary:
            shutil.copyfile(part.folder.ensemble / folder.weights(number), temporary)
    rest = {name: value for name, value in first.spec.items() if name not in ("format", "members")}
    save_spec(folder.ensemble, [part.spec["members"][0] for part in parts], **rest)
    write_atomically(folder.recipe, first.folder.recipe.read_text())
    write_atomically(folder.environment, json.dumps(_environment(parts), indent=1))
    write_atomically(folder.metrics, "".join(json.dumps(line) + "\n" for line in lines))
    save_results(folder, log_probs, labels, result)
    _write_traces(folder, parts)
    folder.check_owner()
    folder.mark(folder.done)


def _write_traces(folder: RunFolder, parts: Sequence[Part]) -> None:
    """Put together what every member kept of the same evaluation: the samples are the same for all."""
    common = set.intersection(*({path.name for path in part.folder.trace.glob("step_*.npz")} for part in parts))
    folder.trace.mkdir()
    for name in sorted(common):
        found = [load_arrays(part.folder.trace / name, "member") for part in parts]
        if all(np.array_equal(one["ids"], found[0]["ids"]) for one in found):
            log_probs = np.concatenate([one["log_probs"] for one in found])
            with replacing(folder.trace / name) as temporary, temporary.open("wb") as file:
                np.savez(file, log_probs=log_probs, labels=found[0]["labels"], ids=found[0]["ids"])


def _environment(parts: Sequence[Part]) -> dict[str, Any]:
    """The first member's with the layout of all; and, in `members`, each one's own with its host and job."""
    each = []
    for part in parts:
        owner = part.folder.owner()
        each.append({"host": owner.get("host"), "job": owner.get("job"), **part.environment})
    layout = parts[0].environment.get("layout", {})
    of_all = {**layout, "world": len(parts) * layout.get("replicas", 1), "members": len(parts)}
    return {**parts[0].environment, "layout": of_all, "members": each}


def merged_lines(records: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` of all members, from those of each: per-member values become lists in member order.

    Lines of steps at which not all members wrote one are left out. Events stay, and name their member.
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
