"""MNIST and its kin: the IDX format."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from dist_dash.data.channel_statistics import channel_statistics
from dist_dash.data.data_facts import Outline
from dist_dash.data.labels import class_numbers
from dist_dash.data.source import ArraySplit, Source, Splits
from dist_dash.errors import BadInput


class IDX(Source):
    """MNIST, Fashion-MNIST, KMNIST …: grey images in IDX files. Nothing is downloaded.

    Args:
        root: A folder with train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
            t10k-labels-idx1-ubyte; each may end in .gz, and be spelt with a dot before idx.
        mean: Replaces the mean, in units of x/255.
        std: Replaces the standard deviation, in units of x/255.
        first_label: The lowest label, 1 for EMNIST's letters; the classes are class_numbers from it without a gap.
        compact_labels: Take any labels: classes are those that occur in training, named after them.
    """

    def __init__(
        self,
        root: str,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        first_label: int = 0,
        compact_labels: bool = False,
    ) -> None:
        super().__init__(mean, std)
        self.root = root
        self.first_label = first_label
        self.compact_labels = compact_labels

    def load(self) -> Splits:
        (train, train_labels), (test, test_labels) = self._arrays("train"), self._arrays("t10k")
        found = class_numbers({"train": train_labels, "test": test_labels}, self.first_label, self.compact_labels)
        mean, std = channel_statistics(train, self.mean, self.std)
        splits = ArraySplit(train, found.labels["train"]), ArraySplit(test, found.labels["test"])
        return Splits(*splits, found.classes, mean, std, class_names=found.class_names)

    def _outline(self) -> Outline | None:
        return self._outline_of_files(Path(self.root))

    def _arrays(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Images `[N, 1, H, W]` and labels `[N]` of one split."""
        images = self._array(f"{part}-images", dimensions=3)
        labels = self._array(f"{part}-labels", dimensions=1)
        if len(images) != len(labels):
            raise BadInput(
                f"data.root: {self.root!r} has {len(images)} {part} images and {len(labels)} {part} labels; "
                "there must be as many of both"
            )
        return images[:, None], labels

    def _array(self, stem: str, dimensions: int) -> np.ndarray:
        """The unsigned bytes of one file, of as many `dimensions` as asked for and at least one value."""
        path = self._find(stem, dimensions)
        try:
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        except (OSError, EOFError, zlib.error) as error:
            reason = " ".join(str(error).split())
            raise BadInput(f"data.root: {str(path)!r} cannot be read: {reason}") from error
        header = 4 * (1 + dimensions)
        # Two zero bytes, 8 for "unsigned byte", the number of dimensions; then each dimension as a big-endian word.
        if len(data) < header or data[:4] != bytes([0, 0, 8, dimensions]):
            raise BadInput(
                f"data.root: {str(path)!r} starts with bytes {data[:4].hex()!r}; "
                f"an IDX file of unsigned bytes in {dimensions} dimension(s) starts with '000008{dimensions:02x}'"
            )
        shape = [int(length) for length in np.frombuffer(data[4:header], ">u4")]
        values = np.frombuffer(data, np.uint8, offset=header)
        if values.size != math.prod(shape) or values.size == 0:
            raise BadInput(
                f"data.root: {str(path)!r} holds {values.size} values; its header promises {shape}, at least one"
            )
        return values.reshape(shape)

    def _find(self, stem: str, dimensions: int) -> Path:
        spellings = [f"{stem}{mark}idx{dimensions}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
        for name in spellings:
            path = Path(self.root) / name
            if path.is_file():
                return path
        raise BadInput(f"data.root: {self.root!r} has none of {', '.join(spellings)}; one of them must be there")
