"""Which samples are used, and which sets of other samples there are."""

import numpy as np
import pytest
from PIL import Image

from dist_dash.analysis.shift.ood_sets import built_in, other
from dist_dash.analysis.shift.samples import ChangedSplit, ResizedSplit, divided, subset
from dist_dash.analysis.shift.values import values_of
from dist_dash.data import Augment, Digits, Synthetic
from dist_dash.data.dataset import DataSet
from dist_dash.data.source import ArraySplit, Split, Splits, SubsetSplit, UnreadableSample
from dist_dash.errors import BadInput


def data_of(x, validation=False):
    labels = np.arange(len(x)) % 2
    split = ArraySplit(x, labels)
    channels = x.shape[1] if x.ndim == 4 else 1
    held_out = ArraySplit(x[:9], labels[:9]) if validation else None
    return DataSet(Splits(split, split, 2, (0.0,) * channels, (1.0,) * channels, held_out), Augment(), seed=0)


def grey(n=21, size=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 1, size, size), dtype=np.uint8)


def content(split):
    return np.stack([split.evaluation(index) for index in range(len(split))])


# -- which samples -----------------------------------------------------------------------------------------------------


def test_a_subset_is_chosen_by_the_seed_and_keeps_the_order():
    split = ArraySplit(grey(), np.arange(21))
    first, again, another = (subset(split, 8, seed).indices.tolist() for seed in (0, 0, 1))
    assert first == again == sorted(set(first))
    assert len(first) == 8
    assert another != first
    assert subset(split, None, 0).indices.tolist() == list(range(21))
    assert subset(split, 99, 0).indices.tolist() == list(range(21))
    assert subset(split, 8, 0).labels.tolist() == first


@pytest.mark.parametrize(("samples", "fitted", "used"), [(None, 10, 21), (7, 3, 7), (2, 1, 2), (1, 0, 1)])
def test_without_validation_the_test_samples_are_halved(samples, fitted, used):
    fitting, reported, text = divided(data_of(grey()), samples, 0)
    assert len(fitting) == fitted
    assert len(fitting) + len(reported) == used
    assert not set(fitting.indices) & set(reported.indices)
    assert set(fitting.indices) | set(reported.indices) == set(subset(data_of(grey()).test, samples, 0).indices)
    assert text == "clean test samples, a half; scores are of the other half"
    again, other_half = (divided(data_of(grey()), samples, seed)[0].indices.tolist() for seed in (0, 1))
    assert again == fitting.indices.tolist()
    if samples is None:
        assert other_half != again


def test_with_validation_all_test_samples_are_reported():
    fitting, reported, text = divided(data_of(grey(), validation=True), None, 0)
    assert len(fitting) == 9
    assert reported.indices.tolist() == list(range(21))
    assert text == "clean validation samples"
    assert len(divided(data_of(grey(), validation=True), 4, 0)[0]) == 4


def test_a_change_is_told_the_position_in_the_split():
    base = SubsetSplit(ArraySplit(grey(), np.arange(21)), np.array([4, 17]))
    split = ChangedSplit(base, lambda sample, index: np.full_like(sample, index))
    assert [split.evaluation(i).ravel()[0] for i in (0, 1)] == [4, 17]
    assert split.labels.tolist() == [4, 17]
    assert (split.shape, split.dtype, len(split), split.name(1)) == ((1, 6, 6), np.uint8, 2, "sample 17")


# -- sets made of the data ---------------------------------------------------------------------------------------------


def test_the_sets_that_images_allow():
    data = data_of(grey())
    base = subset(data.test, 5, 0)
    given, values = content(base), values_of(data, 0)
    sets = {one.name: one for one in built_in(base, values, 0)}
    assert list(sets) == ["uniform noise", "permuted pixels", "inverted"]
    assert all(one.text for one in sets.values())
    found = {name: content(one.split) for name, one in sets.items()}
    assert all((x.shape, x.dtype) == (given.shape, np.uint8) for x in found.values())
    assert np.array_equal(found["inverted"], 255 - given)
    assert np.array_equal(content(built_in(base, values, 0)[0].split), found["uniform noise"])
    # One order for all samples, and not the one that was.
    orders = {tuple(np.argsort(np.argsort(x.ravel(), kind="stable"))) for x in found["permuted pixels"]}
    assert len(orders) == 5
    assert np.array_equal(np.sort(found["permuted pixels"].reshape(5, -1)), np.sort(given.reshape(5, -1)))
    assert not np.array_equal(found["permuted pixels"], given)
    other = content(built_in(base, values, 1)[1].split)
    assert not np.array_equal(other, found["permuted pixels"])
    place = np.arange(36, dtype=np.uint8).reshape(1, 1, 6, 6)
    moved = content(built_in(SubsetSplit(ArraySplit(place, np.zeros(1, int)), np.array([0])), values, 0)[1].split)
    for x, y in zip(given, found["permuted pixels"], strict=True):
        assert np.array_equal(y.ravel(), x.ravel()[moved.ravel()])


def test_noise_is_uniform_and_each_samples_own():
    data = data_of(np.zeros((400, 1, 6, 6), np.uint8))
    (noise, *_) = built_in(subset(data.test, None, 0), values_of(data, 0), 0)
    found = content(noise.split).astype(float)
    assert found.mean() == pytest.approx(127.5, abs=3)
    assert found.std() == pytest.approx(255 / 12**0.5, rel=0.03)
    assert not np.array_equal(found[0], found[1])


def test_colours_of_a_pixel_stay_together():
    x = np.random.default_rng(0).integers(0, 256, (3, 3, 4, 5), dtype=np.uint8)
    data = data_of(x)
    permuted = content(built_in(subset(data.test, None, 0), values_of(data, 0), 0)[1].split)
    for before, after in zip(x, permuted, strict=True):
        assert sorted(map(tuple, before.reshape(3, -1).T)) == sorted(map(tuple, after.reshape(3, -1).T))


def test_features_of_vectors_are_permuted_within_their_ranges():
    x = (np.random.default_rng(0).random((30, 4)) * [1, 10, 100, 1000]).astype(np.float32)
    data = data_of(x)
    values = values_of(data, 0)
    sets = {one.name: content(one.split) for one in built_in(subset(data.test, None, 0), values, 0)}
    assert list(sets) == ["uniform noise", "permuted features", "inverted"]
    for found in sets.values():
        assert found.dtype == np.float32
        assert (found >= x.min(0) - 1e-3).all()
        assert (found <= x.max(0) * (1 + 1e-5)).all()
    assert np.allclose(sets["inverted"], x.min(0) + x.max(0) - x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(5, 1, 1, 1), (5, 1)])
def test_a_single_place_has_no_other_order(shape):
    x = np.random.default_rng(0).random(shape).astype(np.float32)
    data = data_of(x)
    sets = built_in(subset(data.test, None, 0), values_of(data, 0), 0)
    assert [one.name for one in sets] == ["uniform noise", "inverted"]


def test_two_places_change_theirs():
    for seed in range(6):
        data = data_of(np.array([[0, 1], [1, 0], [1, 1]], np.float32))
        permuted = built_in(subset(data.test, None, 0), values_of(data, 0), seed)[1]
        assert content(permuted.split).tolist() == [[1, 0], [0, 1], [1, 1]]


# -- another data set --------------------------------------------------------------------------------------------------


def complaint(*arguments, **keywords):
    with pytest.raises(BadInput) as caught:
        other(*arguments, **{"resize": False, "samples": None, "seed": 0, **keywords})
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_source_of_recipes():
    data = data_of(grey(size=8))
    fields = ["--ood.channels=1", "--ood.size=8", "--ood.test=11", "--ood.classes=3"]
    found = other("Synthetic", fields, data, False, None, 0)
    assert (found.name, found.text) == ("Synthetic", "11 samples of Synthetic")
    expected = Synthetic(channels=1, size=8, test=11, classes=3).load().test
    assert np.array_equal(content(found.split), content(expected))
    assert len(other("dist_dash.data.Synthetic", fields, data, False, 4, 0).split) == 4


def test_a_file(tmp_path):
    np.savez(tmp_path / "some.npz", x=grey(5, seed=3), y=np.arange(5))
    found = other(str(tmp_path / "some.npz"), [], data_of(grey()), False, None, 0)
    assert found.name == "some.npz"
    assert np.array_equal(content(found.split), grey(5, seed=3))
    np.savez(tmp_path / "wide.npz", x=grey(5, seed=3).astype(np.int64))
    assert content(other(str(tmp_path / "wide.npz"), [], data_of(grey()), False, None, 0).split).dtype == np.uint8
    np.savez(tmp_path / "vectors.npz", x=np.arange(6.0).reshape(3, 2))
    vectors = data_of(np.zeros((4, 2), np.float32))
    assert content(other(str(tmp_path / "vectors.npz"), [], vectors, False, None, 0).split).dtype == np.float32


def test_what_is_wrong_with_a_file(tmp_path):
    data, path = data_of(grey()), tmp_path / "some.npz"

    def said(**arrays):
        np.savez(path, **arrays)
        return complaint(str(path), [], data)

    assert "is missing or not an .npz file" in complaint(str(tmp_path / "none.npz"), [], data)
    assert "holds ['images']; it must hold x" in said(images=grey())
    assert "holds ['x_test', 'y_test']; it must hold x" in said(x_test=grey(), y_test=np.zeros(21))
    assert "some.npz holds <U1, which are no numbers" in said(x=np.full((2, 1, 6, 6), "a"))
    assert "x holds uint8 (1, 6, 6); it must be [N, C, H, W] or [N, F]" in said(x=grey()[0])
    assert "none of them 0" in said(x=grey()[:0])
    assert said(x=grey(size=8)) == (
        "ood: samples of some.npz have shape (1, 8, 8); it must be the run's, (1, 6, 6), or give --resize"
    )
    assert said(x=np.zeros((2, 5), np.uint8)).endswith("it must be the run's, (1, 6, 6)")
    assert said(x=grey() / 255).startswith("ood: some.npz holds float32 from 0 to 1; the network was trained on bytes")
    assert "some.npz holds int64 from -5 to 250; the network" in said(x=grey().astype(np.int64) - 5)
    assert "--ood" not in said(x=grey() / 255)
    path.write_text("no archive")
    assert "is missing or not an .npz file" in complaint(str(path), [], data)
    assert "ood.size: no such field" in complaint(str(path), ["--ood.size=3"], data)
    floats = data_of(np.zeros((4, 2), np.float32))
    np.savez(path, x=np.array([[1.0, np.nan]]))
    assert "holds NaN or infinite values" in complaint(str(path), [], floats)
    np.savez(path, x=np.zeros((2, 2), np.uint8))
    assert "trained on floating-point numbers" in complaint(str(path), [], floats)


def test_what_is_wrong_with_a_source():
    data = data_of(grey())
    assert complaint("Digit", [], data).startswith("ood: 'Digit' is not allowed; it must be one of ")
    assert "Digits" in complaint("Digit", [], data)
    assert complaint("Synthetic", ["--ood.sizes=8"], data).startswith("ood.sizes: no such field; ")
    assert complaint("Synthetic", ["--ood.size=big"], data).startswith("ood.size: 'big' is not allowed; ")
    assert complaint("Synthetic", ["--ood.size=0"], data).startswith("ood.size: 0 is not allowed; ")
    assert complaint("Arrays", [], data).startswith("ood.path: missing")
    assert complaint("Arrays", ["--ood.path=none.npz"], data).startswith("ood.path: 'none.npz' cannot be read")
    assert "have shape (3, 32, 32); it must be the run's, (1, 6, 6), or give --resize" in complaint(
        "Synthetic", [], data
    )


# -- resizing ----------------------------------------------------------------------------------------------------------


def test_resizing_is_pillows_bilinear():
    x = grey(3, size=9)
    found = ResizedSplit(ArraySplit(x, np.zeros(3, int)), (1, 4, 6))
    for before, after in zip(x, content(found), strict=True):
        resized = Image.fromarray(before[0].astype(np.float32)).resize((6, 4), Image.Resampling.BILINEAR)
        assert np.array_equal(after[0], np.rint(np.asarray(resized)).astype(np.uint8))
    assert (found.shape, found.dtype, len(found), found.name(2)) == ((1, 4, 6), np.uint8, 3, "sample 2")
    same = ResizedSplit(ArraySplit(x, np.zeros(3, int)), (1, 9, 9))
    assert np.array_equal(content(same), x)


def test_channels_are_repeated_or_averaged():
    x = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 5), dtype=np.uint8)
    (found,) = content(ResizedSplit(ArraySplit(x[:1], np.zeros(1, int)), (1, 5, 5)))
    assert np.array_equal(found[0], np.rint(x[0].astype(np.float32).mean(0)).astype(np.uint8))
    repeated = content(ResizedSplit(ArraySplit(grey(2, 5), np.zeros(2, int)), (3, 5, 5)))
    assert np.array_equal(repeated, np.repeat(grey(2, 5), 3, axis=1))


@pytest.mark.parametrize("shape", [(4, 5, 5), (25,)])
def test_what_cannot_be_made_to_fit(shape):
    x = np.zeros((2, 3, 5, 5), np.uint8)
    with pytest.raises(BadInput, match=r"^resize: samples \(3, 5, 5\) cannot become "):
        ResizedSplit(ArraySplit(x, np.zeros(2, int)), shape)


def test_digits_fit_a_run_of_synthetic_images():
    data = DataSet(Synthetic(train=20, test=4).load(), Augment(), seed=0)
    found = other("Digits", [], data, True, 6, 0)
    assert found.text == "6 samples of Digits, resized from (1, 8, 8)"
    assert content(found.split).shape == (6, 3, 32, 32)
    assert Digits().load().test.shape == (1, 8, 8)


def test_a_sample_that_cannot_be_read_keeps_its_name():
    class Torn(Split):
        labels, shape, dtype = np.zeros(2, int), (1, 2, 2), np.dtype(np.uint8)

        def read(self, index):
            raise UnreadableSample(f"file {index}", "torn")

        def name(self, index):
            return f"file {index}"

    changed = ChangedSplit(SubsetSplit(Torn(), np.array([1])), lambda sample, index: sample)
    with pytest.raises(UnreadableSample, match="torn"):
        changed.evaluation(0)
    assert changed.name(0) == "file 1"
    assert ResizedSplit(Torn(), (1, 3, 3)).name(1) == "file 1"
