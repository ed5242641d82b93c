"""What a study leaves for its readers: what was chosen, the comparison, the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dist_dash.comparison.grouping import load_comparison
from dist_dash.comparison.markup import as_markdown
from dist_dash.files import write_atomically
from dist_dash.report.folder_page import report_of_folder
from dist_dash.runs.folder import PAGE
from dist_dash.runs.record import say
from dist_dash.study.choice import Choice
from dist_dash.study.study_plan import StudyPlan


def write_results(plan: StudyPlan, choice: Choice, folder: Path, results: Path) -> None:
    """Write the results of a finished study, each once: what a reader opens, and what a repository may keep.

    That is the page `report.html`, its pictures and their numbers in `report/`, the tables as `comparison.md` and
    `comparison.csv`, and every setting that was tried as `selection.md`.

    Args:
        plan: the study.
        choice: its settings.
        folder: of its runs.
        results: where to.
    """
    results.mkdir(parents=True, exist_ok=True)
    write_atomically(results / "selection.md", selection_as_markdown(plan, choice.as_json()))
    write_atomically(results / "comparison.md", as_markdown(load_comparison([folder])))
    say("study: drawing the report")
    report_of_folder(folder, results / PAGE, to_keep=True)
    say(f"study: finished; {results / PAGE} has the answer, {results / 'comparison.md'} the tables")


def selection_as_markdown(plan: StudyPlan, selection: dict[str, Any]) -> str:
    """Every trial with its validation score, the chosen one in bold: one table a condition."""
    seeds, split = ", ".join(map(str, selection["seeds"])), selection["split"]
    rule = f"By `{selection['score']}` of the ensemble on the {split} split, mean over seeds {seeds}."
    lines = [f"# {plan.title}: how settings were chosen", "", rule, ""]
    for condition, methods in selection["conditions"].items():
        lines += [f"## {condition}", "", f"| method | setting | {selection['score']} |", "|---|---|---|"]
        for method, found in methods.items():
            for number, trial in enumerate(found["trials"]):
                mark = "**" if number == found["chosen"] else ""
                setting = ", ".join(f"{name} {value}" for name, value in trial["fields"].items()) or "as given"
                lines.append(f"| {method} | {mark}{setting}{mark} | {mark}{trial['mean']:.4f}{mark} |")
        lines.append("")
    return "\n".join(lines)
