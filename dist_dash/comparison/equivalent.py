"""How many members a plain deep ensemble needs to be as good (Ashukha et al. 2020), from the baseline's predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from dist_dash.comparison.section import PLAIN, Group, Section
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.errors import BadInput
from dist_dash.metrics.size_curve import calibrated_size_curve, deep_ensemble_equivalent, size_curve
from dist_dash.runs.folder import RunFolder

CALIBRATED, PLAIN_NLL = "ensemble.cal_nll", "ensemble.nll"
SMALL = 2**22  # bytes of predictions of a section that take well under a second
SAME = 1e-5  # of an NLL: predictions are kept in single precision


def with_equivalents(section: Section, wanted: bool | None) -> Section:
    """The section, each group with the size of the plain deep ensemble that has its NLL after temperature scaling.

    Where a group has none, the NLL without scaling is taken for all. The curve of NLL over size is that of the first
    baseline whose method is SGD: over all subsets of its members (at most 100 of a size), the mean over its seeds.

    Args:
        section: whose groups are to be measured.
        wanted: whether to; None does where the predictions are there and small.

    Raises:
        BadInput: it is wanted, and the predictions of a baseline's run cannot be read.
    """
    plain = next((g for g in map(section.group, section.baselines) if g.method == PLAIN), None)
    if wanted is False:
        return section
    if plain is None:
        return _with_note(section, "no baseline is a plain deep ensemble (SGD)") if wanted else section
    files = [RunFolder(run.path).predictions for run in plain.runs]
    if wanted is None and not all(path.exists() for path in files):
        return section
    if wanted is None and sum(path.stat().st_size for path in files) > SMALL:
        return _with_note(section, f"the predictions of {plain.name} are large; --equivalent takes the time")
    metric = metric_of(section)
    try:
        curve = _curve(plain, metric)
    except BadInput as error:
        if wanted:
            raise
        return _with_note(section, str(error))
    groups = tuple(dataclasses.replace(group, equivalent=_equivalent(group, metric, curve)) for group in section.groups)
    return dataclasses.replace(section, groups=groups, largest_plain=len(curve))


def metric_of(section: Section) -> str:
    """The NLL by which ensembles are as good: after temperature scaling where every group has it."""
    return CALIBRATED if all(CALIBRATED in group.metrics for group in section.groups) else PLAIN_NLL


def _curve(plain: Group, metric: str) -> list[float]:
    """Mean NLL over the seeds, of 1, 2, … members."""
    curves = []
    for run in plain.runs:
        log_probs, labels, weights = FinishedRun(run.path).predictions()
        try:
            if metric == CALIBRATED:
                curves.append(calibrated_size_curve(log_probs, labels, weights=weights))
            else:
                curves.append([scores.nll for scores in size_curve(log_probs, labels, weights=weights)])
        except (IndexError, ValueError, TypeError) as error:
            raise BadInput(f"run: the predictions of {run.path} have shapes that do not fit ({error})") from error
    if len({len(curve) for curve in curves}) > 1:
        raise BadInput(f"runs: those of {plain.name} have different numbers of members")
    mean = np.mean(curves, axis=0)
    if not np.isfinite(mean).all():
        raise BadInput(f"runs: those of {plain.name} hold predictions that are not finite")
    return [float(value) for value in mean]


def _equivalent(group: Group, metric: str, curve: Sequence[float]) -> float | None:
    summary = group.metrics.get(metric)
    if summary is None:
        return None
    best = min(curve)
    value = best if abs(summary.mean - best) <= SAME * best else summary.mean
    return deep_ensemble_equivalent(range(1, len(curve) + 1), curve, value)


def _with_note(section: Section, why: str) -> Section:
    note = f"The plain deep ensembles that are as good were not worked out: {why}."
    return dataclasses.replace(section, notes=(*section.notes, note))
