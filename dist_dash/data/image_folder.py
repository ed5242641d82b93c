"""Image files in one folder per class, as ImageNet comes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dist_dash.data.data_facts import Outline
from dist_dash.data.decoding import decoded
from dist_dash.data.listing import is_hidden, listed
from dist_dash.data.source import Source, Split, Splits
from dist_dash.errors import BadInput, require, require_count

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageFolder(Source):
    """Images in ROOT/train/CLASS/… and ROOT/val/CLASS/…, in any format that Pillow decodes, as 8-bit RGB.

    16 bits per channel become 8 by their upper byte, floats are taken from 0 … 1, and transparency shows a white
    background; other numbers are refused. Each file is one sample, whatever links lead to it; hidden files and folders
    are passed over. For evaluation the shorter side is resized to `resize` and the centre is cut out.

    Args:
        root: The folder with a subfolder for each split.
        image_size: Height and width of what the net sees, in pixels.
        resize: Length of the shorter side before the centre is cut out, in pixels.
        train: Subfolder with the training images.
        test: Subfolder with the test images; it must have the same class folders.
        validation: Subfolder with validation images, if there are any of their own.
        mean: Replaces ImageNet's mean per channel, in units of x/255.
        std: Replaces ImageNet's standard deviation per channel, in units of x/255.
        exif: Turn images upright as their orientation tag says; TIFF files always are.
    """

    def __init__(
        self,
        root: str,
        image_size: int = 224,
        resize: int = 256,
        train: str = "train",
        test: str = "val",
        validation: str | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        exif: bool = True,
    ) -> None:
        super().__init__(mean, std)
        require_count("data.image_size", image_size)
        require(resize >= image_size, "data.resize", resize, f"at least data.image_size ({image_size})")
        self.root = root
        self.image_size = image_size
        self.resize = resize
        self.train = train
        self.test = test
        self.validation = validation
        self.exif = exif

    def load(self) -> Splits:
        """List the files; none is opened. Raises `BadInput` if folders are missing or empty or their classes differ."""
        if not Path(self.root).is_dir():
            raise BadInput(f"data.root: {self.root!r} is no folder; it must hold {self.train}/ and {self.test}/")
        names = self._class_names("data.train", self.train)
        mean = _IMAGENET_MEAN if self.mean is None else tuple(self.mean)
        std = _IMAGENET_STD if self.std is None else tuple(self.std)
        remarks: list[str] = []
        train = self._split("data.train", self.train, names, remarks)
        test = self._split("data.test", self.test, names, remarks)
        validation = None
        if self.validation is not None:
            validation = self._split("data.validation", self.validation, names, remarks)
        return Splits(train, test, len(names), mean, std, validation, class_names=names, remarks=remarks)

    def _outline(self) -> Outline | None:
        return Outline((3, self.image_size, self.image_size), len(self._class_names("data.train", self.train)), True)

    def _class_names(self, field: str, split: str) -> list[str]:
        folder = Path(self.root) / split
        if not folder.is_dir():
            raise BadInput(f"{field}: {str(folder)!r} is no folder; it must hold one folder of images for each class")
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_hidden(entry.name))
        if not names:
            raise BadInput(f"{field}: {str(folder)!r} has no subfolders; it must hold one folder of images per class")
        return names

    def _split(self, field: str, split: str, class_names: list[str], remarks: list[str]) -> FolderSplit:
        found = self._class_names(field, split)
        if found != class_names:
            differing = sorted(set(found) ^ set(class_names))
            raise BadInput(
                f"{field}: {split!r} and {self.train!r} under {self.root!r} have different class folders, "
                f"for example {differing[0]!r}; they must be the same"
            )
        folder = Path(self.root) / split
        try:
            files, labels, passed_over = listed(folder, class_names)
        except OSError as error:
            raise BadInput(f"{field}: {error.filename!r} cannot be read ({error.strerror})") from error
        empty = sorted(set(range(len(class_names))) - set(labels))
        if empty:
            said = "; ".join(["", *passed_over.remarks()])
            raise BadInput(f"{field}: {str(folder / class_names[empty[0]])!r} has no images; it must hold some{said}")
        remarks += [f"{field}: {remark}" for remark in passed_over.remarks()]
        return FolderSplit(str(folder), files, np.array(labels, np.int64), self.image_size, self.resize, self.exif)


class FolderSplit(Split):
    """Image files below `folder`. `files`: their relative paths, as the file system encodes them."""

    def __init__(
        self, folder: str, files: list[bytes], labels: np.ndarray, image_size: int, resize: int, exif: bool
    ) -> None:
        self.folder = folder
        # One array instead of a million Python strings: reference counts would copy those into every worker.
        self.files = np.array(files, dtype=np.bytes_)
        self.labels = labels
        self.shape = (3, image_size, image_size)
        self.dtype = np.dtype(np.uint8)
        self.resize = resize
        self.exif = exif

    def name(self, index: int) -> str:
        return f"{self.folder}/{os.fsdecode(self.files[index])}"

    def content(self, of: np.ndarray | None = None) -> Iterator[bytes | memoryview]:
        # As wide as the longest of them, not as the longest of all.
        files = self.files if of is None else np.array(self.files[of].tolist(), dtype=np.bytes_)
        yield str(files.dtype).encode()
        yield files.tobytes()

    def read(self, index: int) -> Image.Image:
        return decoded(self.name(index), self.exif)

    def evaluation(self, index: int) -> np.ndarray:
        """Shorter side resized to `resize` (bilinear), centre cut out: uint8 `[3, image_size, image_size]`."""
        image = self.read(index)
        shorter = min(image.size)
        width, height = (max(1, side * self.resize // shorter) for side in image.size)
        target = self.shape[1]
        left, top = round((width - target) / 2), round((height - target) / 2)
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(resized.crop((left, top, left + target, top + target))).transpose(2, 0, 1)
