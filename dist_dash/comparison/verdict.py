"""What the numbers of a section show, in sentences that claim no more than the intervals allow."""

from __future__ import annotations

from collections.abc import Sequence

from dist_dash.comparison.metric_names import DISAGREEMENT, better, deciding, figure_of, number, percent
from dist_dash.comparison.paired import Difference
from dist_dash.comparison.section import Best, Group, Section

DIVERSITY = (DISAGREEMENT, "diversity.kl")


def verdict(section: Section) -> list[str]:
    """Which group is best and how sure that is, how each stands to the baselines, whether members differ, the cost.

    Of accuracy, NLL and ECE, the latter two calibrated where every group has that. Better, worse, more and less are
    said only where the 95 % interval of the paired differences excludes 0.
    """
    metrics = deciding({metric for metric in section.metrics if all(metric in g.metrics for g in section.groups)})
    if len(section.groups) == 1:
        return [_alone(section.groups[0], metrics)]
    found = [_about_best(metric, section.best[metric], section) for metric in metrics]
    for baseline in section.baselines:
        for metric in (*metrics, *(name for name in DIVERSITY if name in section.metrics)):
            found.append(_against(section, metric, baseline))
    return [sentence for sentence in [*found, _about_cost(section)] if sentence]


def _alone(group: Group, metrics: Sequence[str]) -> str:
    found = ", ".join(f"{figure_of(metric)} {_value(metric, group.metrics[metric].mean)}" for metric in metrics)
    found += f" ({_seeds(len(group.runs))})"
    return f"There is one group only, {group.name}, and nothing to compare it with: {found}."


def _about_best(metric: str, best: Best, section: Section) -> str:
    summary, lead = section.group(best.group).metrics[metric], best.lead
    value = f"{_value(metric, summary.mean)} (mean over {_seeds(summary.n)})"
    begins = f"{figure_of(metric)}: {best.group} has the best mean, {value}"
    if lead.mean is None or lead.n < 2:
        return f"{begins}; {best.runner_up} follows, not decided: {_seeds(lead.n)} in common."
    amount = f"{_amount(metric, lead)}, {lead.n} paired seeds"
    if best.bold:
        return f"{figure_of(metric)}: {best.group} is best, {value}; to the second best, {best.runner_up}: {amount}."
    if lead.excludes_zero:
        return f"{begins}, but in the seeds in common the second best, {best.runner_up}, is better: {amount}."
    return (
        f"{begins}, but the difference to the second best, {best.runner_up}, is not significant with {lead.n} seeds: "
        f"{_amount(metric, lead)}."
    )


def _against(section: Section, metric: str, baseline: str) -> str:
    """How every other group stands to a baseline; empty where none can be compared."""
    kinds: dict[str, list[str]] = {}
    for group in section.groups:
        if group.name == baseline:
            continue
        difference = section.differences[group.name, baseline][metric]
        if difference.mean is not None:
            amount = _amount(metric, difference)
            kinds.setdefault(_kind(metric, difference), []).append(f"{group.name} ({amount}, n = {difference.n})")
    found = "; ".join(f"{kind}: {', '.join(groups)}" for kind, groups in sorted(kinds.items()))
    return f"{figure_of(metric)} against {baseline}: {found}." if found else ""


def _kind(metric: str, difference: Difference) -> str:
    """A phrase; in alphabetical order they read: better, no significant difference, not decided, worse."""
    if difference.n < 2:
        return f"not decided, {_seeds(difference.n)} only"
    if not difference.excludes_zero:
        return f"no significant difference with {difference.n} seeds"
    return in_a_word(metric, difference)


def in_a_word(metric: str, difference: Difference) -> str:
    """`better` or `worse`; `more` or `less` of what has no better. The interval excludes 0."""
    more = difference.low is not None and difference.low > 0
    way = better(metric)
    if way is None:
        return "more" if more else "less"
    return "better" if more == (way == "higher") else "worse"


def _about_cost(section: Section) -> str:
    baseline = section.baselines[0]
    times = [(group.name, section.relative_step_time(group)) for group in section.groups if group.name != baseline]
    found = ", ".join(f"{time:.2f} times with {name}" for name, time in times if time is not None)
    return f"Time of an update, in those of {baseline}: {found}." if found else ""


def _amount(metric: str, difference: Difference) -> str:
    low, high = (number(metric, end, "+") for end in (difference.low, difference.high))
    interval = f", 95 % interval [{low}, {high}]" if difference.low is not None else ""
    return f"{number(metric, difference.mean, '+')}{' percentage points' if percent(metric) else ''}{interval}"


def _value(metric: str, value: float) -> str:
    return f"{number(metric, value)}{' %' if percent(metric) else ''}"


def _seeds(n: int) -> str:
    return f"{n} seed{'s' * (n != 1)}"
