"""The table of `flatness.json` for the terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text


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
