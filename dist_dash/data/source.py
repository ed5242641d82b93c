"""What a data set is to the trainer: splits of N stored samples, and the configuration that loads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dist_dash.data.channel_statistics import check_override, check_statistics
from dist_dash.errors import BadInput


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


class ArraySplit(Split):
    """Samples in memory. `samples`: uint8 or float32, `[N, C, H, W]` or `[N, F]`; `labels`: integers `[N]`."""

    def __init__(self, samples: np.ndarray, labels: np.ndarray) -> None:
        self.samples = samples
        self.labels = labels.astype(np.int64)
        self.shape = samples.shape[1:]
        self.dtype = samples.dtype

    def read(self, index: int) -> np.ndarray:
        """A view of the stored array."""
        return self.samples[index]


class SubsetSplit(Split):
    """A view: sample i is `indices[i]` of `base`. `labels` (int64, one per index) replace those of `base` if given."""

    def __init__(self, base: Split, indices: np.ndarray, labels: np.ndarray | None = None) -> None:
        self.base = base
        self.indices = indices
        self.labels = base.labels[indices] if labels is None else labels
        self.shape = base.shape
        self.dtype = base.dtype

    def read(self, index: int) -> np.ndarray | Image.Image:
        """The sample of `base` as stored."""
        return self.base.read(int(self.indices[index]))

    def evaluation(self, index: int) -> np.ndarray:
        """The sample of `base` as it evaluates it."""
        return self.base.evaluation(int(self.indices[index]))

    def name(self, index: int) -> str:
        """Its name in `base`."""
        return self.base.name(int(self.indices[index]))


@dataclass
class Splits:
    """A loaded data set.

    `mean` and `std` have one value per channel (a single one for `[F]` samples), in units of x/255 for uint8 data and
    of the raw values for float data. `validation` is `None` unless the data bring their own. Raises `BadInput` if there
    is no sample, there are fewer than 2 classes, or a label is not in 0 … classes-1.
    """

    train: Split
    test: Split
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    validation: Split | None = None
    class_names: list[str] | None = None

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise BadInput(f"data: {self.classes} class(es) found in the training labels; at least 2 are needed")
        check_statistics(self.mean, self.std, self.shape)
        for name, split in (("train", self.train), ("test", self.test), ("validation", self.validation)):
            if split is None:
                continue
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

    @abstractmethod
    def load(self) -> Splits:
        """Read what training needs to know of the data. Raises `BadInput`."""
