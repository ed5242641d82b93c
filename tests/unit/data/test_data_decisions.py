"""What is decided about samples before they are read: order, noise, validation; all pure functions."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from dist_dash.data import Augment, ImageFolder, Source
from dist_dash.data.dataset import DataSet
from dist_dash.data.labels import split_validation, with_symmetric_noise
from dist_dash.data.rng import MIXUP, order, sample_rng
from dist_dash.data.source import ArraySplit, Splits
from dist_dash.errors import BadInput

RNG = np.random.default_rng(3)


def splits(samples: np.ndarray, classes: int = 3, validation: int = 0) -> Splits:
    labels = RNG.integers(0, classes, len(samples))
    part = ArraySplit(samples, labels)
    channels = samples.shape[1] if samples.ndim == 4 else 1
    held_out = ArraySplit(samples[:validation], labels[:validation]) if validation else None
    return Splits(part, part, classes, (0.5,) * channels, (0.25,) * channels, validation=held_out)


def images(n: int = 20, channels: int = 3, height: int = 6, width: int = 7) -> np.ndarray:
    return RNG.integers(1, 256, (n, channels, height, width), dtype=np.uint8)


# --- random numbers


def test_random_numbers_depend_on_all_four_and_on_nothing_else() -> None:
    first = sample_rng(1, 2, 3, 4).random(8)
    sample_rng(9, 9, 9).random(1000)
    np.testing.assert_array_equal(first, sample_rng(1, 2, 3, 4).random(8))
    for other in ((0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0), (2, 1, 3, 4), (1, 3, 2, 4), (-1, 2, 3, 4)):
        assert not np.isin(first, sample_rng(*other).random(2000)).any()


def test_order_is_a_permutation_by_seed_and_epoch() -> None:
    found = order(0, 0, 100)
    assert sorted(found.tolist()) == list(range(100))
    assert (found != order(0, 1, 100)).any()
    assert (found != order(1, 0, 100)).any()
    order(5, 5, 5)
    np.testing.assert_array_equal(found, order(0, 0, 100))
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


def test_order_is_the_same_in_another_process() -> None:
    code = "from dist_dash.data.rng import order; print(order(3, 4, 30).tolist())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(order(3, 4, 30).tolist())


def test_the_order_may_have_a_seed_of_its_own() -> None:
    own = DataSet(splits(images()), Augment(), seed=1, order_seed=2)
    assert own.order(0).tolist() == order(2, 0, 20).tolist()
    assert DataSet(splits(images()), Augment(), seed=1).order(0).tolist() == order(1, 0, 20).tolist()


# --- labels


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.4, 0.8, 0.999])
def test_noise_is_exact_and_never_the_same_class(rate: float) -> None:
    labels = RNG.integers(0, 5, 997)
    noisy, flipped = with_symmetric_noise(labels, rate, 5, seed=2)
    assert flipped.sum() == round(rate * 997)
    np.testing.assert_array_equal(flipped, noisy != labels)
    assert noisy.dtype == np.int64
    assert set(noisy) <= set(range(5))


def test_noise_is_uniform_over_the_other_classes_and_repeats() -> None:
    labels = np.full(40_000, 2)
    noisy, _ = with_symmetric_noise(labels, 0.5, 5, seed=0)
    counts = np.bincount(noisy, minlength=5)
    # Binomial(20000, 1/4): five standard deviations are 306.
    assert (np.abs(counts[[0, 1, 3, 4]] - 5000) < 306).all()
    np.testing.assert_array_equal(noisy, with_symmetric_noise(labels, 0.5, 5, seed=0)[0])
    assert (noisy != with_symmetric_noise(labels, 0.5, 5, seed=1)[0]).any()


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.77])
def test_validation_is_disjoint_and_stratified(fraction: float) -> None:
    labels = RNG.choice(4, 501, p=[0.5, 0.3, 0.15, 0.05])
    kept, held_out = split_validation(labels, fraction, seed=4)
    assert sorted([*kept, *held_out]) == list(range(501))
    assert len(held_out) == round(fraction * 501)
    for label in range(4):
        assert abs((labels[held_out] == label).sum() - fraction * (labels == label).sum()) < 1
    np.testing.assert_array_equal(held_out, split_validation(labels, fraction, seed=4)[1])
    assert held_out.tolist() != split_validation(labels, fraction, seed=5)[1].tolist()


def test_every_class_keeps_a_training_sample() -> None:
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 2])
    kept, _ = split_validation(labels, 0.9, seed=0)
    assert set(labels[kept]) == {0, 1, 2}


def test_noise_touches_neither_validation_nor_test() -> None:
    whole = splits(images(200))
    data = DataSet(whole, Augment(), seed=7, label_noise=0.5, validation=0.25)
    assert data.validation is not None
    kept, held_out = split_validation(whole.train.labels, 0.25, seed=7)
    np.testing.assert_array_equal(data.validation.labels, whole.train.labels[held_out])
    np.testing.assert_array_equal(data.validation.evaluation(3), whole.train.evaluation(int(held_out[3])))
    np.testing.assert_array_equal(data.noisy, data.labels != whole.train.labels[kept])
    assert data.noisy.sum() == 75
    assert data.test is whole.test
    np.testing.assert_array_equal(data.train.labels, data.labels)
    assert data.evaluation_split("validation") is data.validation


def test_bad_shares_and_splits() -> None:
    whole, brings_validation = splits(images()), splits(images(), validation=5)
    for field, value in (("label_noise", 1.0), ("validation", 1.0), ("validation", 0.01), ("label_noise", -0.1)):
        names = {"label_noise": "labels.noise", "validation": "labels.validation"}
        with pytest.raises(BadInput, match=f"^{names[field]}: "):
            DataSet(whole, Augment(), seed=0, **{field: value})  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="bring their own"):
        DataSet(brings_validation, Augment(), seed=0, validation=0.1)
    assert DataSet(brings_validation, Augment(), seed=0).validation is brings_validation.validation
    with pytest.raises(BadInput, match=r"one of train, test$"):
        DataSet(whole, Augment(), seed=0).evaluation_split("validation")


def test_the_mixup_stream_is_not_the_augmentation_stream() -> None:
    assert (sample_rng(0, 0, 0, MIXUP).random(4) != sample_rng(0, 0, 0).random(4)).all()


def test_configuration_is_read_from_the_constructors() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Source, "data")
    parser.add_class_arguments(Augment, "augment")
    arguments = ["--data=ImageFolder", "--data.root=/x", "--data.image_size=32", "--data.mean=[0.1, 0.2, 0.3]"]
    found = parser.instantiate_classes(parser.parse_args([*arguments, "--augment.flip=true"]))
    assert isinstance(found.data, ImageFolder)
    assert (found.data.root, found.data.image_size, found.data.mean) == ("/x", 32, [0.1, 0.2, 0.3])
    assert found.augment.flip is True


def test_configuration_needs_no_torch() -> None:
    code = "import sys, dist_dash.data; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
