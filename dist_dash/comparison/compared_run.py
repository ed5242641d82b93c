"""One run as a comparison sees it: its choices, its figures and its cost, read from small files only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_dash.comparison.cost import Cost, cost_of
from dist_dash.comparison.metric_names import DIVERSITY, PARTS, QUALITY, finite
from dist_dash.comparison.settings import settings_of
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.errors import BadInput

NEITHER_BETTER = ("clipped", "temperature")


@dataclass(frozen=True)
class ComparedRun:
    """A finished run.

    Args:
        path: its folder.
        seed: of its recipe.
        method: name of the class of its method.
        settings: the choices that may make a difference, by field, as texts; without seed, data and labels.
        labels: what was done to the targets, by field, as texts: the condition of its section.
        data: where its images and labels came from, by field, as texts.
        facts: what is known of the data themselves, see `DataFacts.as_json`; None for runs of earlier versions.
        samples: of the split that was evaluated.
        split: which that is.
        metrics: `ensemble.nll`, `member_mean.accuracy`, `diversity.kl`, …: those that are finite numbers.
        cost: from its record.
        versions: device, commit and torch, as texts: what may change cost, and should change nothing else.
        left_out: members that the scores leave out because they were not finite.
    """

    path: Path
    seed: int
    method: str
    settings: Mapping[str, str]
    labels: Mapping[str, str]
    data: Mapping[str, str]
    facts: Mapping[str, Any] | None
    samples: int | None
    split: str
    metrics: Mapping[str, float]
    cost: Cost
    versions: Mapping[str, str]
    left_out: tuple[int, ...]


def read_run(path: Path) -> ComparedRun:
    """Read a finished run.

    Raises:
        BadInput: it is none, or one of its files holds something else than it should.
    """
    run = FinishedRun(path)
    recipe, environment, evaluation = run.recipe, run.environment, run.evaluation
    seed = recipe.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise BadInput(f"run: seed: {seed!r} in {run.folder.recipe} is not allowed; it must be a whole number")
    if not isinstance(evaluation["ensemble"], dict):
        raise BadInput(f"run: {run.folder.evaluation} holds no scores; `dist-dash evaluate {path}` makes them")
    method, settings, labels, data = settings_of(recipe, environment)
    samples, left_out = evaluation.get("samples"), evaluation.get("left_out")
    return ComparedRun(
        path=path,
        seed=seed,
        method=method,
        settings=settings,
        labels=labels,
        data=data,
        facts=run.trained_on,
        samples=samples if isinstance(samples, int) else None,
        split=str(evaluation.get("split")),
        metrics=_metrics(evaluation),
        cost=cost_of(run.lines("train"), environment),
        versions=_versions(environment),
        left_out=tuple(left_out) if isinstance(left_out, list) else (),
    )


def ordered(metrics: set[str]) -> list[str]:
    """The metrics in the order in which they are shown: those known here first, the others by name."""
    known = [f"{part}.{name}" for part in PARTS[:2] for name in (*QUALITY, *NEITHER_BETTER)]
    known += [f"diversity.{name}" for name in DIVERSITY]
    return [name for name in known if name in metrics] + sorted(metrics - set(known))


def _metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for part in PARTS:
        figures = evaluation.get(part)
        for name, value in figures.items() if isinstance(figures, dict) else ():
            if (known := finite(value)) is not None:
                found[f"{part}.{name}"] = known
    return found


def _versions(environment: Mapping[str, Any]) -> dict[str, str]:
    commit, packages = environment.get("commit"), environment.get("packages")
    changed = ", changed" if isinstance(commit, dict) and commit.get("changed") else ""
    known = {
        "device": environment.get("device"),
        "commit": f"{str(commit.get('hash'))[:10]}{changed}" if isinstance(commit, dict) else None,
        "torch": packages.get("torch") if isinstance(packages, dict) else None,
    }
    return {name: str(value) for name, value in known.items() if value is not None}
