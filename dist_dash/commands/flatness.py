"""`dist-dash flatness RUN`: how flat the loss is around each member; `flatness.json` and a table."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from dist_dash.analysis.flatness.measure import DTYPES, Flatness, FlatnessOptions, flatness_of
from dist_dash.analysis.flatness.subset import subset
from dist_dash.analysis.flatness.surface import NotFinite
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.errors import BadInput, require
from dist_dash.files import write_atomically
from dist_dash.runs.process import FINISHED, OneLine
from dist_dash.runs.record import say

SAMPLES, CPU = 500, torch.device("cpu")
AVERAGED = ("loss", "gradient_norm", "weight_norm", "one_step_rise", "worst_rise", "random_rise", "eigenvalue", "trace")


def flatness_parser() -> argparse.ArgumentParser:
    """The parser of `dist-dash flatness`."""
    parser = OneLine(
        prog="dist-dash flatness",
        allow_abbrev=False,
        description="Measure how flat the loss is around each member of a finished run: its rise at the worst point "
        "within a ball, at random points on it, the Hessian's largest eigenvalue and trace. Networks are in evaluation "
        "mode, the loss is cross-entropy without smoothing or mixup, samples are not augmented.",
    )
    parser.add_argument("run", help="a finished run")
    parser.add_argument("--rho", type=float, default=0.05, help="radius of the ball (default: 0.05)")
    parser.add_argument("--steps", type=int, default=5, help="of the ascent to the worst point (default: 5)")
    parser.add_argument(
        "--samples", type=int, default=SAMPLES, help=f"of the split, always the same (default: {SAMPLES})"
    )
    parser.add_argument(
        "--split",
        choices=["train", "test", "validation"],
        default="train",
        help="train: with the labels that were trained on, noise included (default)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of samples, directions and probes (default: 0)")
    parser.add_argument(
        "--tolerance", type=float, default=1e-3, help="of the eigenvalue's relative residual (default: 1e-3)"
    )
    parser.add_argument("--probes", type=int, default=100, help="at most, for the trace (default: 100)")
    parser.add_argument("--device", default="cpu", help="such as cuda (default: cpu)")
    parser.add_argument("--dtype", choices=list(DTYPES), help="(default: float64 on a CPU, else float32)")
    parser.add_argument("--batch-size", type=int, help="samples at once (default: as many as fit into 2 GiB)")
    parser.add_argument("--json", action="store_true", help="print flatness.json instead of the table")
    return parser


def flatness_command(arguments: Sequence[str]) -> int:
    """Measure every member, write `flatness.json` into the run, show it.

    Raises:
        BadInput: an option is out of its range, the run is not finished, its data cannot be reached, or no member has
            a finite loss; nothing was written.
    """
    given = flatness_parser().parse_args(arguments)
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
    require(given.samples >= 1, "samples", given.samples, "a whole number ≥ 1")
    result = measure_run(FinishedRun(given.run), options, given.split, given.samples, device)
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
    write_atomically(run.folder.flatness, json.dumps(result, indent=1, allow_nan=False))
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


def table(result: dict[str, Any]) -> Group:
    """For the terminal: a row per member, their mean, and what a reader has to know."""
    labels = "with the labels trained on" if result["split"] == "train" else "with its labels"
    title = f"flatness on {result['samples']} samples of the {result['split']} split, {labels}; ρ = {result['rho']:g}"
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("", no_wrap=True)
    rises = ("\nrise,\n1 step", f"\nrise,\n{result['steps']} steps", "\nrise,\nrandom")
    for name in ("\n\nloss", *rises, "top\neigenvalue\n(residual)", "\ntrace\n(± error)"):
        shown.add_column(name, justify="right", no_wrap=True)
    for index, member in enumerate(result["members"]):
        if member is None:
            shown.add_row(f"member {index}", "–", *[""] * 5)
        else:
            shown.add_row(f"member {index}", *_cells(member, result))
    shown.add_section()
    shown.add_row("mean", *_cells(result["mean"], result))
    return Group(shown, *map(Text, _notes(result)))


def _cells(row: dict[str, Any], result: dict[str, Any]) -> list[str]:
    eigenvalue, trace = _short(row["eigenvalue"]), _short(row["trace"])
    if "trace_error" in row:
        eigenvalue += f"\n({_short(row['eigenvalue_residual'], '.0e')}){'' if row['eigenvalue_converged'] else '*'}"
        trace += f"\n(± {_short(row['trace_error'], '.2g')}){'' if row['trace_converged'] else '*'}"
    rises = [_short(row[f"{name}_rise"]) for name in ("one_step", "worst", "random")]
    return [_short(row["loss"], ".4f"), *rises, eigenvalue, trace]


def _notes(result: dict[str, Any]) -> list[str]:
    members = [member for member in result["members"] if member is not None]
    products = [member["eigenvalue_products"] for member in members]
    probes = [member["trace_probes"] for member in members]
    notes = [
        f"Evaluation mode, {result['dtype']}; cross-entropy in nats, without smoothing, mixup and augmentation; rises "
        "over the member's own loss within ρ in the 2-norm of all weights: after one ascent step of length ρ, the "
        f"largest seen in {result['steps']} projected steps, the mean over {result['directions']} random directions.",
        f"Eigenvalue: {_between(products)} products with the Hessian a member; trace: {_between(probes)} probes.",
    ]
    if result["left_out"]:
        notes.append(f"Left out, for the loss is not finite: member {', '.join(map(str, result['left_out']))}.")
    if not all(member["eigenvalue_converged"] and member["trace_converged"] for member in members):
        notes.append(
            f"* did not converge: residual above {result['tolerance']:g}, or standard error above "
            f"{result['trace_error']:.0%} after {result['most_probes']} probes"
        )
    return notes


def _between(values: list[int]) -> str:
    return "–".join(dict.fromkeys([str(min(values)), str(max(values))]))


def _short(value: float | None, form: str = ".3g") -> str:
    return "∞" if value is None else format(value, form)


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
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises the latter
        problem = str(error).splitlines()[0]
        raise BadInput(f"device: {name!r} is not allowed; it must be a device of this machine ({problem})") from error
    return device
