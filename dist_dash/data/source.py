"""What a data set is to the trainer: splits of N stored samples, and the configuration that loads them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from dist_dash.data.channel_statistics import check_override, check_statistics
from dist_dash.data.data_facts import DataFacts, Outline, SplitFacts, digest_of
from dist_dash.errors import BadInput, require

SMALL = 64 * 2**20  # bytes that may be read merely to learn what the data look like


class UnreadableSample(Exception):
    """A sample cannot be read: `name` says which, `reason` why, in one line. The loader decides what follows."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason


class Split(ABC):
    """N samples of one split.

    `labels`: int64 `[N]`, known without reading a pixel. `shape`: of a sample as the net gets it, `(C, H, W)` or
    `(F,)`. `dtype`: of the stored values, uint8 or float32.
    """

    labels: np.ndarray
    shape: tuple[int, ...]
    dtype: np.dtype

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index: int) -> np.ndarray | Image.Image:
        """The stored sample: an array of `shape` and `dtype`, or an RGB image. Raises `UnreadableSample`."""

    def evaluation(self, index: int) -> np.ndarray:
        """The sample without chance, as it is evaluated: an array of `shape` and `dtype`. Raises `UnreadableSample`."""
        return np.asarray(self.read(index))

    def name(self, index: int) -> str:
        """What a person would look for to find this sample."""
        return f"sample {index}"

    @property
    def nbytes(self) -> int | None:
        """What the samples take in memory; None where they are read when they are needed."""
        return None

    @property
    def values(self) -> tuple[float, float] | None:
        """The least and the greatest value of floating-point samples; None of bytes, or where they lie on disk."""
        return None

    def content(self, of: np.ndarray | None = None) -> Iterator[bytes | memoryview]:
        """What distinguishes the samples `of` these positions (None: all) from others, beside their labels.

        Their names, without the place where all of them lie; or the values in memory.
        """
        chosen = range(len(self)) if of is None else of
        yield from (os.fsencode(self.name(int(index))) + b"\0" for index in chosen)


class ArraySplit(Split):
    """Samples in memory. `samples`: uint8 or float32, `[N, C, H, W]` or `[N, F]`; `labels`: integers `[N]`."""

    def __init__(self, samples: np.ndarray, labels: np.ndarray) -> None:
        self.samples = samples
        self.labels = labels.astype(np.int64)
        self.shape = samples.shape[1:]
        self.dtype = samples.dtype

    def read(self, index: int) -> np.ndarray:
        return self.samples[index]

    @property
    def nbytes(self) -> int | None:
        return self.samples.nbytes

    @property
    def values(self) -> tuple[float, float] | None:
        return None if self.dtype.kind != "f" else (float(self.samples.min()), float(self.samples.max()))

    def content(self, of: np.ndarray | None = None) -> Iterator[bytes | memoryview]:
        samples = self.samples if of is None else self.samples[of]
        yield f"{samples.dtype} {samples.shape}".encode()
        yield np.ascontiguousarray(samples).data.cast("B")


class SubsetSplit(Split):
    """A view: sample i is `indices[i]` of `base`. `labels` (int64, one per index) replace those of `base` if given."""

    def __init__(self, base: Split, indices: np.ndarray, labels: np.ndarray | None = None) -> None:
        self.base = base
        self.indices = indices
        self.labels = base.labels[indices] if labels is None else labels
        self.shape = base.shape
        self.dtype = base.dtype

    def read(self, index: int) -> np.ndarray | Image.Image:
        return self.base.read(int(self.indices[index]))

    def evaluation(self, index: int) -> np.ndarray:
        return self.base.evaluation(int(self.indices[index]))

    def name(self, index: int) -> str:
        return self.base.name(int(self.indices[index]))

    @property
    def nbytes(self) -> int | None:
        return self.base.nbytes

    @property
    def values(self) -> tuple[float, float] | None:
        return self.base.values

    def content(self, of: np.ndarray | None = None) -> Iterator[bytes | memoryview]:
        yield from self.base.content(self.indices if of is None else self.indices[of])


@dataclass
class Splits:
    """A loaded data set.

    `mean` and `std` have one value per channel (a single one for `[F]` samples), in units of x/255 for uint8 data and
    of the raw values for float data. `validation` is `None` unless the data bring their own. `heads` are the numbers of
    classes of each task, for networks with several heads: their logits `[n, classes]` are cut into these pieces; by
    default there is one head with all classes. `remarks` are lines for the user, such as which files were passed over.
    Raises `BadInput` if there is no sample, there are fewer than 2 classes, the heads do not add up to the classes, or
    a label is not in 0 … classes-1.
    """

    train: Split
    test: Split
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    validation: Split | None = None
    class_names: list[str] | None = None
    heads: tuple[int, ...] = ()
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise BadInput(f"data: {self.classes} class(es) found in the training labels; at least 2 are needed")
        self.heads = tuple(self.heads) or (self.classes,)
        allowed = f"numbers ≥ 2 that add up to the {self.classes} classes"
        require(min(self.heads) >= 2 and sum(self.heads) == self.classes, "data.heads", self.heads, allowed)
        check_statistics(self.mean, self.std, self.shape)
        for name, split in self.parts().items():
            if len(split) == 0:
                raise BadInput(f"data: the {name} split has 0 samples; at least 1 is needed")
            wrong = split.labels[(split.labels < 0) | (split.labels >= self.classes)]
            if len(wrong):
                raise BadInput(f"data: label {wrong[0]} in the {name} split; labels must lie in 0 … {self.classes - 1}")
            if split.shape != self.train.shape or split.dtype != self.train.dtype:
                raise BadInput(
                    f"data: the {name} split has samples {split.shape} {split.dtype}; "
                    f"the training split has {self.train.shape} {self.train.dtype}, and they must agree"
                )

    def parts(self) -> dict[str, Split]:
        """The splits that there are, by name: `train`, `test`, `validation`."""
        parts = {"train": self.train, "test": self.test, "validation": self.validation}
        return {name: split for name, split in parts.items() if split is not None}

    @property
    def facts(self) -> DataFacts:
        """What is known of the data; of a large data set in memory, the digests take seconds."""
        parts = self.parts()
        splits = {name: split_facts(name, split, self.classes) for name, split in parts.items()}
        held = [split.nbytes for split in parts.values() if split.nbytes is not None]
        size = sum(held) if held else None
        return DataFacts(self.shape, self.classes, self.class_names, self.uint8, splits, size)

    def with_classes(self, names: Sequence[str]) -> Splits:
        """The samples of these classes, with their numbers in `names`; all of them must be among `class_names`."""
        numbers = numbered(self.class_names or [], names)
        train, test = relabelled(self.train, numbers), relabelled(self.test, numbers)
        validation = None if self.validation is None else relabelled(self.validation, numbers)
        return Splits(train, test, len(names), self.mean, self.std, validation, list(names))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample as the net gets it: `(C, H, W)` or `(F,)`."""
        return self.train.shape

    @property
    def uint8(self) -> bool:
        """Whether the samples are stored as bytes (0 … 255)."""
        return self.train.dtype == np.uint8


def numbered(own: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """For each class in `own` its number in `wanted`, −1 for none: int64 `[classes]`."""
    places = {name: number for number, name in enumerate(wanted)}
    return np.array([places.get(name, -1) for name in own], dtype=np.int64)


def relabelled(split: Split, numbers: np.ndarray) -> SubsetSplit:
    """Samples with `numbers[label]` for labels; those with −1 are left out."""
    labels = numbers[split.labels]
    kept = np.flatnonzero(labels >= 0)
    return SubsetSplit(split, kept, labels[kept])


def split_facts(name: str, split: Split, classes: int) -> SplitFacts:
    """What is known of a split that has this name.

    Args:
        name: `train`, `validation` or `test`.
        split: the samples.
        classes: how many there are.
    """
    digest = digest_of(chain([name.encode(), split.labels.tobytes()], split.content()))
    counts = np.bincount(split.labels, minlength=classes)
    names = None
    if split.nbytes is None:
        by_class = np.split(np.argsort(split.labels, kind="stable"), np.cumsum(counts)[:-1])
        names = [digest_of(split.content(own))[:8] for own in by_class]
    return SplitFacts(digest, counts.tolist(), names)


class Source(ABC):
    """Base class of all data configurations: the constructor checks and keeps its arguments, `load` touches files.

    Args:
        mean: Replaces the mean per channel, in units of x/255 for bytes and of the raw values otherwise.
        std: Replaces the standard deviation per channel, in the same units.
    """

    def __init__(self, mean: list[float] | None = None, std: list[float] | None = None) -> None:
        check_override(mean, std)
        self.mean = mean
        self.std = std

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        if "load" in cls.__dict__ and "_outline" not in cls.__dict__:
            cls._outline = Source._outline  # type: ignore[method-assign]  # it is what another `load` reads

    @abstractmethod
    def load(self) -> Splits:
        """Read what training needs to know of the data. Raises `BadInput`."""

    def outline(self) -> Outline | None:
        """What is known of the data without reading more than 64 MiB; no image file is opened.

        None where more would have to be read, or the data are not here: a login node may not see them.
        """
        try:
            return self._outline()
        except (BadInput, OSError):  # whoever loads the data says what is wrong with them
            return None

    def _outline(self) -> Outline | None:
        """What `outline` returns; may raise `BadInput` and `OSError`. None unless a subclass knows more."""
        return None

    def _outline_of_files(self, path: Path) -> Outline | None:
        """The same of data that lie in a file, or in the files of a folder: read where they are small."""
        files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
        if sum(file.stat().st_size for file in files) > SMALL:
            return None
        splits = self.load()
        return Outline(splits.shape, splits.classes, splits.uint8)
