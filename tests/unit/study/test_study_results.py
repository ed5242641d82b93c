"""What a study leaves for its readers: what they open, each file once."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

from dist_dash.study.study_results import write_results
from tests.support.reported import with_groups

SELECTION: dict[str, Any] = {
    "score": "nll",
    "split": "validation",
    "seeds": [100],
    "conditions": {"all": {"A": {"chosen": 0, "trials": [{"fields": {}, "scores": [0.5], "mean": 0.5}]}}},
}


def test_results_are_what_a_reader_opens_and_nothing_twice(tmp_path: Path) -> None:
    folder, results = with_groups(tmp_path / "runs", {"A": 1.0, "B": 2.0}), tmp_path / "results"
    choice: Any = SimpleNamespace(as_json=lambda: SELECTION)
    plan: Any = SimpleNamespace(title="A study")
    write_results(plan, choice, folder, results)
    found = {path.name for path in results.iterdir()}
    assert found == {"comparison.csv", "comparison.md", "report", "report.html", "selection.md"}
    names = sorted(path.name for path in (results / "report").iterdir())
    pictures = {name.rpartition(".")[0] for name in names}
    assert names == sorted(f"{picture}.{kind}" for picture in pictures for kind in ("csv", "png"))
    assert len(pictures) == 7
    links = re.findall(r'href="([^"#:]+)"', (results / "report.html").read_text())
    assert {unquote(link) for link in links} == {"comparison.csv", *(f"report/{name}" for name in names)}
    assert "| A | **as given** | **0.5000** |" in (results / "selection.md").read_text()
    assert not (folder / "report").exists()
