"""A tiny study for tests, and changes to it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

STUDY: dict[str, Any] = {
    "members": 2,
    "seeds": [0],
    "baselines": ["Plain"],
    "selection": {"score": "nll", "seeds": [100]},
    "conditions": {"clean": {"labels.noise": 0.0}, "20 % wrong": {"labels.noise": 0.2}},
    "methods": {
        "Plain": {"fields": {"method": "SGD"}, "trials": [{"optimizer.weight_decay": 0.0001}]},
        "Flat": {"fields": {"method": "SAM"}, "trials": [{"method.rho": 0.1}]},
        "DASH, joint": {"fields": {"method": "DASH", "method.ascent": "joint"}, "trials": [{"method.rho_loss": 0.1}]},
    },
    "recipe": {
        "data": "Digits",
        "labels": {"validation": 0.25},
        "model": {"class_path": "MLP", "init_args": {"hidden": 8}},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05}},
        "engine": "Torch",
        "loader": {"batch_size": 256},
        "max_steps": 3,
        "record": {"progress": False, "every": 1},
    },
}


def changed(*path: str, to: Any) -> dict[str, Any]:
    """The tiny study with one entry replaced; `to=...` removes it."""
    study = copy.deepcopy(STUDY)
    place: Any = study
    for name in path[:-1]:
        place = place[name]
    if to is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return study


def written(folder: Path, study: dict[str, Any] | str, name: str = "tiny.yaml") -> Path:
    """The study as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(study if isinstance(study, str) else yaml.safe_dump(study, sort_keys=False))
    return path
