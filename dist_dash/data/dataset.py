"""One training run's data: splits, noisy labels, order and augmentation, all decided by (seed, epoch, sample id)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dist_dash.data.augment import Augment
from dist_dash.data.data_facts import DataFacts, Outline
from dist_dash.data.labels import check_every_class, split_validation, with_symmetric_noise
from dist_dash.data.rng import AUGMENT, order, sample_rng
from dist_dash.data.source import Split, Splits, SubsetSplit
from dist_dash.errors import BadInput, require


@dataclass(frozen=True)
class Sharding:
    """Which share of every update this rank takes: `replica` (from 0) of `replicas`."""

    replicas: int = 1
    replica: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.replica < self.replicas:
            raise ValueError(f"replica {self.replica} of {self.replicas}")


ALONE = Sharding()


class DataSet:
    """Splits as they are trained on and evaluated.

    Validation samples are cut from the training split before any label is changed: `label_noise` touches training
    labels only. Sample ids are positions in the training split after that cut.

    Attributes: `train`, `test`, `validation` (or `None`); `classes`, `heads`, `shape`, `mean`, `std`, `uint8`,
    `class_names` as in `Splits`; `labels`, int64 `[N]`, the training labels with noise; `noisy`, bool `[N]`, which of
    them were changed.
    """

    def __init__(
        self,
        splits: Splits,
        augment: Augment,
        *,
        seed: int,
        label_noise: float = 0.0,
        validation: float = 0.0,
        order_seed: int | None = None,
    ) -> None:
        """Cut, then change labels.

        `seed` decides the cut, the noise, augmentation and mixup; `order_seed` the order, if it is to differ from
        `seed`. `label_noise` and `validation` are shares in [0, 1). Raises `BadInput`.
        """
        augment.check(splits)
        kept, self.validation = self._cut(splits, validation, seed)
        clean = splits.train.labels[kept]
        if label_noise:  # it would invent the classes that have no sample
            check_every_class(clean, splits.classes, splits.class_names)
        self.labels, self.noisy = with_symmetric_noise(clean, label_noise, splits.classes, seed)
        self.train: Split = SubsetSplit(splits.train, kept, self.labels)
        self.test = splits.test
        self.augment = augment
        self.seed = seed
        self.order_seed = seed if order_seed is None else order_seed
        self.classes = splits.classes
        self.shape = splits.shape
        self.mean = splits.mean
        self.std = splits.std
        self.uint8 = splits.uint8
        self.class_names = splits.class_names
        self.heads = splits.heads
        self._splits = splits
        mean = np.asarray(self.mean, dtype=np.float64)
        stored = np.rint(mean * 255) if self.uint8 else mean
        self._fill = stored.astype(splits.train.dtype)[:, None, None]

    @cached_property
    def facts(self) -> DataFacts:
        """What the source says of the data: samples as it gives them, labels without noise."""
        return self._splits.facts

    @property
    def outline(self) -> Outline:
        """What a network that is trained on these data takes."""
        return Outline(self.shape, self.classes, self.uint8, self.train.values)

    @staticmethod
    def _cut(splits: Splits, fraction: float, seed: int) -> tuple[np.ndarray, Split | None]:
        if splits.validation is not None:
            require(
                fraction == 0, "labels.validation", fraction, "0, because the data bring their own validation split"
            )
            return np.arange(len(splits.train)), splits.validation
        kept, held_out = split_validation(splits.train.labels, fraction, seed)
        return kept, SubsetSplit(splits.train, held_out) if len(held_out) else None

    def order(self, epoch: int) -> np.ndarray:
        """The training-sample ids in the order of this epoch: int64 `[N]`, read-only."""
        return order(self.order_seed, epoch, len(self.train))

    def steps_per_epoch(self, batch_size: int, accumulation: int, replicas: int) -> int:
        """Whole updates in an epoch; what is left of its order is dropped. Raises `BadInput` if there is none."""
        samples = len(self.train)
        update = batch_size * accumulation * replicas
        if update > samples:
            raise BadInput(
                f"loader.batch_size: {batch_size} × accumulation {accumulation} × replicas {replicas} = {update} is "
                f"larger than the training split of {samples} samples; an update must fit into an epoch"
            )
        return samples // update

    def read_train(self, epoch: int, sample_id: int, out: np.ndarray) -> None:
        """Write the training sample, augmented as in this epoch, into `out` (`shape`). Raises `UnreadableSample`."""
        augment = self.augment
        sample = self.train.read(sample_id) if augment.random_resized_crop else self.train.evaluation(sample_id)
        if augment.active:
            augment.apply(sample, sample_rng(self.seed, epoch, sample_id, AUGMENT), self._fill, out)
        else:
            out[...] = sample

    def evaluation_split(self, name: str) -> Split:
        """The split called "train", "validation" or "test". Raises `BadInput` if there is no such split."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        split = splits.get(name)
        available = [known for known, one in splits.items() if one is not None]
        if split is None:
            raise BadInput(f"split: {name!r} does not exist here; it must be one of {', '.join(available)}")
        return split
