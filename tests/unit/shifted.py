"""Finished runs without training, small enough to be shifted in a moment."""

from pathlib import Path

import numpy as np
import torch

from dist_dash.ensembles.ensemble import save_member, save_spec
from dist_dash.models.network import seeded_network
from dist_dash.recipe.parsing import parse_command
from dist_dash.runs.folder import RunFolder

RECIPE = ["--optimizer=torch.optim.SGD", "--optimizer.lr=0.1", "--engine=Torch", "--model=MLP", "--model.hidden=8"]


def finished(path: Path, members: int, *arguments: str, gain: float = 8.0) -> Path:
    """A run of networks that are drawn by chance; `gain` makes them surer of what they say."""
    folder = RunFolder(path)
    folder.ensemble.mkdir(parents=True)
    command = parse_command([*RECIPE, *arguments, f"--members={members}"])
    folder.recipe.write_text(command.as_yaml())
    splits = command.recipe.data.load()
    statistics = splits.mean, splits.std, splits.uint8
    for member in range(members):
        network = seeded_network(member, command.recipe.model, splits.shape, splits.classes, *statistics)
        with torch.no_grad():
            list(network.parameters())[-2].mul_(gain)
        save_member(folder.ensemble / RunFolder.weights(member), network)
    specs = [
        {"file": RunFolder.weights(member), "architecture": command.resolved["model"]} for member in range(members)
    ]
    names = {"classes": splits.classes, "class_names": splits.class_names, "shape": list(splits.shape)}
    names |= {"mean": list(splits.mean), "std": list(splits.std), "uint8": splits.uint8}
    save_spec(folder.ensemble, specs, **names, data=splits.facts.as_json())
    return path


def vectors(path: Path, validation: bool = False, train: int = 60) -> list[str]:
    """An .npz file of vectors of 5 features; the arguments that use it."""
    rng = np.random.default_rng(0)
    parts = {"train": train, "test": 31, **({"val": 20} if validation else {})}
    arrays = {f"x_{part}": rng.normal(size=(n, 5)).astype(np.float32) for part, n in parts.items()}
    np.savez(path, **arrays, **{f"y_{part}": np.arange(n) % 3 for part, n in parts.items()})
    return ["--data=Arrays", f"--data.path={path}"]


SYNTHETIC = ["--data=Synthetic", "--data.size=8", "--data.train=40", "--data.test=30", "--data.classes=4"]
