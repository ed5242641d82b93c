"""The grid of a scaling study, the record of its runs, and the efficiencies that follow. Needs no torch.

weak     batch per rank fixed; ideal: t constant;            efficiency(m, r) = t(m₀, r₀) / t(m, r)
strong   batch per member fixed, shared by its replicas;     efficiency(m, r) = t(m, r₀) · r₀ / (r · t(m, r))

t is the median time of an update; m₀, r₀ are the smallest members and replicas of the study.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dist_dash.errors import BadInput, require

Floats = npt.NDArray[np.float64]
KINDS = ("weak", "strong")
MEASURES = ("step_seconds", "waiting_share", "transfer_share", "samples_per_second")


@dataclass(frozen=True, order=True)
class ScalingPoint:
    """One layout of a scaling study.

    Args:
        members: of the ensemble.
        replicas: ranks per member.
        batch: samples per rank and micro-batch.
    """

    members: int
    replicas: int
    batch: int

    @property
    def ranks(self) -> int:
        """Ranks of one run."""
        return self.members * self.replicas

    @property
    def name(self) -> str:
        """The beginning of the names of its runs' folders."""
        return f"m{self.members}_r{self.replicas}_b{self.batch}"


@dataclass(frozen=True)
class Grid:
    """All points of a scaling study.

    Args:
        members: numbers of members, ascending, each once.
        replicas: numbers of replicas, ascending, each once.
        batch: of the recipe, per rank and micro-batch.
        kinds: of `KINDS`.
    """

    members: tuple[int, ...]
    replicas: tuple[int, ...]
    batch: int
    kinds: tuple[str, ...]

    def __post_init__(self) -> None:
        for replicas in self.replicas if "strong" in self.kinds else ():
            if self.batch % replicas:
                raise BadInput(
                    f"replicas: {replicas} is not allowed with strong scaling; it must divide loader.batch_size "
                    f"({self.batch}), which a member's replicas share"
                )

    def point(self, kind: str, members: int, replicas: int) -> ScalingPoint:
        """The layout, with the batch that `kind` gives it."""
        return ScalingPoint(members, replicas, self.batch if kind == "weak" else self.batch // replicas)

    def of(self, kind: str) -> list[ScalingPoint]:
        """The points of one kind of scaling."""
        return [self.point(kind, m, r) for m in self.members for r in self.replicas]

    def points(self) -> list[ScalingPoint]:
        """All points; one that weak and strong scaling have in common comes once."""
        return list(dict.fromkeys(point for kind in self.kinds for point in self.of(kind)))

    def ideal(self, kind: str, point: ScalingPoint) -> tuple[ScalingPoint, float]:
        """The point to compare with, and the ideal ratio of `point`'s time to that point's time."""
        if kind == "weak":
            return self.point(kind, self.members[0], self.replicas[0]), 1.0
        return self.point(kind, point.members, self.replicas[0]), self.replicas[0] / point.replicas


def round_robin(points: Sequence[ScalingPoint], repeats: int) -> list[tuple[ScalingPoint, int]]:
    """Points and numbers of repeats, from 1; in rounds, so that a slow hour of the machine affects all points."""
    return [(point, repeat) for repeat in range(1, repeats + 1) for point in points]


def whole_numbers(field: str, text: str) -> tuple[int, ...]:
    """The numbers of `1,2,4`, ascending.

    Raises:
        BadInput: one of them is not a whole number ≥ 1, or comes twice.
    """
    parts = [part.strip() for part in text.split(",")]
    good = all(re.fullmatch(r"[0-9]{1,6}", part) and int(part) for part in parts)
    require(good, field, text, "whole numbers ≥ 1 with commas between them, such as 1,2,4")
    numbers = [int(part) for part in parts]
    require(len(set(numbers)) == len(numbers), field, text, "numbers that are given once each")
    return tuple(sorted(numbers))


def kinds_of(text: str | None, replicas: Sequence[int]) -> tuple[str, ...]:
    """The kinds of scaling to measure; by default weak, and strong too for several numbers of replicas.

    Raises:
        BadInput: a word is not one of `KINDS`, or comes twice.
    """
    if text is None:
        return KINDS if len(replicas) > 1 else KINDS[:1]
    words = [word.strip() for word in text.split(",")]
    require(set(words) <= set(KINDS) and len(set(words)) == len(words), "scaling", text, "weak, strong or weak,strong")
    return tuple(kind for kind in KINDS if kind in words)


# -- the record of a run -----------------------------------------------------------------------------------------------


def read_updates(metrics: Path, warm_up: int) -> dict[str, Floats]:
    """Each of `MEASURES`, `[updates]`, of a run that recorded every update.

    Members update together: an update takes as long as it takes the slowest of them. Waiting and transfer are means
    over the members of their share of that member's time; samples are those of all members.

    Args:
        metrics: the run's `metrics.jsonl`.
        warm_up: updates that are left out at the start, and again after each continuation of a stopped run.

    Raises:
        BadInput: the file cannot be read as such a record.
    """
    found: list[tuple[float, ...]] = []
    try:
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
        begins = 0
        for line in lines:
            if line["kind"] == "event" and str(line.get("text")).startswith("continuing "):
                begins = line["step"]
            elif line["kind"] == "train" and line["step"] > begins + warm_up:
                found.append(_of_update(line["timing"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{metrics} cannot be read as the record of a run ({type(error).__name__}: {error})") from error
    table = np.array(found, dtype=np.float64).reshape(-1, len(MEASURES))
    return dict(zip(MEASURES, table.T, strict=True))


def _of_update(timing: Mapping[str, Sequence[float]]) -> tuple[float, ...]:
    names = ("seconds", "wait", "transfer", "samples_per_second")
    seconds, wait, transfer, rates = np.array([timing[name] for name in names], dtype=np.float64)
    if not (seconds > 0).all():
        raise ValueError("an update that took no time")
    shares = float((wait / seconds).mean()), float((transfer / seconds).mean())
    return float(seconds.max()), *shares, float((rates * seconds).sum() / seconds.max())


@dataclass(frozen=True)
class Spread:
    """A measure at one point.

    Args:
        median: over the updates of all repeats.
        p10: 10 % of those updates lie below it.
        p90: 10 % of those updates lie above it.
        least: the smallest of the repeats' own medians.
        most: the largest of the repeats' own medians.
    """

    median: float
    p10: float
    p90: float
    least: float
    most: float


def spread(repeats: Sequence[Floats]) -> Spread:
    """Summarise a measure `[updates]` of all repeats; each repeat has at least one update."""
    p10, median, p90 = np.quantile(np.concatenate(repeats), [0.1, 0.5, 0.9])
    medians = [float(np.median(values)) for values in repeats]
    return Spread(float(median), float(p10), float(p90), min(medians), max(medians))


@dataclass(frozen=True)
class ScalingRow:
    """The result of a scaling study for one point and kind of scaling.

    Args:
        kind: of scaling.
        point: the layout.
        repeats: number of finished runs.
        updates: of all those runs, without warm-up.
        measures: by the names in `MEASURES`.
        efficiency: from the medians, then the least and most that the repeats' medians allow; None where the point to
            compare with has no result.
        foreseen: seconds of an update by the step model, where a profile was given.
    """

    kind: str
    point: ScalingPoint
    repeats: int
    updates: int
    measures: dict[str, Spread]
    efficiency: tuple[float, float, float] | None
    foreseen: float | None = None


def rows(
    grid: Grid,
    measured: Mapping[ScalingPoint, Sequence[dict[str, Floats]]],
    foreseen: Mapping[ScalingPoint, float] | None = None,
) -> list[ScalingRow]:
    """A row per kind of scaling and point, for those points that have been measured.

    Args:
        grid: of the study.
        measured: per point, for each repeat, the result of `read_updates`, with at least one update.
        foreseen: per point, seconds of an update.
    """
    spreads = {p: {name: spread([one[name] for one in runs]) for name in MEASURES} for p, runs in measured.items()}
    found = []
    for kind in grid.kinds:
        for point in (p for p in grid.of(kind) if p in measured):
            base, factor = grid.ideal(kind, point)
            own, theirs = (spreads.get(p, {}).get("step_seconds") for p in (point, base))
            efficiency = _efficiency(own, theirs, factor) if point != base else (1.0, 1.0, 1.0)
            updates = sum(len(one["step_seconds"]) for one in measured[point])
            seconds = (foreseen or {}).get(point)
            found.append(ScalingRow(kind, point, len(measured[point]), updates, spreads[point], efficiency, seconds))
    return found


def _efficiency(own: Spread | None, base: Spread | None, factor: float) -> tuple[float, float, float] | None:
    if own is None or base is None:
        return None
    return factor * base.median / own.median, factor * base.least / own.most, factor * base.most / own.least
