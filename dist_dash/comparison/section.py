"""Runs of one condition: groups over seeds, and the differences between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dist_dash.comparison.compared_run import ComparedRun, ordered
from dist_dash.comparison.cost import Cost, median_cost, relative
from dist_dash.comparison.metric_names import better
from dist_dash.comparison.paired import Difference, Summary, paired
from dist_dash.errors import BadInput

PLAIN = "SGD"


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only.

    Args:
        name: unique in its section.
        method: name of the class of its method.
        runs: by seed, ascending; at least one.
        settings: the choices in which the groups of the section differ, by field.
        metrics: what is known of each metric.
        cost: medians over the runs.
        repeats: runs that repeat one of `runs`, with equal settings and seed: they count for nothing.
        equivalent: the size of the plain deep ensemble that is as good; None where that is not known, or is beyond
            what was measured (the section's `largest_plain`).
    """

    name: str
    method: str
    runs: tuple[ComparedRun, ...]
    settings: Mapping[str, str]
    metrics: Mapping[str, Summary]
    cost: Cost
    repeats: tuple[ComparedRun, ...] = ()
    equivalent: float | None = None

    @property
    def seeds(self) -> list[int]:
        """The seeds of the runs, ascending."""
        return [run.seed for run in self.runs]


@dataclass(frozen=True)
class Best:
    """The best group of a metric that every group has.

    Args:
        group: its name.
        runner_up: name of the second best.
        lead: the best minus the second best.
        bold: whether the interval of the lead excludes 0, on the side of the best.
    """

    group: str
    runner_up: str
    lead: Difference
    bold: bool


@dataclass(frozen=True)
class Section:
    """Runs of one condition.

    Args:
        name: of the condition; may be empty.
        groups: in the order of display; at least one.
        baselines: names of the groups that the others are compared with; the cost is relative to the first.
        metrics: all that some group has, in the order of display.
        differences: by (group, other group): the one minus the other, by metric.
        best: by metric, of those that every group has and that have a better.
        notes: what a reader has to know.
        largest_plain: members up to which it is known how good a plain deep ensemble is; None where that is not known.
    """

    name: str
    groups: tuple[Group, ...]
    baselines: tuple[str, ...]
    metrics: tuple[str, ...]
    differences: Mapping[tuple[str, str], Mapping[str, Difference]]
    best: Mapping[str, Best]
    notes: tuple[str, ...] = ()
    largest_plain: int | None = None

    def group(self, name: str) -> Group:
        """The group of that name."""
        return next(group for group in self.groups if group.name == name)

    def relative_step_time(self, group: Group) -> float | None:
        """The time of an update, divided by that of the first baseline."""
        return relative(group.cost, self.group(self.baselines[0]).cost)


def group_of(name: str, runs: Sequence[ComparedRun], settings: Mapping[str, str]) -> Group:
    """A group of runs, its figures summarised; of runs that are equal in seed and settings the first one counts.

    Raises:
        BadInput: two of the runs have the same seed and different settings.
    """
    by_seed: dict[int, ComparedRun] = {}
    repeats = []
    for run in runs:
        other = by_seed.setdefault(run.seed, run)
        if other is run:
            continue
        repeats.append(run)
        if (run.settings, run.labels) != (other.settings, other.labels):
            raise BadInput(
                f"seed: {run.seed} is there twice in group {name!r}, in {other.path} and {run.path}; each seed of a "
                "group must be one run"
            )
    own = tuple(by_seed[seed] for seed in sorted(by_seed))
    metrics = ordered({metric for run in own for metric in run.metrics})
    summaries = {m: Summary({run.seed: run.metrics[m] for run in own if m in run.metrics}) for m in metrics}
    cost = median_cost([run.cost for run in own])
    return Group(name, own[0].method, own, settings, summaries, cost, tuple(repeats))


def section_of(name: str, groups: Sequence[Group], baselines: Sequence[str], notes: Sequence[str] = ()) -> Section:
    """A section, everything compared with everything.

    Args:
        name: of the condition.
        groups: at least one.
        baselines: names of groups; those that are not here are passed over, and where none is, plain SGD or else the
            first group takes their place.
        notes: what is known already.
    """
    metrics = ordered({metric for group in groups for metric in group.metrics})
    here = {group.name for group in groups}
    known = [baseline for baseline in baselines if baseline in here]
    lacking = [baseline for baseline in baselines if baseline not in here]
    default = next((group.name for group in groups if group.method == PLAIN), groups[0].name)
    all_notes = [*notes, *(f"Baseline {baseline} has no run here." for baseline in lacking)]
    differences = _differences(groups, metrics)
    best = {metric: best for metric in metrics if (best := _best(metric, groups, differences)) is not None}
    return Section(
        name,
        tuple(groups),
        tuple(known or [default]),
        tuple(metrics),
        differences,
        best,
        (*all_notes, *_notes(groups, metrics)),
    )


def _differences(groups: Sequence[Group], metrics: Sequence[str]) -> dict[tuple[str, str], dict[str, Difference]]:
    pairs = [(a, b) for i, a in enumerate(groups) for b in groups[i + 1 :]]
    cases = [(a, b, metric) for a, b in pairs for metric in metrics]
    found: dict[tuple[str, str], dict[str, Difference]] = {}
    for (a, b, metric), difference in zip(
        cases, paired((a.metrics.get(metric), b.metrics.get(metric)) for a, b, metric in cases), strict=True
    ):
        found.setdefault((a.name, b.name), {})[metric] = difference
        found.setdefault((b.name, a.name), {})[metric] = difference.reversed()
    return found


def _best(
    metric: str, groups: Sequence[Group], differences: Mapping[tuple[str, str], Mapping[str, Difference]]
) -> Best | None:
    """The best group of a metric; None if it has no better, if there is one group, or if a group lacks the metric."""
    way = better(metric)
    if way is None or len(groups) < 2 or any(metric not in group.metrics for group in groups):
        return None
    ranked = sorted(groups, key=lambda group: group.metrics[metric].mean, reverse=way == "higher")
    first, second = ranked[0].name, ranked[1].name
    lead = differences[first, second][metric]
    # Where the two have other seeds besides the common ones, their means may point elsewhere than the pairs do.
    right_way = lead.mean is not None and (lead.mean > 0) == (way == "higher")
    return Best(first, second, lead, lead.excludes_zero and right_way)


def _notes(groups: Sequence[Group], metrics: Sequence[str]) -> list[str]:
    """Notes that a reader of the tables needs."""
    found = []
    if len(groups) == 1:
        found.append("One group only: there is nothing to compare it with.")
    single = [group.name for group in groups if len(group.runs) == 1]
    if single:
        found.append(f"One seed only, so no deviation, no interval and nothing in bold: {'; '.join(single)}.")
    few = sorted({len(group.runs) for group in groups if 2 <= len(group.runs) < 5})
    if few and len(groups) > 1:
        found.append("With fewer than 5 common seeds the intervals are Student's: they hold if differences are normal.")
    if len({tuple(group.seeds) for group in groups}) > 1:
        found.append("The groups have different seeds: means are over all of a group's, differences over common ones.")
    for metric in metrics:
        lacking = [group.name for group in groups if metric not in group.metrics]
        part = [g.name for g in groups if metric in g.metrics and g.metrics[metric].n < len(g.runs)]
        if lacking and better(metric):
            found.append(f"{metric} is not known of {'; '.join(lacking)}: no best is named.")
        if part:
            found.append(f"{metric} is not known of all seeds of {'; '.join(part)}.")
    for group in groups:
        if group.repeats:
            paths = ", ".join(str(run.path) for run in group.repeats)
            found.append(f"{group.name}: left out, for they repeat a run with the same seed and settings: {paths}.")
        for run in group.runs:
            if run.left_out:
                members = ", ".join(map(str, run.left_out))
                found.append(f"{run.path}: scores leave out members that are not finite: {members}.")
        clipped = group.metrics.get("ensemble.clipped")
        if clipped is not None and clipped.mean:
            found.append(f"{group.name}: labels of probability 0 were clipped, {clipped.mean:g} a run.")
    return [*found, *_about_machines(groups)]


def _about_machines(groups: Sequence[Group]) -> list[str]:
    runs = [run for group in groups for run in group.runs]
    found = []
    for name in ("device", "torch", "commit"):
        values = dict.fromkeys(run.versions[name] for run in runs if name in run.versions)
        if len(values) > 1:
            found.append(f"The runs were made with different values of {name}: {', '.join(values)}.")
    return found
