"""What a run cost, from its own record."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from dist_dash.comparison.metric_names import finite


@dataclass(frozen=True)
class Cost:
    """What a run took, or the medians over the runs of a group; None where the record does not say.

    Args:
        step_seconds: of an update: of the slowest member, median over the lines of the record.
        peak_memory_mib: most that a process held: of the device's memory, or on CPU of the host's.
        device_hours: devices × time of all updates.
        waiting: share of an update that members wait for one another, median over the lines.
        transfer: share of an update that is spent on moving data between members, median over the lines.
        forwards: counted passes of an update, of all its samples: mean over all updates and members.
        backwards: likewise.
    """

    step_seconds: float | None = None
    peak_memory_mib: float | None = None
    device_hours: float | None = None
    waiting: float | None = None
    transfer: float | None = None
    forwards: float | None = None
    backwards: float | None = None


def cost_of(lines: Sequence[Mapping[str, Any]], environment: Mapping[str, Any]) -> Cost:
    """The cost of a run.

    The time of an update is that of the slowest member, for which the others wait at the latest when the line is
    written. Of more than two lines, the first is left out of what is "of an update", as warm-up; device-hours count it.

    Args:
        lines: of kind `train`, in order, each the mean over the updates since the one before.
        environment: the run's `environment.json`.
    """
    timings = [(_whole(line.get("step")), line.get("timing")) for line in lines]
    timed = [(step, _Timing(timing)) for step, timing in timings if step is not None and isinstance(timing, Mapping)]
    steady = [timing for _, timing in timed[len(timed) > 2 :]]
    layout = environment.get("layout")
    world = _whole(layout.get("world")) if isinstance(layout, Mapping) else None
    return Cost(
        step_seconds=_median(timing.slowest for timing in steady),
        peak_memory_mib=max((mib for _, timing in timed for mib in timing.of("peak_memory_mib")), default=None),
        device_hours=_device_hours(timed, world),
        waiting=_median(timing.share("wait") for timing in steady),
        transfer=_median(timing.share("transfer") for timing in steady),
        forwards=_mean_passes(lines, "forwards"),
        backwards=_mean_passes(lines, "backwards"),
    )


def median_cost(costs: Sequence[Cost]) -> Cost:
    """Cost of a group: medians over its runs."""
    return Cost(**{f.name: _median(getattr(cost, f.name) for cost in costs) for f in fields(Cost)})


def relative(cost: Cost, baseline: Cost) -> float | None:
    """The time of an update, divided by that of the baseline."""
    if cost.step_seconds is None or not baseline.step_seconds:
        return None
    return cost.step_seconds / baseline.step_seconds


class _Timing:
    """The timing of one line of the record, by member."""

    def __init__(self, timing: Mapping[str, Any]) -> None:
        self._timing = timing
        self.slowest = max(self.of("seconds"), default=None)

    def of(self, name: str) -> list[float]:
        values = self._timing.get(name)
        numbers = [finite(value) for value in values] if isinstance(values, list) else []
        return [number for number in numbers if number is not None]

    def share(self, name: str) -> float | None:
        """Mean over the members of a part's share of that member's time."""
        seconds, parts = self.of("seconds"), self.of(name)
        if not seconds or len(seconds) != len(parts) or min(seconds) <= 0:
            return None
        return statistics.fmean(part / second for part, second in zip(parts, seconds, strict=True))


def _device_hours(timed: Sequence[tuple[int, _Timing]], world: int | None) -> float | None:
    if world is None or not timed:
        return None
    before, seconds = 0, 0.0
    for step, timing in timed:
        if timing.slowest is None:
            return None
        seconds += timing.slowest * (step - before)
        before = step
    return seconds * world / 3600


def _mean_passes(lines: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Each line is a mean over the updates since the one before, and weighs as many."""
    before, weighted = 0, []
    for line in lines:
        step, values = _whole(line.get("step")), line.get(name)
        numbers = [finite(value) for value in values] if isinstance(values, list) else []
        known = [number for number in numbers if number is not None]
        if step is None or not known:
            return None
        weighted.append((step - before, statistics.fmean(known)))
        before = step
    return sum(n * value for n, value in weighted) / before if before else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
