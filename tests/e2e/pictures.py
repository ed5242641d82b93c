"""Networks and data of a user's own, right and wrong, for whole runs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor, nn

from dist_dash.data import ImageFolder
from dist_dash.data.source import Splits

CLASSES = ("ant", "bee", "cat")


def picture_folder(root: Path, per_class: int = 12) -> list[str]:
    """Small pictures in a folder per class and split; the arguments that train on them."""
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(per_class):
                pixels = draw.integers(0, 128, (10, 12, 3), dtype=np.uint8)
                pixels[..., label] += 100
                Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    return [
        "--data=ImageFolder",
        f"--data.root={root}",
        "--data.image_size=8",
        "--data.resize=8",
        "--loader.batch_size=6",
        "--labels.noise=0",
    ]


def vectors(path: Path, classes: int, seed: int = 0) -> list[str]:
    """An .npz file of vectors; the arguments that train on it."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(classes, 5))
    arrays = {}
    for part, samples in (("train", 120), ("test", 40)):
        labels = np.arange(samples) % classes
        arrays[f"y_{part}"] = labels
        arrays[f"x_{part}"] = (centres[labels] + draw.normal(size=(samples, 5))).astype(np.float32)
    np.savez(path, **arrays)
    return ["--data=Arrays", f"--data.path={path}", "--augment.pad_crop=0"]


def two_too_many(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), classes + 2))


def needs_other_data(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(7, classes))


class Linear(nn.Module):
    """A network of the user's own that suits."""

    def __init__(self, shape: tuple[int, ...], classes: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale, self.layer = scale, nn.Linear(int(np.prod(shape)), classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.layer(x.flatten(1))


class LocalCopy(ImageFolder):
    """Pictures of which every node has a copy of its own, in ROOT/RANK."""

    def load(self) -> Splits:
        return ImageFolder(f"{self.root}/{os.environ['RANK']}", self.image_size, self.resize).load()


def lazy(shape: tuple[int, ...], classes: int, dropout: float = 0.0) -> nn.Module:
    """A network whose weights are drawn when it sees its first samples."""
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.Dropout(dropout), nn.LazyLinear(classes))
