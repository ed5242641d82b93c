"""Finished runs of small members, without training; their data are an .npz file beside them."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dist_dash.ensembles.ensemble import save_member, save_spec
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.models import SmallCNN
from dist_dash.models.architecture import Architecture
from dist_dash.models.network import seeded_network
from dist_dash.recipe.parsing import parse_command

SHAPE, CLASSES, MEAN, STD = (1, 6, 6), 4, (0.4,), (0.3,)


def finished_run(
    path: Path, architectures: Sequence[Architecture] | None = None, seed: int = 0, arguments: Sequence[str] = ()
) -> tuple[FinishedRun, list[nn.Module]]:
    """A run of these members (three small convolutional ones by default) and the members, in evaluation mode."""
    architectures = [SmallCNN(width=2)] * 3 if architectures is None else architectures
    (path / "ensemble").mkdir(parents=True)
    write_data(path.parent / "data.npz")
    networks, members = [], []
    for index, architecture in enumerate(architectures):
        network = seeded_network(10 * seed + index, architecture, SHAPE, CLASSES, MEAN, STD, True)
        network(torch.from_numpy(images(40, seed=index)))  # moves the batch-norm statistics
        file = f"member_{index:02d}.safetensors"
        save_member(path / "ensemble" / file, network)
        networks.append(network.eval())
        spec = {"class_path": f"dist_dash.models.{type(architecture).__name__}", "init_args": vars(architecture)}
        members.append({"file": file, "architecture": spec})
    given = ["--data=Arrays", f"--data.path={path.parent / 'data.npz'}", "--model=SmallCNN", "--optimizer=SGD"]
    command = parse_command([*given, "--optimizer.lr=0.1", "--loader.batch_size=8", *arguments])
    (path / "recipe.yaml").write_text(command.as_yaml(len(networks)))
    names = {"shape": list(SHAPE), "classes": CLASSES, "class_names": None}
    facts = command.recipe.data.load().facts.as_json()
    save_spec(path / "ensemble", members, **names, mean=list(MEAN), std=list(STD), uint8=True, data=facts)
    return FinishedRun(path), networks


def write_data(path: Path) -> None:
    """60 training and 45 test samples; the classes differ, so that a network could learn them."""
    arrays = {}
    for part, n, seed in (("train", 60, 20), ("test", 45, 21)):
        arrays[f"x_{part}"] = images(n, seed)
        arrays[f"y_{part}"] = np.random.default_rng(seed + 50).integers(CLASSES, size=n)
    np.savez(path, **arrays)


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(n, *SHAPE), dtype=np.uint8)


def write_flatness(run: FinishedRun, members: Sequence[dict | None], **settings: object) -> None:
    """A `flatness.json`: what is not given of a member is 1."""
    names = ("one_step_rise", "worst_rise", "eigenvalue", "trace", "trace_error")
    known = {"split": "train", "samples": 50, "rho": 0.05, "steps": 5, "seed": 0, "dtype": "float64"}
    found = [None if member is None else {**dict.fromkeys(names, 1.0), **member} for member in members]
    run.folder.flatness.write_text(json.dumps({**known, **settings, "members": found}))


def write_trace(run: FinishedRun, step: int, log_probs: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> None:
    run.folder.trace.mkdir(exist_ok=True)
    np.savez(run.folder.trace_at(step), log_probs=log_probs.astype(np.float32), labels=labels, ids=ids)
