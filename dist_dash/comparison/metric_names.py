"""The metrics that are compared: whether higher is better, and how their values are written."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

QUALITY = (
    "accuracy",
    "top5",
    "aac",
    "nll",
    "brier",
    "ece",
    "ece_mass",
    "cal_nll",
    "cal_brier",
    "cal_ece",
    "cal_ece_mass",
    "cal_aac",
)
"""The scores of a predictor that have a better and a worse, in the order of the columns."""
PERCENT = ("accuracy", "top5", "aac", "cal_aac")
DIVERSITY = (
    "disagreement",
    "kl",
    "error_correlation",
    "weight_cosine",
    "ambiguity",
    "ambiguity_brier",
    "mutual_information",
)
"""How members differ: none of it is better or worse in itself."""
DISAGREEMENT = "diversity.disagreement"
DECIDING = (("ensemble.accuracy",), ("ensemble.cal_nll", "ensemble.nll"), ("ensemble.cal_ece", "ensemble.ece"))
"""What a reader looks at first: of each group of names, the first that is known."""
PARTS = ("ensemble", "member_mean", "diversity")
"""The parts of `evaluation.json` that hold figures; a metric is named `<part>.<figure>`."""
NONE = "—"


def deciding(known: Collection[str]) -> list[str]:
    """The metrics of `DECIDING`, of those that are known."""
    found = (next((metric for metric in choice if metric in known), None) for choice in DECIDING)
    return [metric for metric in found if metric is not None]


def figure_of(metric: str) -> str:
    """`nll` of `ensemble.nll`."""
    return metric.partition(".")[2]


def better(metric: str) -> str | None:
    """`higher` or `lower`; None where neither is better: diversity, the fitted temperature, what is not known here."""
    part, _, figure = metric.partition(".")
    if part not in PARTS[:2] or figure not in QUALITY:
        return None
    return "higher" if figure in PERCENT else "lower"


def percent(metric: str) -> bool:
    """Whether the metric is a share of samples, written in percent: an accuracy, or the disagreement."""
    return metric == DISAGREEMENT or (metric.partition(".")[0] in PARTS[:2] and figure_of(metric) in PERCENT)


def number(metric: str, value: float | None, sign: str = "") -> str:
    """A value as text: shares of samples in percent with 2 decimals, the others with 4; a dash where there is none.

    Args:
        metric: whose value, or difference of values, it is.
        value: of the metric; shares of samples as shares of 1.
        sign: `+` writes it before what is positive.
    """
    if value is None:
        return NONE
    scaled, digits = (100 * value, 2) if percent(metric) else (value, 4)
    text = f"{scaled:{sign}.{digits}f}"
    return text if float(text) else text.lstrip("+-")  # no −0.00, and no sign before a zero


def heading(metric: str) -> str:
    """The name of a column: the figure's own, its unit where it has one, and an arrow to where it is better."""
    arrow = {"higher": " ↑", "lower": " ↓"}.get(better(metric) or "", "")
    return f"{figure_of(metric)}{' %' if percent(metric) else ''}{arrow}"


def finite(value: Any) -> float | None:
    """The value as a number; None where it is none, or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
