"""Finished runs to report on, without a run; and what a test reads out of a page."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dist_dash.metrics.predictions import save_predictions
from dist_dash.metrics.summary import evaluate

RECIPE: dict[str, Any] = {
    "data": {"class_path": "dist_dash.data.Digits", "init_args": {"test_fraction": 0.25, "seed": 0, "mean": None}},
    "model": {"class_path": "dist_dash.models.SmallCNN", "init_args": {"width": 16, "norm": "batch"}},
    "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "dampening": 0.0, "nesterov": False}},
    "engine": {"class_path": "dist_dash.member.engine.Torch", "init_args": {"precision": "fp32"}},
    "method": {"class_path": "dist_dash.methods.DASH", "init_args": {"rho_loss": 0.1, "rho_div": 0.3}},
    "models": None,
    "loader": {"batch_size": 32, "accumulation": 1},
    "labels": {"noise": 0.4, "validation": 0.0, "smoothing": 0.0, "mixup": 0.0},
    "epochs": 2,
    "seed": 0,
    "members": 3,
}


def predicted(members: int, samples: int, classes: int, seed: int, skill: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities `[members, samples, classes]` that know something, and labels."""
    draw = np.random.default_rng(seed)
    labels = np.random.default_rng(99).integers(classes, size=samples)  # the same of every seed: one test split
    scores = draw.normal(size=(members, samples, classes)) + draw.normal(size=(samples, classes))
    scores[:, np.arange(samples), labels] += skill
    log_probs = scores - np.logaddexp.reduce(scores, -1, keepdims=True)
    return log_probs.astype(np.float32), labels


def reported_run(
    path: Path,
    members: int = 3,
    samples: int = 60,
    classes: int = 6,
    *,
    seed: int = 0,
    method: str = "DASH",
    skill: float = 2.0,
    kinds: Sequence[str] = ("train", "ascent", "eval"),
    recipe: Mapping[str, Any] | None = None,
    log_probs: np.ndarray | None = None,
) -> Path:
    """A run with everything that is read of it; its ensemble and its data cannot be loaded."""
    found, labels = predicted(members, samples, classes, seed, skill)
    found = found if log_probs is None else log_probs
    (path / "ensemble").mkdir(parents=True)
    (path / "ensemble/ensemble.json").write_text('{"format": 1}')
    choices = {**RECIPE, "seed": seed, "members": members, **(recipe or {})}
    choices["method"] = {**RECIPE["method"], "class_path": f"dist_dash.methods.{method}"}
    (path / "recipe.yaml").write_text(yaml.safe_dump(choices, sort_keys=False))
    environment = {
        "python": "3.11.7",
        "packages": {"dist-dash": "0.1.0", "torch": "2.13.0"},
        "device": "cpu",
        "threads": 1,
        "layout": {"world": members, "members": members, "replicas": 1, "backend": "gloo"},
        "commit": {"hash": "0123456789abcdef", "changed": True},
        "total_steps": 80,
    }
    (path / "environment.json").write_text(json.dumps(environment))
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in record(members, kinds, seed)))
    save_predictions(path / "predictions.npz", found, labels)
    (path / "evaluation.json").write_text(json.dumps(evaluate(found, labels, "test", seed)))
    (path / "trace").mkdir()
    for step in (40, 80):
        early, _ = predicted(members, 12, classes, seed + step)
        kept = {"log_probs": early, "labels": labels[:12], "ids": np.arange(12)}
        np.savez(path / f"trace/step_{step:08d}.npz", **kept)
    (path / "DONE").touch()
    return path


def record(members: int, kinds: Sequence[str], seed: int = 0) -> list[dict[str, Any]]:
    """Eight lines of training, two of ascents and of evaluations."""
    draw, lines = np.random.default_rng(seed), list[dict[str, Any]]()
    for number in range(1, 9):
        step, epoch = 10 * number, number / 4
        seconds = draw.uniform(0.02, 0.03, members) * (5 if number == 1 else 1)
        parts = {name: seconds * share for name, share in (("wait", 0.2), ("transfer", 0.1), ("data", 0.05))}
        timing = {"seconds": seconds, **parts, "compute": 0.65 * seconds, "peak_memory_mib": 400 + draw.random(members)}
        values = {name: draw.random(members).tolist() for name in ("loss", "accuracy", "ascent_cosine")}
        told = {name: list(map(float, value)) for name, value in timing.items()}
        passes = {"forwards": [2.0] * members, "backwards": [3.0] * members}
        lines.append({"kind": "train", "step": step, "epoch": epoch, **values, **passes, "timing": told})
        if number % 4 == 0:
            directions = draw.normal(size=(members, 20))
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            cosines = (directions @ directions.T).tolist()
            lines.append({"kind": "ascent", "step": step, "epoch": epoch, "cosines": cosines})
            scores = [{"accuracy": draw.random(), "nll": draw.random()} for _ in range(members + 1)]
            more = {"split": "test", "ensemble": scores[0], "members": scores[1:], "diversity": {}}
            lines.append({"kind": "eval", "step": step, "epoch": epoch, **more})
    return [line for line in lines if line["kind"] in kinds]


def with_groups(folder: Path, groups: Mapping[str, float], seeds: int = 2, sections: Sequence[str] = ("all",)) -> Path:
    """A folder of runs with a `groups.json`: a group of so much skill for each name."""
    named = {}
    for place, section in enumerate(sections):
        for index, (group, skill) in enumerate(groups.items()):
            for seed in range(seeds):
                name = f"c{place}/g{index}-s{seed}"
                reported_run(
                    folder / name, seed=seed + 10 * place, skill=skill, method=("SGD", "SAM", "DASH")[index % 3]
                )
                named[name] = {"group": group, "section": section}
    content = {"title": "A study", "baselines": [next(iter(groups))], "notes": ["Tuned on nothing."], "runs": named}
    (folder / "groups.json").write_text(json.dumps(content))
    return folder


# -- reading what was written ------------------------------------------------------------------------------------------


def columns_of(path: Path) -> dict[str, list[str]]:
    """A CSV by column; fails where its rows are not all as long as the first."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows
    assert {len(row) for row in rows} == {len(rows[0])}, path
    return {name: [row[place] for row in rows[1:]] for place, name in enumerate(rows[0])}


class Page(HTMLParser):
    """What a page holds: texts and attributes by tag, numbers by their key, and whether tags are closed in order."""

    VOID = ("meta", "link", "img", "br", "wbr")

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.numbers: dict[str, list[float]] = {}
        self.texts: dict[str, list[str]] = {}
        self.unclosed: list[str] = []
        self.raw = text
        self.feed(text)
        self.close()
        assert not self.unclosed, self.unclosed

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.tags.append((tag, known))
        if "data-key" in known and "data-value" in known:
            self.numbers.setdefault(known["data-key"], []).append(float(known["data-value"]))
        if tag not in self.VOID:
            self.unclosed.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed, tag
        assert self.unclosed[-1] == tag, (tag, self.unclosed)
        self.unclosed.pop()

    def handle_data(self, data: str) -> None:
        for tag in set(self.unclosed):
            self.texts.setdefault(tag, []).append(data)

    @property
    def text(self) -> str:
        """All that is read, in one line."""
        return " ".join(" ".join(self.texts["main"]).split())

    def of(self, tag: str) -> list[dict[str, str]]:
        """The attributes of every such tag."""
        return [attributes for name, attributes in self.tags if name == tag]
