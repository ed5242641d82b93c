"""What `dist-dash shift` shows on the terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dist_dash.analysis.shift.ood import TEXTS

_SCORES = (
    ("accuracy", "accuracy", "{:.2%}"),
    ("nll", "NLL", "{:.4f}"),
    ("ece", "ECE", "{:.4f}"),
    ("cal_nll", "cal NLL", "{:.4f}"),
)
_SCORE_NAMES = {name: name.replace("_", " ") for name in TEXTS} | {"max_probability": "1 − max probability"}
_DETECTION = (("auroc", "AUROC"), ("aupr_out", "AUPR out"), ("aupr_in", "AUPR in"), ("fpr95", "FPR95"))


def tables(found: dict[str, Any]) -> Group:
    """Two tables of the content of `shift.json`, with the notes that a reader needs."""
    errors = found["mean_corruption_error"]
    notes = [
        f"Severity 0: clean; below: means over {len(found['averaged_over'])} corruptions. Severities: "
        f"{found['severities_from']}. Temperatures fitted on {found['fitted_on']}.",
        f"Mean corruption error, not normalised: ensemble {errors['ensemble']:.2%}, members "
        f"{errors['member_mean']:.2%}.",
    ]
    if "baseline" in found:
        notes.append(_relative(found["baseline"]))
    notes += found["remarks"]
    if found["left_out"]:
        notes.append(f"Members left out, for they predict NaN: {', '.join(map(str, found['left_out']))}.")
    convention = (
        "OOD samples should score higher. AUPR out, in: OOD samples, or the data's, are the positive class. FPR95: OOD "
        "samples that pass for the data's where 95 % of those do."
    )
    return Group(_severities(found), *map(Text, notes), Text(), _detection(found["ood"]), Text(convention))


def _relative(baseline: dict[str, Any]) -> str:
    def both(name: str) -> str:
        ensemble, members = (_cell(baseline[who][name], "{:.1%}") for who in ("ensemble", "member_mean"))
        return f"ensemble {ensemble}, members {members}"

    return f"mCE, relative to {baseline['name']}: {both('mce')}; relative mCE: {both('relative_mce')}."


def _severities(found: dict[str, Any]) -> Table:
    title = f"corrupted {found['split']} split, {found['samples']} samples"
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("severity", ""):
        shown.add_column(name, no_wrap=True)
    for _, name, _ in _SCORES:
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("disagreement", justify="right", no_wrap=True)
    for severity, entry in [("0, clean", found["clean"]), *found["mean"].items()]:
        for who, label, first in (("ensemble", "ensemble", severity), ("member_mean", "member mean", "")):
            cells = [_cell(entry[who].get(key), form) for key, _, form in _SCORES]
            differ = _cell(entry["diversity"]["disagreement"], "{:.2%}") if first else ""
            shown.add_row(first, label, *cells, differ)
        shown.add_section()
    return shown


def _detection(ood: dict[str, Any]) -> Table:
    title = f"out-of-distribution samples against {ood['samples']} test samples"
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("OOD set", overflow="fold", min_width=15)
    shown.add_column("score", no_wrap=True)
    for _, name in _DETECTION:
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("members\nAUROC", justify="right")
    for one in ood["sets"]:
        names = [one["name"], f"{one['samples']} samples", *[""] * len(TEXTS)]
        for name, score in zip(names, TEXTS, strict=False):
            result, members = one["ensemble"][score], one["member_mean"].get(score)
            cells = [_cell(result and result[key], "{:.3f}") for key, _ in _DETECTION]
            shown.add_row(Text(name), _SCORE_NAMES[score], *cells, _cell(members and members["auroc"], "{:.3f}"))
        shown.add_section()
    return shown


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
