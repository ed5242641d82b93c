"""Corruption errors relative to a baseline, as Hendrycks & Dietterich (ICLR 2019, section 4.1) define them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dist_dash.errors import BadInput
from dist_dash.files import read_json
from dist_dash.runs.folder import RunFolder

_PREDICTORS = ("ensemble", "member_mean")


@dataclass(frozen=True)
class Baseline:
    """What other errors are divided by.

    Args:
        name: as `--baseline` names it.
        clean: its error without corruption; None where unknown.
        errors: its mean error over the measured severities, for each corruption.
    """

    name: str
    clean: float | None
    errors: Mapping[str, float]


def baseline_of(given: str, kinds: Sequence[str], severities: Sequence[int], severities_from: str) -> Baseline:
    """Errors of a run that was shifted, or of a JSON file: of its `shift.json`, or `{"clean": e, "KIND": e or [e, …]}`.

    Args:
        given: the run's folder, or the file.
        kinds: corruptions that are needed.
        severities: the measured ones.
        severities_from: what they mean; a `shift.json` must agree.

    Raises:
        BadInput: it cannot be read, lacks one of them, or is about other severities.
    """
    path = Path(given)
    if path.is_dir():
        path = RunFolder(path).shift
    if not path.is_file():
        raise BadInput(
            f"baseline: {path} is no file; it must be JSON with errors, or a run that `dist-dash shift` measured"
        )
    found = read_json(path, "baseline")
    if not isinstance(found, dict):
        raise BadInput(f"baseline: {path} must hold an object with an error for each corruption")
    if "corrupted" in found:
        theirs = found.get("severities_from", "an older version")
        if theirs != severities_from:
            raise BadInput(f"baseline: severities in {path} are of {theirs}; they must be of {severities_from}")
        found = _errors_of(found, path)
    errors = {}
    for kind in kinds:
        value = found.get(kind)
        if isinstance(value, list) and len(value) == 5:
            value = [value[severity - 1] for severity in severities]
        elif list(severities) == [1, 2, 3, 4, 5] and not isinstance(value, list):
            value = [value]
        else:
            raise BadInput(f"baseline: {path} has {kind}: {value}; it must be the errors of severities 1 to 5")
        errors[kind] = float(np.mean([_share(one, kind, path) for one in value]))
        if errors[kind] == 0:
            raise BadInput(f"baseline: {path} has no errors under {kind}; nothing can be divided by 0")
    clean = None if found.get("clean") is None else _share(found["clean"], "clean", path)
    return Baseline(given, clean, errors)


def relative_to(baseline: Baseline, found: Mapping[str, Any]) -> dict[str, Any]:
    """The entry `baseline` of `shift.json`, for the ensemble and the members' mean; ratios, 1 for the baseline itself.

    `CE = Σ_s E_s / Σ_s E_s^base` of each corruption, and `relative CE = Σ_s (E_s − E_clean) / Σ_s (E_s^base −
    E_clean^base)`; None where the baseline's clean error is unknown or its errors do not rise. `mce`, `relative_mce`:
    means over the corruptions.
    """
    entry: dict[str, Any] = {"name": baseline.name, "clean": baseline.clean, "errors": dict(baseline.errors)}
    for who in _PREDICTORS:
        clean, ce, relative = 1 - found["clean"][who]["accuracy"], {}, {}
        for kind, base in baseline.errors.items():
            error = float(np.mean([1 - level[who]["accuracy"] for level in found["corrupted"][kind].values()]))
            rise = 0.0 if baseline.clean is None else base - baseline.clean
            ce[kind], relative[kind] = error / base, (error - clean) / rise if rise > 0 else None
        known = [one for one in relative.values() if one is not None]
        entry[who] = {
            "ce": ce,
            "relative_ce": relative,
            "mce": float(np.mean(list(ce.values()))),
            "relative_mce": float(np.mean(known)) if len(known) == len(relative) else None,
        }
    return entry


def _errors_of(shift: dict[str, Any], path: Path) -> dict[str, Any]:
    """The errors of the ensemble of a `shift.json`; None for a severity that it lacks."""
    try:
        levels = {
            kind: [1 - own[str(s)]["ensemble"]["accuracy"] if str(s) in own else None for s in (1, 2, 3, 4, 5)]
            for kind, own in shift["corrupted"].items()
        }
        return {**levels, "clean": 1 - shift["clean"]["ensemble"]["accuracy"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"baseline: {path} is not as `dist-dash shift` writes it") from error


def _share(value: Any, what: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise BadInput(f"baseline: {path} has {what}: {value}; it must be an error from 0 to 1")
    return float(value)
