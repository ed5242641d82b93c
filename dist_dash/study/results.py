"""What a study leaves for its readers: what was chosen, the comparison, the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dist_dash.run_folder import write_atomically
from dist_dash.study.choice import Choice
from dist_dash.study.plan import Plan


def write_results(plan: Plan, choice: Choice, folder: Path, results: Path) -> None:
    """Write the results of a finished study.

    Args:
        plan: the study.
        choice: its settings.
        folder: of its runs.
        results: where to.
    """
    results.mkdir(parents=True, exist_ok=True)
    write_atomically(results / "selection.md", selection_as_markdown(plan, choice.as_json()))


def selection_as_markdown(plan: Plan, selection: dict[str, Any]) -> str:
    """Every trial with its validation score, the chosen one in bold: one table a condition."""
    lines = [f"# {plan.title}: how settings were chosen", ""]
    seeds = ", ".join(map(str, selection["seeds"]))
    lines += [
        f"By `{selection['score']}` of the ensemble on the {selection['split']} split, mean over seeds {seeds}.",
        "",
    ]
    for condition, methods in selection["conditions"].items():
        lines += [f"## {condition}", "", f"| method | setting | {selection['score']} |", "|---|---|---|"]
        for method, found in methods.items():
            for number, trial in enumerate(found["trials"]):
                mark = "**" if number == found["chosen"] else ""
                setting = ", ".join(f"{name} {value}" for name, value in trial["fields"].items()) or "as given"
                lines.append(f"| {method} | {mark}{setting}{mark} | {mark}{trial['mean']:.4f}{mark} |")
        lines.append("")
    return "\n".join(lines)
