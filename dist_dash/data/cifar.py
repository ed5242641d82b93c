"""CIFAR-10 and CIFAR-100 in their binary version: no pickle, so a downloaded archive cannot run code."""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path

import numpy as np

from dist_dash.data.channel_statistics import channel_statistics
from dist_dash.data.data_facts import Outline
from dist_dash.data.source import ArraySplit, Source, Splits
from dist_dash.errors import BadInput

_PIXELS = 3 * 32 * 32


class _CIFAR(Source):
    """Records of label bytes and 3072 pixel bytes (red, green, blue plane); the last label byte is the class."""

    folder: str
    archive: str
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    names_file: str
    label_bytes: int
    classes: int

    def __init__(self, root: str, mean: list[float] | None = None, std: list[float] | None = None) -> None:
        super().__init__(mean, std)
        self.root = root

    def load(self) -> Splits:
        contents = self._contents()
        train = self._split(contents, self.train_files)
        test = self._split(contents, self.test_files)
        mean, std = channel_statistics(train.samples, self.mean, self.std)
        names = contents.get(self.names_file, b"").decode("utf-8", "replace").split()
        return Splits(train, test, self.classes, mean, std, class_names=names if len(names) == self.classes else None)

    def _outline(self) -> Outline | None:
        return Outline((3, 32, 32), self.classes, True)

    def _contents(self) -> dict[str, bytes]:
        """File name → bytes, of those files of interest that exist."""
        wanted = [*self.train_files, *self.test_files, self.names_file]
        root = Path(self.root)
        try:
            for folder in (root, root / self.folder):
                if (folder / self.test_files[0]).is_file():
                    return {name: (folder / name).read_bytes() for name in wanted if (folder / name).is_file()}
            archive = root if root.is_file() else root / self.archive
            if archive.is_file():
                with tarfile.open(archive, "r:gz") as tar:
                    members = {Path(member.name).name: member for member in tar.getmembers() if member.isfile()}
                    files = {name: tar.extractfile(members[name]) for name in wanted if name in members}
                    return {name: file.read() for name, file in files.items() if file is not None}
        except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
            reason = " ".join(str(error).split())
            raise BadInput(f"data.root: {self.root!r} cannot be read: {reason}") from error
        raise BadInput(
            f"data.root: {self.root!r} has no {self.folder}/{self.test_files[0]} and no {self.archive}; "
            "it must be a folder with one of them (the binary version of the data set)"
        )

    def _split(self, contents: dict[str, bytes], names: tuple[str, ...]) -> ArraySplit:
        size = self.label_bytes + _PIXELS
        records = []
        for name in names:
            data = contents.get(name)
            if data is None:
                raise BadInput(f"data.root: {self.root!r} lacks the file {name}; it must hold {', '.join(names)}")
            if len(data) == 0 or len(data) % size:
                raise BadInput(
                    f"data.root: {name} in {self.root!r} has {len(data)} bytes; "
                    f"it must have a positive multiple of {size} (is it cut short?)"
                )
            records.append(np.frombuffer(data, np.uint8).reshape(-1, size))
        table = np.concatenate(records)
        samples = np.ascontiguousarray(table[:, self.label_bytes :]).reshape(-1, 3, 32, 32)
        return ArraySplit(samples, table[:, self.label_bytes - 1])


class CIFAR10(_CIFAR):
    """CIFAR-10, binary version: 32 × 32 colour images in 10 classes. Nothing is downloaded.

    Args:
        root: A folder with the folder cifar-10-batches-bin or the archive cifar-10-binary.tar.gz, or either of these
            itself.
        mean: Replaces the mean per channel, in units of x/255.
        std: Replaces the standard deviation per channel, in units of x/255.
    """

    folder = "cifar-10-batches-bin"
    archive = "cifar-10-binary.tar.gz"
    train_files = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
    test_files = ("test_batch.bin",)
    names_file = "batches.meta.txt"
    label_bytes = 1
    classes = 10


class CIFAR100(_CIFAR):
    """CIFAR-100, binary version: 32 × 32 colour images in 100 classes (the fine labels). Nothing is downloaded.

    Args:
        root: A folder with the folder cifar-100-binary or the archive cifar-100-binary.tar.gz, or either of these
            itself.
        mean: Replaces the mean per channel, in units of x/255.
        std: Replaces the standard deviation per channel, in units of x/255.
    """

    folder = "cifar-100-binary"
    archive = "cifar-100-binary.tar.gz"
    train_files = ("train.bin",)
    test_files = ("test.bin",)
    names_file = "fine_label_names.txt"
    label_bytes = 2
    classes = 100
