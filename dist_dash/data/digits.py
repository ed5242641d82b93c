"""The 1797 handwritten digits of 8 × 8 pixels that come with scikit-learn: the smallest real data set."""

from __future__ import annotations

import numpy as np

from dist_dash.data.channel_statistics import channel_statistics
from dist_dash.data.data_facts import Outline
from dist_dash.data.labels import split_validation
from dist_dash.data.rng import TEST_CUT
from dist_dash.data.source import ArraySplit, Source, Splits
from dist_dash.errors import require


class Digits(Source):
    """Handwritten digits, 1797 grey images of shape (1, 8, 8) in 10 classes, installed with scikit-learn.

    Args:
        test_fraction: Share of the samples in the test split, the same in every class; in (0, 1).
        seed: Chooses which samples those are.
        mean: Replaces the mean, in units of x/255.
        std: Replaces the standard deviation, in units of x/255.
    """

    def __init__(
        self,
        test_fraction: float = 0.25,
        seed: int = 0,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        super().__init__(mean, std)
        require(0 < test_fraction < 1, "data.test_fraction", test_fraction, "a number in (0, 1)")
        self.test_fraction = test_fraction
        self.seed = seed

    def load(self) -> Splits:
        # Importing scikit-learn takes about a second, which other data sets need not pay.
        from sklearn.datasets import load_digits

        digits = load_digits()
        # Stored as ink from 0 to 16; bytes are what the rest of the trainer handles fastest.
        samples = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
        labels = digits.target.astype(np.int64)
        chosen, held_out = split_validation(
            labels, self.test_fraction, self.seed, stream=TEST_CUT, field="data.test_fraction"
        )
        train = ArraySplit(samples[chosen], labels[chosen])
        test = ArraySplit(samples[held_out], labels[held_out])
        mean, std = channel_statistics(train.samples, self.mean, self.std)
        return Splits(train, test, 10, mean, std, class_names=[str(digit) for digit in range(10)])

    def _outline(self) -> Outline | None:
        return Outline((1, 8, 8), 10, True)
