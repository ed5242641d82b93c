"""The tables that a run, and `dist-dash evaluate`, end with; 80 columns are enough for them."""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

SCORES = (
    ("accuracy", "accuracy", ".2%"),
    ("top5", "top-5", ".2%"),
    ("nll", "NLL", ".4f"),
    ("cal_nll", "cal\nNLL", ".4f"),
    ("brier", "Brier", ".4f"),
    ("ece", "ECE", ".4f"),
    ("cal_ece", "cal\nECE", ".4f"),
    ("aac", "AAC", ".2%"),
)
DIVERSITY = (
    ("disagreement", "disagree-\nment", ".2%"),
    ("kl", "KL", ".4f"),
    ("error_correlation", "error\ncorrelation", ".3f"),
    ("ambiguity", "ambiguity\n(NLL)", ".4f"),
    ("mutual_information", "mutual\ninformation", ".4f"),
    ("weight_cosine", "cosine of\nweights", ".3f"),
)


def table(evaluation: dict[str, Any]) -> Group:
    """Each member, their mean and the ensemble; and below, where there are several members, how these differ.

    A member's disagreement is its mean one with the others. `cal`: after temperature scaling.
    """
    tables: list[Table | Text | str] = [_of_predictors(evaluation), *map(Text, temperature_remarks(evaluation))]
    if len(evaluation["members"]) > 1:
        tables += ["", _of_pairs(evaluation["diversity"])]
    return Group(*tables)


def temperature_remarks(evaluation: dict[str, Any]) -> list[str]:
    """Sentences about temperatures that sit on a bound, or were left at 1; of none, no sentence."""
    if "temperature_remarks" not in evaluation:
        return []
    found = evaluation["temperature_remarks"]
    left_out, members = evaluation.get("left_out", []), found["members"]
    names = [f"member {number}" for number in range(len(members) + len(left_out)) if number not in left_out]
    said = zip(["the ensemble", *names], [found["ensemble"], *members], strict=True)
    return [f"Temperature of {name}: {words}." for name, words in said if words]


def _of_predictors(evaluation: dict[str, Any]) -> Table:
    columns = [column for column in SCORES if column[0] in evaluation["ensemble"]]
    pairwise = np.array(evaluation["diversity"]["pairwise"]["disagreement"])
    differs = pairwise.sum(1) / (len(pairwise) - 1) if len(pairwise) > 1 else [None]
    of = f" of {PurePath(evaluation['data']).name}" if "data" in evaluation else ""
    result = _empty(f"{evaluation['split']} split{of}, {evaluation['samples']} samples")
    result.add_column("", no_wrap=True, min_width=11)
    for _, title, _ in [*columns, ("", "disagree-\nment", "")]:
        result.add_column(title, justify="right", no_wrap=True)

    def row(name: str, found: dict[str, float | None], differs: float | None) -> None:
        result.add_row(name, *(shown(found[key], form) for key, _, form in columns), shown(differs, ".2%", ""))

    found = zip(evaluation["members"], differs, strict=True)
    left_out = evaluation.get("left_out", [])
    for index in range(len(evaluation["members"]) + len(left_out)):
        if index in left_out:
            result.add_row(f"member {index}", "left out")
        else:
            row(f"member {index}", *next(found))
    result.add_section()
    row("member mean", evaluation["member_mean"], evaluation["diversity"]["disagreement"])
    row("ensemble", evaluation["ensemble"], None)
    return result


def _of_pairs(diversity: dict[str, Any]) -> Table:
    result = _empty("between members")
    for _, title, _ in DIVERSITY:
        result.add_column(title, justify="right", no_wrap=True)
    result.add_row(*(shown(diversity.get(key), form) for key, _, form in DIVERSITY))
    return result


def _empty(title: str) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)


def shown(value: float | None, form: str, none: str = "—") -> str:
    """A number as text; `none` where there is none."""
    return none if value is None or not math.isfinite(value) else format(value, form)
