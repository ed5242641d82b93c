"""Any data set that fits in memory, as one .npz file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from dist_dash.data.channel_statistics import channel_statistics
from dist_dash.data.data_facts import Outline
from dist_dash.data.labels import class_numbers
from dist_dash.data.source import ArraySplit, Source, Splits
from dist_dash.errors import BadInput


class Arrays(Source):
    """Samples of one .npz file with the arrays x_train, y_train, x_test, y_test and, if you like, x_val, y_val.

    `x_*` are `[N, C, H, W]` or `[N, F]`, uint8 (0 … 255) or floating point; `y_*` are integers `[N]`.

    Args:
        path: The .npz file.
        mean: Replaces the mean per channel, in units of x/255 for bytes and of the raw values otherwise.
        std: Replaces the standard deviation per channel, in the same units.
        first_label: The lowest label; the classes are class_numbers from it without a gap.
        compact_labels: Take any integers as labels: classes are those that occur in training, named after them.
    """

    def __init__(
        self,
        path: str,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        first_label: int = 0,
        compact_labels: bool = False,
    ) -> None:
        super().__init__(mean, std)
        self.path = path
        self.first_label = first_label
        self.compact_labels = compact_labels

    def load(self) -> Splits:
        arrays = self._read()
        self._check_names(arrays)
        parts = [part for part in ("train", "test", "val") if f"x_{part}" in arrays]
        samples = {part: self._samples(arrays, part) for part in parts}
        labels = {part: self._labels(arrays, part) for part in parts}
        found = class_numbers(labels, self.first_label, self.compact_labels)
        splits = {part: ArraySplit(samples[part], found.labels[part]) for part in parts}
        mean, std = channel_statistics(samples["train"], self.mean, self.std)
        names, validation = found.class_names, splits.get("val")
        return Splits(splits["train"], splits["test"], found.classes, mean, std, validation, names)

    def _outline(self) -> Outline | None:
        return self._outline_of_files(Path(self.path))

    def _read(self) -> dict[str, np.ndarray]:
        try:
            # allow_pickle=False: a data file must not be able to run code.
            content = np.load(self.path, allow_pickle=False)
            if not isinstance(content, np.lib.npyio.NpzFile):
                raise BadInput(
                    f"data.path: {self.path!r} holds one bare array; it must be an .npz file with named arrays"
                )
            with content:
                return {name: content[name] for name in content.files}
        except BadInput:
            raise
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            reason = " ".join(str(error).split())
            raise BadInput(f"data.path: {self.path!r} cannot be read as an .npz file: {reason}") from error

    def _check_names(self, arrays: dict[str, np.ndarray]) -> None:
        needed = {"x_train", "y_train", "x_test", "y_test"}
        optional = {"x_val", "y_val"}
        names = set(arrays)
        # A misspelt validation array would otherwise be passed over in silence.
        if needed - names or names - needed - optional or len(names & optional) == 1:
            raise BadInput(
                f"data.path: {self.path!r} holds {sorted(names)}; "
                f"it must hold {sorted(needed)} and may hold {sorted(optional)} (both or neither)"
            )

    def _samples(self, arrays: dict[str, np.ndarray], part: str) -> np.ndarray:
        samples = arrays[f"x_{part}"]
        where = f"data.path: {self.path!r}: x_{part}"
        if samples.ndim not in (2, 4) or 0 in samples.shape:
            raise BadInput(f"{where} has shape {samples.shape}; it must be [N, C, H, W] or [N, F], none of them 0")
        if samples.dtype != np.uint8 and samples.dtype.kind != "f":
            raise BadInput(f"{where} has type {samples.dtype}; it must be uint8 or floating point")
        if samples.dtype != np.uint8:
            with np.errstate(over="ignore"):
                samples = samples.astype(np.float32, copy=False)
            if not np.isfinite(samples).all():
                raise BadInput(f"{where} holds NaN or infinite values; all must be finite float32 numbers")
        return samples

    def _labels(self, arrays: dict[str, np.ndarray], part: str) -> np.ndarray:
        samples, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if labels.dtype.kind not in "iu" or labels.shape != samples.shape[:1]:
            raise BadInput(
                f"data.path: {self.path!r}: y_{part} has shape {labels.shape} and type {labels.dtype}; "
                f"it must hold {len(samples)} integers, one for each sample of x_{part}"
            )
        return labels
