"""The tables of a page: cells with the text that is read and the number that it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dist_dash.comparison.cost import cost_of
from dist_dash.comparison.metric_names import DIVERSITY, NONE, QUALITY, finite, heading, number
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.report.members import kept_members

MEANINGS = {
    "accuracy": "share of samples whose most probable class is the label",
    "top5": "share of samples whose label is among the five most probable classes",
    "aac": "accuracy on the most confident samples, averaged over all coverages",
    "nll": "negative log-likelihood of the labels, nats per sample; a probability of 0 counts as the smallest number",
    "brier": "squared distance between probabilities and the label, 0 to 2",
    "ece": "expected calibration error, 15 bins of equal width",
    "ece_mass": "expected calibration error, 15 bins of equally many samples",
    "temperature": "mean of the fitted temperatures; above 1: the predictions were overconfident",
    "clipped": "samples whose label got a probability of exactly 0",
}
DIFFERENCES = {
    "disagreement": "share of samples on which two members choose different classes",
    "kl": "KL divergence between two members' predictions, nats",
    "error_correlation": "correlation of two members' errors; 1: they err on the same samples",
    "weight_cosine": "cosine between two members' weights; 1: the same direction",
    "ambiguity": "mean NLL of the members − NLL of the ensemble: what averaging gains, nats",
    "ambiguity_brier": "mean Brier score of the members − that of the ensemble",
    "mutual_information": "what the members know about the class beyond their mean (epistemic uncertainty), nats",
}
TOLD = ("temperature", "clipped")
"""Of scores: what has no better."""


@dataclass(frozen=True)
class Cell:
    """One entry.

    Args:
        text: what is read.
        value: the number behind it, in full; None for words.
        key: what the number is, as `evaluation.json` names it.
        below: a second, smaller line.
        bold: told apart as the best.
        kind: `better`, `worse`, `more`, `less` or `marked`: a difference that is not 0; else empty.
        words: whether it is a text that may be broken into lines.
    """

    text: str
    value: Any = None
    key: str = ""
    below: str = ""
    bold: bool = False
    kind: str = ""
    words: bool = False


@dataclass(frozen=True)
class Heading:
    """Of a column: its text, what it means, and whether words stand below it."""

    text: str
    meaning: str = ""
    words: bool = False


@dataclass(frozen=True)
class Row:
    """A named row; `kind` is `main`, `last` or empty."""

    name: str
    cells: Sequence[Cell]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a title, and sentences below it; `spans` are headings above those of so many columns each."""

    title: str
    headings: Sequence[Heading]
    rows: Sequence[Row]
    legend: Sequence[str] = ()
    spans: Sequence[tuple[str, int]] = ()


def answers(run: FinishedRun) -> Table:
    """Every score of the ensemble, of each member and of the members' mean, as `evaluation.json` has them."""
    evaluation = run.evaluation
    members = [(f"member {n}", scores) for n, scores in zip(kept_members(run), evaluation["members"], strict=True)]
    rows = [("ensemble", "ensemble", evaluation["ensemble"], "main")]
    rows += [(f"members.{index}", name, scores, "") for index, (name, scores) in enumerate(members)]
    rows += [("member_mean", "member mean", evaluation["member_mean"], "last")]
    found = dict.fromkeys(name for _, _, scores, _ in rows for name in scores)
    known = (*QUALITY, *TOLD)
    names = [name for name in known if name in found] + [name for name in found if name not in known]
    return Table(
        f"Scores on the {evaluation.get('split')} split, {evaluation.get('samples')} samples",
        [Heading(""), *(Heading(heading(f"ensemble.{name}"), _meaning(name)) for name in names)],
        [Row(name, [_score(key, figure, scores) for figure in names], kind) for key, name, scores, kind in rows],
        _reading(evaluation, names),
    )


def _score(key: str, figure: str, scores: Mapping[str, Any]) -> Cell:
    value = finite(scores.get(figure))
    text = f"{value:g}" if figure == "clipped" and value is not None else number(f"ensemble.{figure}", value)
    return Cell(text, value, f"{key}.{figure}")


def _meaning(name: str) -> str:
    bare = name.removeprefix("cal_")
    return MEANINGS.get(bare, "") + (" (after temperature scaling)" if bare != name else "")


def _reading(evaluation: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """What a reader of the table has to know."""
    bare = dict.fromkeys(name.removeprefix("cal_") for name in names)
    told = "; ".join(f"{name}: {MEANINGS[name]}" for name in bare if name in MEANINGS)
    found = [f"↑ higher is better, ↓ lower is better. {told[:1].upper()}{told[1:]}."]
    if any(name.startswith("cal_") for name in names):
        found.append(
            "cal_…: the same after temperature scaling, the temperature fitted on one random half of the samples and "
            "the score taken on the other, both ways, averaged over 5 random splits: no score is taken where its "
            "temperature was fitted."
        )
        if finite(evaluation["ensemble"].get("cal_nll")) is None:
            found.append("There are too few samples to fit a temperature.")
    if left_out := evaluation.get("left_out"):
        found.append(f"Left out, because their predictions are not finite: members {', '.join(map(str, left_out))}.")
    return found


def diversity(run: FinishedRun) -> Table | None:
    """How much the members differ, means over pairs; None of one member."""
    found = run.evaluation.get("diversity") or {}
    known = [name for name in DIVERSITY if finite(found.get(name)) is not None]
    if not known or len(run.evaluation["members"]) < 2:
        return None
    rows = []
    for name in known:
        value = finite(found[name])
        cell = Cell(number(f"diversity.{name}", value), value, f"diversity.{name}")
        rows.append(Row(name.replace("_", " "), [cell, Cell(DIFFERENCES[name], words=True)]))
    return Table(
        "How the members differ, mean over pairs",
        [Heading("measure"), Heading("value"), Heading("meaning", words=True)],
        rows,
    )


def cost(run: FinishedRun) -> Table:
    """What the run took, from its record."""
    found = cost_of(run.lines("train"), run.environment)
    told = (
        ("time of an update", "step_seconds", 1000, "ms", "slowest member, median over the record"),
        ("of which waiting for members", "waiting", 100, "%", "median over the record, mean over members"),
        ("of which transfer between members", "transfer", 100, "%", "median over the record, mean over members"),
        ("forwards per update", "forwards", 1, "", "per micro-batch; a plain training step has 1"),
        ("backwards per update", "backwards", 1, "", "per micro-batch; a plain training step has 1"),
        (
            "peak memory of a process",
            "peak_memory_mib",
            1,
            "MiB",
            "of the device; on a CPU of the host, Python included",
        ),
        ("device-hours", "device_hours", 1, "", "devices × time of all updates"),
    )
    rows = []
    for name, field, unit, mark, meaning in told:
        value = getattr(found, field)
        text = NONE if value is None else f"{_short(unit * value)} {mark}".strip()
        rows.append(Row(name, [Cell(text, value, f"cost.{field}"), Cell(meaning, words=True)]))
    return Table("Cost of the run", [Heading(""), Heading("value"), Heading("how it was measured", words=True)], rows)


def _short(value: float) -> str:
    """Three significant digits or the whole number, without an exponent."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:.0f}"
    digits = next((digits for digits, limit in ((1, 10), (2, 1), (3, 0.1)) if abs(value) >= limit), 5)
    return f"{value:.{digits}f}"
