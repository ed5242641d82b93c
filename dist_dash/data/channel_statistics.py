"""Mean and standard deviation per channel, computed from the training split or given by the user."""

from __future__ import annotations

import math

import numpy as np

from dist_dash.errors import BadInput, require

# A channel that never varies would be divided by zero; this is far below one grey level (1/255).
STD_FLOOR = 1e-4
# Values in a chunk: bounds the float64 copy to 32 MiB.
_CHUNK = 2**22


def check_override(mean: list[float] | None, std: list[float] | None) -> None:
    """Raise `BadInput` unless the given means are finite and the given deviations are finite and > 0."""
    require(mean is None or all(math.isfinite(m) for m in mean), "data.mean", mean, "a list of finite numbers")
    require(std is None or all(0 < s < math.inf for s in std), "data.std", std, "a list of finite numbers > 0")


def check_statistics(mean: tuple[float, ...], std: tuple[float, ...], shape: tuple[int, ...]) -> None:
    """Raise `BadInput` unless there is one value per channel (one in all for `(F,)` samples)."""
    channels = shape[0] if len(shape) == 3 else 1
    for field, values in (("data.mean", mean), ("data.std", std)):
        if len(values) != channels:
            raise BadInput(f"{field}: {len(values)} value(s) given; samples of shape {shape} need exactly {channels}")


def channel_statistics(
    samples: np.ndarray, mean: list[float] | None = None, std: list[float] | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of `[N, C, H, W]`, or one of each for `[N, F]`; given values win.

    In units of x/255 for uint8 and of the raw values for floats; computed in float64, deviations not below 1e-4.
    """
    if mean is not None and std is not None:
        return tuple(mean), tuple(std)
    if len(samples) == 0:
        raise BadInput("data: the train split has 0 samples; at least 1 is needed")
    axes = (0, 2, 3) if samples.ndim == 4 else (0, 1)
    unit = 255.0 if samples.dtype == np.uint8 else 1.0
    count = samples.size / (samples.shape[1] if samples.ndim == 4 else 1)
    # The second pass, around the mean, is what keeps the variance exact for data far from 0.
    length = max(1, _CHUNK // math.prod(samples.shape[1:]))
    chunks = [samples[start : start + length] for start in range(0, len(samples), length)]
    average = np.sum([np.sum(chunk, axis=axes, dtype=np.float64) for chunk in chunks], axis=0) / count
    centre = average[:, None, None] if samples.ndim == 4 else average
    spread = np.sqrt(np.sum([np.sum((chunk - centre) ** 2, axis=axes) for chunk in chunks], axis=0) / count)
    found_mean = tuple(float(m) / unit for m in np.atleast_1d(average))
    found_std = tuple(max(float(s) / unit, STD_FLOOR) for s in np.atleast_1d(spread))
    return (found_mean if mean is None else tuple(mean)), (found_std if std is None else tuple(std))
