"""Corrupted samples as published: the arrays of CIFAR-10-C and CIFAR-100-C, the folders of ImageNet-C."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from dist_dash.analysis.shift.corruptions import SEVERITIES
from dist_dash.analysis.shift.image import PUBLISHED, published_side
from dist_dash.data.dataset import DataSet
from dist_dash.data.image_folder import FolderSplit
from dist_dash.data.source import Split, UnreadableSample
from dist_dash.errors import BadInput
from dist_dash.runs.record import say


class Published(ABC):
    """A folder of corrupted samples.

    Args:
        folder: as `--published` names it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def split(self, kind: str, severity: int) -> Split:
        """All its samples of a corruption and severity 1 … 5, in the same order for all of them."""

    @abstractmethod
    def follows(self, test: Split) -> bool:
        """Whether its sample i is a corrupted copy of sample i of the test split."""


def published(given: str, kinds: Sequence[str], severities: Sequence[int], data: DataSet) -> Published:
    """What lies in a folder, looked at before anything is measured.

    Args:
        given: the folder.
        kinds: corruptions that are wanted.
        severities: the same.
        data: of the run, which decide what the labels mean.

    Raises:
        BadInput: something is missing, or does not fit the run's data.
    """
    folder = Path(given)
    if not folder.is_dir():
        raise BadInput(f"published: {given} is no folder; it must hold arrays as CIFAR-10-C, or folders as ImageNet-C")
    if not data.uint8:
        raise BadInput("published: these samples are bytes; the run's data are floating-point numbers")
    if any(folder.glob("*.npy")):
        return _Arrays(folder, kinds, data.classes)
    return _Folders(folder, kinds, severities, data)


def severities_from(found: Published | None, shape: tuple[int, ...]) -> str:
    """What a severity means, for samples of a shape; numbers that differ in this cannot be compared."""
    if found is not None:
        return f"published samples of {found.folder.resolve().name}"
    return f"{PUBLISHED[published_side(shape)]}, made by dist-dash"


def _lacking(folder: Path, kind: str, found: Sequence[str]) -> BadInput:
    held = ", ".join(sorted(found)) or "no corruption"
    return BadInput(f"published: {folder} lacks {kind}; it holds {held} (choose by --corruptions)")


# -- arrays ------------------------------------------------------------------------------------------------------------


class _Arrays(Published):
    """`KIND.npy`, bytes `[5 N, H, W, C]`, one severity after the other, and `labels.npy`, `[5 N]` or `[N]`."""

    def __init__(self, folder: Path, kinds: Sequence[str], classes: int) -> None:
        super().__init__(folder)
        labels = _mapped(folder / "labels.npy")
        if labels.ndim != 1 or labels.dtype.kind not in "ui" or not len(labels):
            raise BadInput(f"published: labels.npy holds {labels.dtype} {labels.shape}; it must hold whole numbers [N]")
        lengths = {len(labels), 5 * len(labels)}
        for kind in kinds:
            path = folder / f"{kind}.npy"
            if not path.is_file():
                raise _lacking(folder, kind, [file.stem for file in folder.glob("*.npy") if file.stem != "labels"])
            found = _mapped(path)
            if found.dtype != np.uint8 or found.ndim != 4 or len(found) not in lengths:
                raise BadInput(
                    f"published: {kind}.npy holds {found.dtype} {found.shape}; it must hold uint8 [5 N, H, W, C] for "
                    f"the {len(labels)} labels"
                )
            lengths = {len(found)}  # the same for all
        count = len(found) // len(SEVERITIES)
        blocks = labels.astype(np.int64).reshape(-1, count) if len(labels) % count == 0 else labels[None]
        if blocks.shape[1] != count or (blocks != blocks[0]).any():
            raise BadInput("published: labels.npy differs between severities; it must repeat itself five times")
        if blocks.min() < 0 or blocks.max() >= classes:
            raise BadInput(f"published: label {blocks.max()} in labels.npy; the run knows the classes 0…{classes - 1}")
        self.labels = blocks[0]

    def split(self, kind: str, severity: int) -> Split:
        return _ArraySplit(self.folder / f"{kind}.npy", severity, self.labels)

    def follows(self, test: Split) -> bool:
        return np.array_equal(self.labels, test.labels)


class _ArraySplit(Split):
    """One severity of an array; never in memory as a whole."""

    def __init__(self, path: Path, severity: int, labels: NDArray[np.int64]) -> None:
        self.path = path
        self.first = (severity - 1) * len(labels)
        self.labels = labels
        _, height, width, channels = self.array.shape
        self.shape = (channels, height, width)
        self.dtype = np.dtype(np.uint8)

    @cached_property
    def array(self) -> NDArray:
        """Of all severities."""
        return _mapped(self.path)

    def __getstate__(self) -> dict[str, Any]:
        # A process that reads maps the file itself: what is handed over would be a copy.
        return {name: value for name, value in vars(self).items() if name != "array"}

    def read(self, index: int) -> NDArray[np.uint8]:
        return np.array(self.array[self.first + index].transpose(2, 0, 1))

    def name(self, index: int) -> str:
        return f"{self.path}[{self.first + index}]"


def _mapped(path: Path) -> NDArray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(f"published: {path} cannot be read as an array: {' '.join(str(error).split())}") from error


# -- folders -----------------------------------------------------------------------------------------------------------


class _Folders(Published):
    """`KIND/SEVERITY/CLASS/FILE`, or the same in folders of kinds (`noise/KIND/…`); classes by the run's names."""

    def __init__(self, folder: Path, kinds: Sequence[str], severities: Sequence[int], data: DataSet) -> None:
        super().__init__(folder)
        if data.class_names is None:
            raise BadInput("published: folders of classes need the names of the run's classes, which it does not know")
        self.names = list(data.class_names)
        inner = [path for path in folder.iterdir() if path.is_dir()]
        self.kinds = {path.name: path for path in [*inner, *(one for path in inner for one in path.iterdir())]}
        unknown: set[str] = set()
        for kind in kinds:
            if not (self.kinds.get(kind, folder) / str(severities[0])).is_dir():
                held = [name for name, path in self.kinds.items() if (path / str(SEVERITIES[0])).is_dir()]
                raise _lacking(folder, kind, held)
            for severity in severities:
                path = self.kinds[kind] / str(severity)
                found = {entry.name for entry in path.iterdir() if entry.is_dir()} if path.is_dir() else set()
                missing = [name for name in self.names if name not in found]
                if missing:
                    raise BadInput(f"published: {path} has no folder of the class {missing[0]!r}, which the run knows")
                unknown |= found - set(self.names)
        if unknown:
            say(f"shift: {len(unknown)} class folders that the run does not know are passed over, as {min(unknown)!r}")
        self.first = self._listed(kinds[0], severities[0])

    def split(self, kind: str, severity: int) -> Split:
        found = self._listed(kind, severity)
        if not (np.array_equal(found.labels, self.first.labels) and _stems(found) == _stems(self.first)):
            raise BadInput(
                f"published: {found.folder} holds other images than {self.first.folder}; they must be the same"
            )
        return found

    def _listed(self, kind: str, severity: int) -> _ImagesAsTheyAre:
        where = self.kinds[kind] / str(severity)
        files: list[bytes] = []
        labels: list[int] = []
        for label, name in enumerate(self.names):
            entries = [entry.name for entry in os.scandir(where / name) if entry.is_file() and entry.name[0] != "."]
            files += sorted(os.fsencode(f"{name}/{entry}") for entry in entries)
            labels += [label] * len(entries)
        if not files:
            raise BadInput(f"published: {where} holds no images")
        return _ImagesAsTheyAre(str(where), files, np.array(labels, np.int64))

    def follows(self, test: Split) -> bool:
        return np.array_equal(self.first.labels, test.labels) and _stems(self.first) == _stems(test)


class _ImagesAsTheyAre(FolderSplit):
    """Image files of one size, neither resized nor cut: they were, before they were corrupted."""

    def __init__(self, folder: str, files: list[bytes], labels: NDArray[np.int64]) -> None:
        super().__init__(folder, files, labels, 1, 1, exif=False)
        try:
            with Pillow.open(self.name(0)) as image:
                self.shape = (3, image.height, image.width)
        except OSError as error:
            raise BadInput(f"published: {self.name(0)} cannot be read as an image") from error

    def evaluation(self, index: int) -> NDArray[np.uint8]:
        found = np.asarray(self.read(index)).transpose(2, 0, 1)
        if found.shape != self.shape:
            raise UnreadableSample(self.name(index), f"has the shape {found.shape}, and the first image {self.shape}")
        return found


def _stems(split: Split) -> list[str]:
    return [Path(split.name(index)).stem for index in range(len(split))]
