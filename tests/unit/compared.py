"""Finished runs with figures of one's choice, without a run."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dist_dash.comparison.grouping import Comparison, load_comparison

ARGUMENTS: dict[str, dict[str, Any]] = {
    "SGD": {},
    "SAM": {"rho": 0.05},
    "DASH": {"rho_loss": 0.1, "rho_div": 0.3, "ascent": "separate"},
}
RECIPE: dict[str, Any] = {
    "data": {"class_path": "dist_dash.data.Digits", "init_args": {"test_fraction": 0.25, "seed": 0}},
    "model": {"class_path": "dist_dash.models.MLP", "init_args": {"hidden": 16}},
    "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
    "engine": {"class_path": "dist_dash.member.engine.Torch", "init_args": {"precision": "fp32"}},
    "method": {"class_path": "dist_dash.methods.SGD", "init_args": {}},
    "loader": {"batch_size": 32, "workers": 0},
    "labels": {"noise": 0.0, "validation": 0.0},
    "record": {"every": 10},
    "checks": {"deadline": 600.0},
    "checkpoints": {"keep": 2},
    "epochs": 4,
    "seed": 0,
    "members": 2,
}
ENVIRONMENT: dict[str, Any] = {
    "packages": {"torch": "2.13.0"},
    "device": "cpu",
    "layout": {"world": 2, "members": 2, "replicas": 1},
    "commit": {"hash": "0123456789abcdef", "changed": False},
}
OLD = ("accuracy", "nll", "brier", "ece", "top5")
SCORES = {
    "accuracy": 0.9,
    "top5": 0.99,
    "nll": 0.4,
    "brier": 0.2,
    "ece": 0.05,
    "ece_mass": 0.06,
    "aac": 0.95,
    "clipped": 0,
    "cal_nll": 0.35,
    "cal_brier": 0.18,
    "cal_ece": 0.02,
    "cal_ece_mass": 0.03,
    "cal_aac": 0.94,
    "temperature": 1.1,
}
DIVERSITY = {
    "disagreement": 0.1,
    "kl": 0.05,
    "error_correlation": 0.6,
    "weight_cosine": 0.01,
    "ambiguity": 0.02,
    "ambiguity_brier": 0.03,
    "mutual_information": 0.04,
}


def run_at(
    path: Path,
    method: str = "SGD",
    seed: int = 0,
    *,
    ensemble: Mapping[str, Any] | None = None,
    diversity: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    lines: list[dict[str, Any]] | None = None,
    **choices: Any,
) -> Path:
    """A finished run; `choices` are fields of the recipe, with __ for the dot: `labels__noise=0.4`."""
    recipe = copy.deepcopy(RECIPE)
    recipe["method"] = {"class_path": f"dist_dash.methods.{method}", "init_args": dict(ARGUMENTS.get(method, {}))}
    recipe["seed"] = seed
    for name, value in choices.items():
        *above, last = name.split("__")
        inner = recipe
        for part in above:
            inner = inner[part]
        inner = inner["init_args"] if "init_args" in inner and last != "class_path" else inner
        inner[last] = value
    scores = {**SCORES, **(ensemble or {})}
    (path / "ensemble").mkdir(parents=True)
    (path / "ensemble/ensemble.json").write_text('{"format": 1}')
    (path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    (path / "environment.json").write_text(json.dumps({**ENVIRONMENT, **(environment or {})}))
    pairs = {"pairwise": {"kl": [[0.0, 0.1], [0.2, 0.0]]}}
    content = {
        "ensemble": scores,
        "members": [scores, scores],
        "member_mean": {name: value + 0.01 if isinstance(value, float) else value for name, value in scores.items()},
        "diversity": {**DIVERSITY, **(diversity or {}), **pairs},
        "split": "test",
        "samples": 449,
        "seed": seed,
        "left_out": [],
        **(evaluation or {}),
    }
    (path / "evaluation.json").write_text(json.dumps(content))
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (lines or train_lines())))
    (path / "DONE").touch()
    return path


def train_lines(seconds: float = 0.01, count: int = 4, every: int = 10) -> list[dict[str, Any]]:
    """A record in which the first line is slow and the second of two members is slower by half."""
    found = []
    for i in range(count):
        own = seconds * (5 if i == 0 else 1)
        timing = {
            "seconds": [own, 1.5 * own],
            "wait": [0.1 * own, 0.3 * own],
            "transfer": [0.05 * own, 0.075 * own],
            "peak_memory_mib": [100.0 + i, 90.0],
        }
        passes = {"forwards": [2.0, 2.0], "backwards": [3.0, 3.0]}
        found.append({"kind": "train", "step": every * (i + 1), "epoch": float(i), **passes, "timing": timing})
        found.append({"kind": "eval", "step": every * (i + 1), "epoch": float(i)})
    return found


def noisy(method: str, seed: int, gain: float = 0.0, noise: float = 0.004) -> dict[str, float]:
    """Scores that go up and down with the seed, and a little with the method."""
    common, own = random.Random(f"{seed}"), random.Random(f"{method}{seed}")
    shift = 0.03 * (common.random() - 0.5)
    found = {}
    for name, value in SCORES.items():
        sign = 1 if name in ("accuracy", "top5", "aac", "cal_aac") else -1
        found[name] = value if name == "clipped" else value + 0.2 * shift + sign * gain + noise * (own.random() - 0.5)
    return found


def study(folder: Path, gains: Mapping[str, float], seeds: int = 5, **choices: Any) -> Path:
    """A run per method and seed below a folder, better by so much than the others."""
    for method, gain in gains.items():
        for seed in range(seeds):
            scores = noisy(method, seed, gain)
            more = {"disagreement": 0.1 + 10 * gain + 0.001 * seed}
            run_at(folder / f"{method}-s{seed}", method, seed, ensemble=scores, diversity=more, **choices)
    return folder


def loaded(folder: Path, **options: Any) -> Comparison:
    return load_comparison([folder], **options)
