"""Made-up images of any size, for tests, benchmarks and first runs on machines without data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dist_dash.data.channel_statistics import channel_statistics
from dist_dash.data.data_facts import Outline
from dist_dash.data.rng import PATTERNS, TEST_PIXELS, TRAIN_PIXELS, sample_rng
from dist_dash.data.source import Source, Split, Splits
from dist_dash.errors import require, require_count

# The coarse grid on which patterns are drawn: the difference between classes has the same size at every resolution.
_GRID = 8
# How many samples the mean and deviation are computed from: generating all of a large split would take minutes.
_PROBE = 256


class Synthetic(Source):
    """Images made up as they are read, each a pure function of (seed, index): a class pattern under noise.

    Each class has one random coarse colour pattern. A sample shows it shifted at random by up to one eighth of the
    image, under another coarse pattern of its own and fine noise.

    Args:
        classes: Number of classes, at least 2.
        channels: Number of colour channels.
        size: Height and width, in pixels.
        train: Number of training samples.
        test: Number of test samples.
        seed: Chooses the patterns and all noise.
        difficulty: Share of the sample's own pattern, in [0, 1): 0 is easy; near 1 nothing can be learnt.
        mean: Replaces the mean per channel, in units of x/255.
        std: Replaces the standard deviation per channel, in units of x/255.
    """

    def __init__(
        self,
        classes: int = 10,
        channels: int = 3,
        size: int = 32,
        train: int = 5000,
        test: int = 1000,
        seed: int = 0,
        difficulty: float = 0.75,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        super().__init__(mean, std)
        require(classes >= 2, "data.classes", classes, "an integer ≥ 2")
        for field, value in (("channels", channels), ("size", size), ("train", train), ("test", test)):
            require_count(f"data.{field}", value)
        require(0 <= difficulty < 1, "data.difficulty", difficulty, "a number in [0, 1)")
        self.classes = classes
        self.channels = channels
        self.size = size
        self.train = train
        self.test = test
        self.seed = seed
        self.difficulty = difficulty

    def load(self) -> Splits:
        rng = sample_rng(self.seed, 0, 0, PATTERNS)
        patterns = rng.standard_normal((self.classes, self.channels, _GRID, _GRID), dtype=np.float32)
        train = SyntheticSplit(patterns, self.size, self.train, self.seed, TRAIN_PIXELS, self.difficulty)
        test = SyntheticSplit(patterns, self.size, self.test, self.seed, TEST_PIXELS, self.difficulty)
        probe = np.stack([train.read(index) for index in range(min(_PROBE, self.train))])
        mean, std = channel_statistics(probe, self.mean, self.std)
        return Splits(train, test, self.classes, mean, std)

    def _outline(self) -> Outline | None:
        return Outline((self.channels, self.size, self.size), self.classes, True)


class SyntheticSplit(Split):
    """`patterns`: float32 `[classes, C, 8, 8]`, standard normal; `stream`: keeps training and test samples apart."""

    def __init__(
        self, patterns: np.ndarray, size: int, samples: int, seed: int, stream: int, difficulty: float
    ) -> None:
        self.patterns = patterns
        self.seed = seed
        self.stream = stream
        self.difficulty = difficulty
        self.labels = np.arange(samples, dtype=np.int64) % len(patterns)
        self.shape = (patterns.shape[1], size, size)
        self.dtype = np.dtype(np.uint8)
        self._pixels = np.arange(size)

    def content(self, of: np.ndarray | None = None) -> Iterator[bytes | memoryview]:
        yield repr((self.shape, self.seed, self.stream, self.difficulty)).encode()
        yield self.patterns.tobytes()
        if of is not None:
            yield of.tobytes()

    def read(self, index: int) -> np.ndarray:
        """Make sample `index`: uint8 `[C, size, size]`."""
        rng = sample_rng(self.seed, 0, index, self.stream)
        channels, size, _ = self.shape
        own = rng.standard_normal((channels, _GRID, _GRID), dtype=np.float32)
        coarse = (1 - self.difficulty) * self.patterns[self.labels[index]] + self.difficulty * own
        # The same contrast at every difficulty; 16 further grey levels are left for the fine noise on either side.
        coarse *= 40 / np.hypot(1 - self.difficulty, self.difficulty)
        levels = np.clip(coarse + 128, 16, 239).astype(np.uint8)
        rows, columns = ((self._pixels * _GRID + int(rng.random() * size)) // size % _GRID for _ in "yx")
        noise = np.frombuffer(rng.bytes(channels * size * size), np.uint8).reshape(self.shape) & 31
        return levels[:, rows[:, None], columns] + noise - np.uint8(16)
