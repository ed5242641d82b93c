"""Start, or go on from the newest checkpoint set; and what is saved for that."""

from __future__ import annotations

from typing import Any

from dist_dash.ensembles.ensemble import save_member
from dist_dash.files import read_object, write_atomically, write_json
from dist_dash.runs.environment import describe_environment
from dist_dash.training.extension import Extension, refuse_without_set
from dist_dash.training.identity import check_members
from dist_dash.training.run import Run
from dist_dash.training.speed import in_force


def resume_or_start(run: Run) -> None:
    """Go on from the newest complete checkpoint set, or start: weights as built, files as new."""
    folder, found = run.folder, None if run.command.fresh else run.checkpoints.load()
    longer: Extension | None = None
    if found is not None:
        run.step, states, shared = found
        everyones, longer = [of_member[run.layout.replica] for of_member in states], extension(run, shared)
        own = everyones[0]  # what follows the networks is the same for all members of a rank
        with run.exchange.together("checkpoint"):
            for member, state, of_replicas in zip(run.member.each, everyones, states, strict=True):
                member.engine.load_state([replica["engine"] for replica in of_replicas])
                member.after_resume(state["skipped_in_a_row"], state["masks"])
            run.recipe.method.load_state_dict(own["method"])
            run.recipe.sparsity.load_state_dict(own["sparsity"])
            run.window.load_state([state["window"] for state in everyones])
            if "best" in own:  # not in sets of earlier versions
                run.best.load_state(own["best"])
        run.evaluated, run.snapshots = own["evaluated"], own.get("snapshots", {})
        with run.exchange.together("run folder"):
            folder.check_owner()  # before anything is changed: starting takes long enough to be overtaken
            damage = run.recorder.rewind(shared["metrics_bytes"], shared.get("metrics_blake2b"))
        if damage:
            run.event(damage)
        run.event(f"continuing {folder.path} at step {run.step} of {run.total_steps}")
        if longer is not None:
            run.extended.append(longer.as_json())
            run.event(longer.in_words(run.member.each[0].engine.learning_rates[0]))
    else:
        with run.exchange.together("run folder"):
            if run.command.extend:
                refuse_without_set(folder)
            if run.layout.rank == 0:
                if folder.recipe.exists() and not run.command.fresh:
                    run.recorder.say(f"{folder.path} holds no checkpoint set: starting over")
                folder.clear()
                folder.checkpoints.mkdir(exist_ok=True)
        with run.exchange.together("sparsity"):
            run.recipe.sparsity.start(run.member)
    run.started = True
    with run.exchange.together("run folder"):
        if run.layout.rank == 0:
            folder.mark(None)
            if longer is not None:
                folder.clear_results()  # of the shorter run
            write_atomically(folder.recipe, run.command.as_yaml(run.layout.ensemble_members))
            length = {"total_steps": run.total_steps, **({"extended": run.extended} if run.extended else {})}
            kernels = {"kernels": in_force(run.recipe, run.member.each[0].engine)}
            write_json(
                folder.environment, {**describe_environment(run.layout), **kernels, **length, **run.member.described}
            )
            if found is not None:
                folder.note_continued()
    if run.recipe.speed == "fast":
        run.event("speed: fast; a repeated run may differ by roundings")
    check_members(run.exchange, run.member.networks, run.recipe.init == "own")
    if found is None and run.recipe.checkpoints.at_start:
        save(run)


def extension(run: Run, shared: dict[str, Any]) -> Extension | None:
    """How a run that was to be shorter becomes longer; None where its length stays. Raises `BadInput`."""
    run.extended = shared.get("extended", [])
    before = shared.get("total_steps") or read_object(run.folder.environment).get("total_steps", run.total_steps)
    if not run.command.extend or before == run.total_steps:
        return None
    longer = Extension(run.recipe.schedule, run.steps_per_epoch, run.step, before, run.total_steps)
    with run.exchange.together("extension"):
        longer.check()
    return longer


def save(run: Run) -> None:
    """Write a complete checkpoint set of the present step."""
    with run.exchange.clock.excluded():
        check_members(run.exchange, run.member.networks, run.recipe.init == "own")
        common = {
            "method": run.recipe.method.state_dict(),
            "sparsity": run.recipe.sparsity.state_dict(),
            "evaluated": run.evaluated,
            "best": run.best.state(),
            "snapshots": run.snapshots,
        }
        states = [
            {
                **common,
                "engine": member.engine.state(),
                "masks": member.masks,
                "window": window,
                "skipped_in_a_row": member.skipped_in_a_row,
            }
            for member, window in zip(run.member.each, run.window.states(), strict=True)
        ]
        length = {"total_steps": run.total_steps, "extended": run.extended}
        run.checkpoints.save(run.step, states, {**run.recorder.position(), **length})


def save_snapshot(run: Run, cycle: int) -> None:
    """Keep the present weights as the member that cycle number `cycle` of this chain has made.

    A run that is killed before its next checkpoint comes here again, and writes the same bits.
    """
    with run.exchange.clock.excluded(), run.exchange.together("snapshot"):
        run.folder.check_owner()
        if run.layout.replica == 0:
            run.folder.snapshots.mkdir(exist_ok=True)
            for member in run.member.each:
                name = run.folder.weights(member.index * len(run.members_at) + cycle)
                run.snapshots[name] = save_member(run.folder.snapshots / name, member.engine.module)
