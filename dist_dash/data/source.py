"""What a data set is to the trainer: splits of N stored samples, and the configuration that loads them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from dist_dash.data.channel_statistics import check_override, check_statistics
from dist_dash.data.data_facts import DataFacts, Outline, digest_of
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

    def content(self) -> Iterator[bytes | memoryview]:
        """What distinguishes these samples from others, beside their labels: names, or the values in memory."""
        yield from (os.fsencode(self.name(index)) + b"\0" for index in range(len(self)))


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

    def content(self) -> Iterator[bytes | memoryview]:
        yield f"{self.samples.dtype} {self.samples.shape}".encode()
        yield np.ascontiguousarray(self.samples).data.cast("B")


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

    def content(self) -> Iterator[bytes | memoryview]:
        yield from self.base.content()
        yield self.indices.tobytes()


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
        """What is known of the data; of a large data set in memory, the digest takes seconds."""
        parts = self.parts()
        contents = (chain([name.encode(), split.labels.tobytes()], split.content()) for name, split in parts.items())
        counts = {name: len(split) for name, split in parts.items()}
        held = [split.nbytes for split in parts.values() if split.nbytes is not None]
        digest = digest_of(self.classes, self.class_names, contents)
        size = sum(held) if held else None
        return DataFacts(self.shape, self.classes, self.class_names, self.uint8, counts, size, digest)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample as the net gets it: `(C, H, W)` or `(F,)`."""
        return self.train.shape

    @property
    def uint8(self) -> bool:
        """Whether the samples are stored as bytes (0 … 255)."""
        return self.train.dtype == np.uint8


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
