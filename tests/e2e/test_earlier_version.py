"""A run that an earlier version stopped, when modules had other names, goes on and reads back."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import yaml

from dist_dash.ensembles.finished import FinishedRun
from dist_dash.recipe.parsing import parse_command
from dist_dash.runs.choices import HARMLESS, under
from tests.e2e.runs import assert_same_run, finish, start

QUICK = ["--max_steps=6", "--schedule=Cosine", "--method.rho_div=0.1"]
EARLIER = {
    "Digits": "dist_dash.data.digits.Digits",
    "MLP": "dist_dash.models.mlp.MLP",
    "DASH": "dist_dash.methods.DASH",
    "Cosine": "dist_dash.schedules.Cosine",
}


def as_earlier(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: as_earlier(inner) for name, inner in value.items()}
    return EARLIER.get(value, value) if isinstance(value, str) else value


def leaves(nested: Any, above: str = "") -> dict[str, Any]:
    """As manifests held recipes: `init_args` is part of a field's name."""
    if not isinstance(nested, dict) or not nested:
        return {above: nested}
    return {k: v for name, inner in nested.items() for k, v in leaves(inner, f"{above}.{name}".lstrip(".")).items()}


def test_a_run_of_an_earlier_version_goes_on_as_if_nothing_had_been_renamed(tmp_path: Path) -> None:
    struck = ["--engine=tests.e2e.faults.Struck", f"--engine.orders={tmp_path / 'orders'}"]
    finish(tmp_path / "whole", 2, 2, *QUICK, *struck)
    (tmp_path / "orders").write_text(f"0 3 {signal.SIGTERM}")
    ranks = start(tmp_path / "run", 2, 2, *QUICK, *struck)
    assert ranks.results(120) == [("value", 75)] * 2, ranks.output(0)
    recipe = as_earlier(yaml.safe_load((tmp_path / "run/recipe.yaml").read_text()))
    (tmp_path / "run/recipe.yaml").write_text(yaml.safe_dump(recipe))
    (manifest,) = tmp_path.glob("run/checkpoints/step_*/manifest.json")
    content = json.loads(manifest.read_text())
    content["recipe"] = {name: value for name, value in leaves(recipe).items() if not under(name, HARMLESS)}
    assert content["recipe"]["method.init_args.rho_div"] == 0.1
    assert content["recipe"]["schedule.class_path"] == EARLIER["Cosine"]
    del content["blake2b"], content["shared"]["metrics_blake2b"], content["shared"]["total_steps"]
    manifest.write_text(json.dumps(content))
    finish(tmp_path / "run", 2, 2, *QUICK, *struck)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())["method"]["class_path"] == "DASH"

    spec = json.loads((tmp_path / "run/ensemble/ensemble.json").read_text())
    for entry in (spec, *spec["members"]):
        del entry["blake2b"]
    assert spec["members"][0]["architecture"]["class_path"] == "MLP"
    (tmp_path / "run/ensemble/ensemble.json").write_text(json.dumps(as_earlier(spec)))
    (tmp_path / "run/recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "run/DONE").write_text("")
    run = FinishedRun(tmp_path / "run")
    assert len(run.ensemble().networks) == 2
    commands = [parse_command(["--config", str(tmp_path / name / "recipe.yaml")]) for name in ("run", "whole")]
    assert commands[0].resolved == commands[1].resolved
    assert run.data().classes == 10
