"""How flat the loss is around each member; `flatness.json` and a table."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console

from dist_dash.analysis.flatness.measure import Flatness, FlatnessOptions, flatness_of
from dist_dash.analysis.flatness.subset import subset
from dist_dash.analysis.flatness.surface import NotFinite
from dist_dash.analysis.flatness.table import table
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.errors import BadInput, require_count
from dist_dash.files import check_writable, write_json
from dist_dash.runs.process import FINISHED
from dist_dash.runs.record import say

SAMPLES, CPU = 500, torch.device("cpu")
AVERAGED = ("loss", "gradient_norm", "weight_norm", "one_step_rise", "worst_rise", "random_rise", "eigenvalue", "trace")


def measure_and_show(given: argparse.Namespace) -> int:
    """Measure every member, write `flatness.json` into the run, show it.

    Args:
        given: the options of the command line.

    Returns:
        The exit status, 0.

    Raises:
        BadInput: an option is out of its range, the run is not finished, its data cannot be reached, or no member has
            a finite loss; nothing was written.
    """
    device = _device(given.device)
    options = FlatnessOptions(
        rho=given.rho,
        steps=given.steps,
        tolerance=given.tolerance,
        most_probes=given.probes,
        seed=given.seed,
        dtype=given.dtype or ("float64" if device.type == "cpu" else "float32"),
        batch_size=given.batch_size,
    )
    require_count("samples", given.samples)
    run = FinishedRun(given.run, given.allow_code)
    run.data(say)
    result = measure_run(run, options, given.split, given.samples, device)
    if given.json:
        print(json.dumps(result, allow_nan=False))
    else:
        Console().print(table(result))
    return FINISHED


def measure_run(
    run: FinishedRun,
    options: FlatnessOptions,
    split: str = "train",
    samples: int = SAMPLES,
    device: torch.device = CPU,
) -> dict[str, Any]:
    """Measure every member and write `flatness.json` into the run; returns its content.

    Raises:
        BadInput: the data cannot be reached, or no member has a finite loss; nothing was written.
    """
    check_writable(run.folder.flatness, "run")
    networks = run.ensemble().to(device).networks
    x, y = subset(run, split, samples, options.seed)
    found: list[Flatness | None] = []
    for index, network in enumerate(networks):
        try:
            found.append(flatness_of(network, x, y, options))
        except NotFinite as error:
            say(f"flatness: member {index} is left out: {error}")
            found.append(None)
    result = summary(found, options, split, len(x))
    write_json(run.folder.flatness, result, allow_nan=False)
    return result


def summary(members: Sequence[Flatness | None], options: FlatnessOptions, split: str, samples: int) -> dict[str, Any]:
    """The content of `flatness.json`.

    Args:
        members: in their order; None for one without a finite loss.
        options: of the measurement.
        split: that the samples are from.
        samples: how many.

    Raises:
        BadInput: no member has a finite loss.
    """
    finite = [member for member in members if member is not None]
    if not finite:
        raise BadInput("run: no member has a finite loss; there is no flatness to measure")
    settings = {name: value for name, value in asdict(options).items() if name != "batch_size"}
    return {
        "split": split,
        "samples": samples,
        "loss": "cross-entropy",
        "mode": "eval",
        **settings,
        "left_out": [index for index, member in enumerate(members) if member is None],
        "members": [None if member is None else _finite(asdict(member)) for member in members],
        "mean": _finite({name: sum(getattr(m, name) for m in finite) / len(finite) for name in AVERAGED}),
    }


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has neither NaN nor ∞: null."""
    return {
        name: [v if math.isfinite(v) else None for v in value]
        if isinstance(value, list)
        else (None if isinstance(value, float) and not math.isfinite(value) else value)
        for name, value in row.items()
    }


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # what is only pretended, such as meta, holds no value
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises the latter
        problem = str(error).splitlines()[0]
        raise BadInput(f"device: {name!r} is not allowed; it must be a device of this machine ({problem})") from error
    return device
