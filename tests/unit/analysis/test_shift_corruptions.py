"""Each corruption against a loop over pixels written from its definition, and what all of them promise."""

import io
import itertools
import math

import numpy as np
import pytest
from PIL import Image

from dist_dash.analysis.shift.corruptions import CORRUPTIONS, SEVERITIES, applicable, chosen, corrupted
from dist_dash.analysis.shift.values import Values, values_of
from dist_dash.data import Augment, Digits, Synthetic
from dist_dash.data.dataset import DataSet
from dist_dash.data.source import ArraySplit, Splits
from dist_dash.errors import BadInput

BYTES = Values(np.array(0.0), np.array(255.0), np.dtype(np.uint8))
NAMES = list(CORRUPTIONS)
NOISE = ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"]


@pytest.fixture(scope="module")
def samples():
    """Sets of stored samples: small and grey, and larger with colours."""
    digits, synthetic = Digits().load().test, Synthetic().load().test
    return {
        "digits": [digits.evaluation(i) for i in range(200)],
        "colour": [synthetic.evaluation(i) for i in range(40)],
    }


def function(name, image, severity, seed=0):
    """The bare function, on values in 0 … 1."""
    return CORRUPTIONS[name].function(image, severity, np.random.default_rng(seed))


def some_image(shape=(2, 7, 9), seed=0):
    return np.random.default_rng(seed).random(shape)


# -- what all promise --------------------------------------------------------------------------------------------------


def test_there_are_enough_each_with_a_line_of_text():
    assert len(CORRUPTIONS) >= 10
    assert [name for name, corruption in CORRUPTIONS.items() if corruption.name != name] == []
    texts = [corruption.text for corruption in CORRUPTIONS.values()]
    assert len(set(texts)) == len(texts)
    assert all(text and "\n" not in text for text in texts)


@pytest.mark.parametrize("kind", ["digits", "colour"])
@pytest.mark.parametrize("name", NAMES)
def test_stronger_severities_change_more(samples, kind, name):
    given = np.stack(samples[kind]).astype(np.float64)
    changes = []
    for severity in SEVERITIES:
        found = [corrupted(x, BYTES, CORRUPTIONS[name], severity, 0, i) for i, x in enumerate(samples[kind])]
        changes.append(np.abs(np.stack(found) - given).mean())
    assert changes[0] > 1  # grey level of 255
    assert all(weaker < stronger for weaker, stronger in itertools.pairwise(changes)), changes
    assert changes[-1] > 1.5 * changes[0]


@pytest.mark.parametrize("name", NAMES)
def test_severity_0_is_the_sample_itself(samples, name):
    sample = samples["digits"][3]
    found = corrupted(sample, BYTES, CORRUPTIONS[name], 0, 0, 3)
    assert np.array_equal(found, sample)
    assert found.dtype == sample.dtype
    found[:] = 0
    assert sample.any()
    outside = np.array([[[-7.25, 0.1, 300.0]]], np.float32)  # beyond the range of the values
    assert np.array_equal(corrupted(outside, BYTES, CORRUPTIONS[name], 0, 0, 0), outside)


@pytest.mark.parametrize("name", NAMES)
def test_the_sample_that_is_given_stays_as_it_is(samples, name):
    sample = samples["colour"][0]
    before = sample.copy()
    corrupted(sample, BYTES, CORRUPTIONS[name], 5, 0, 0)
    assert np.array_equal(sample, before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 6), (2, 5, 9), (4, 16, 3), (3, 12, 12)])
def test_shapes_dtypes_and_range_are_kept(name, shape):
    rng = np.random.default_rng(0)
    floats = Values(np.full((shape[0], 1, 1), -2.0), np.full((shape[0], 1, 1), 3.0), np.dtype(np.float32))
    for severity in SEVERITIES:
        as_bytes = corrupted(
            rng.integers(0, 256, shape, dtype=np.uint8), BYTES, CORRUPTIONS[name], severity, severity, 1
        )
        assert (as_bytes.shape, as_bytes.dtype) == (shape, np.uint8)
        as_floats = corrupted(
            rng.uniform(-2, 3, shape).astype(np.float32), floats, CORRUPTIONS[name], severity, severity, 1
        )
        assert (as_floats.shape, as_floats.dtype) == (shape, np.float32)
        assert np.isfinite(as_floats).all()
        assert as_floats.min() >= -2
        assert as_floats.max() <= 3


@pytest.mark.parametrize("name", NAMES)
def test_large_images_too(name):
    image = np.random.default_rng(0).integers(0, 256, (3, 224, 224), dtype=np.uint8)
    found = corrupted(image, BYTES, CORRUPTIONS[name], 1, 0, 0)
    assert (found.shape, found.dtype) == (image.shape, np.uint8)
    assert not np.array_equal(found, image)


@pytest.mark.parametrize("name", NAMES)
def test_a_pure_function_of_seed_corruption_severity_and_sample(samples, name):
    sample, corruption = samples["colour"][0], CORRUPTIONS[name]

    def found(severity=3, seed=0, sample_id=5):
        return corrupted(sample, BYTES, corruption, severity, seed, sample_id)

    first = found()
    for other in NAMES:  # whatever has been drawn in between
        corrupted(sample, BYTES, CORRUPTIONS[other], 2, 0, 5)
    assert np.array_equal(found(), first)
    assert not np.array_equal(found(severity=4), first)
    chance = name in [*NOISE, "motion_blur", "fog", "elastic_transform"]
    assert np.array_equal(found(seed=1), first) != chance
    assert np.array_equal(found(sample_id=6), first) != chance


def test_corruptions_do_not_share_their_noise():
    image = np.full((1, 16, 16), 128, np.uint8)
    gaussian, speckle = (
        corrupted(image, BYTES, CORRUPTIONS[name], 3, 0, 0).astype(float).ravel() - 128
        for name in ("gaussian_noise", "speckle_noise")
    )
    assert abs(np.corrcoef(gaussian, speckle)[0, 1]) < 0.3


def test_vectors_know_noise_only():
    assert [c.name for c in applicable(chosen("all"), (7,))] == NOISE
    assert [c.name for c in applicable(chosen("all"), (1, 7, 1))] == NAMES
    vector = np.linspace(-1, 1, 9, dtype=np.float32)
    values = Values(np.full(9, -1.0), np.full(9, 1.0), np.dtype(np.float32))
    for corruption in applicable(chosen("all"), (9,)):
        found = corrupted(vector, values, corruption, 5, 0, 0)
        assert (found.shape, found.dtype) == ((9,), np.float32)
        assert not np.array_equal(found, vector)


def test_names_are_chosen_in_their_order_and_once():
    assert [c.name for c in chosen("jpeg, fog,jpeg")] == ["jpeg", "fog"]
    assert [c.name for c in chosen("all")] == NAMES
    with pytest.raises(BadInput, match=r"^corruptions: 'gausian_noise' is not allowed; did you mean gaussian_noise"):
        chosen("fog,gausian_noise")
    with pytest.raises(BadInput, match=r"^corruptions: 'xyz' is not allowed; it must be all, or of gaussian_noise, "):
        chosen("xyz")
    with pytest.raises(BadInput, match=r"^corruptions: '' is not allowed"):
        chosen("")


# -- noise: moments ----------------------------------------------------------------------------------------------------

GREY = np.full((1, 300, 300), 0.4)


@pytest.mark.parametrize(("severity", "sigma"), enumerate((0.04, 0.08, 0.12, 0.18, 0.26), 1))
def test_gaussian_noise_has_the_deviation_it_says(severity, sigma):
    noise = function("gaussian_noise", GREY, severity) - GREY
    assert noise.mean() == pytest.approx(0, abs=4 * sigma / 300)
    assert noise.std() == pytest.approx(sigma, rel=0.02)


@pytest.mark.parametrize(("severity", "sigma"), enumerate((0.10, 0.18, 0.28, 0.42, 0.60), 1))
def test_speckle_noise_grows_with_the_value(severity, sigma):
    for value in (0.2, 0.8):
        noise = function("speckle_noise", np.full_like(GREY, value), severity) - value
        assert noise.std() == pytest.approx(sigma * value, rel=0.02)
    assert (function("speckle_noise", np.zeros((1, 4, 4)), severity) == 0).all()


@pytest.mark.parametrize(("severity", "events"), enumerate((200, 80, 35, 16, 7), 1))
def test_shot_noise_counts_events(severity, events):
    found = function("shot_noise", GREY, severity)
    assert found.mean() == pytest.approx(0.4, rel=0.01)
    assert found.var() == pytest.approx(0.4 / events, rel=0.03)  # Poisson: the variance is the mean
    assert np.allclose(found * events, np.rint(found * events))
    assert (function("shot_noise", np.zeros((1, 4, 4)), severity) == 0).all()


@pytest.mark.parametrize(("severity", "share"), enumerate((0.02, 0.05, 0.10, 0.17, 0.27), 1))
def test_impulse_noise_is_salt_and_pepper(severity, share):
    found = function("impulse_noise", GREY, severity)
    for value in (0.0, 1.0):
        assert (found == value).mean() == pytest.approx(share / 2, rel=0.12)
    assert set(np.unique(found)) == {0.0, 0.4, 1.0}


def test_stronger_impulses_hit_the_same_pixels_and_more():
    hits = [
        corrupted(np.full((3, 20, 20), 100, np.uint8), BYTES, CORRUPTIONS["impulse_noise"], s, 0, 0) != 100
        for s in SEVERITIES
    ]
    assert all((weaker <= stronger).all() for weaker, stronger in itertools.pairwise(hits))


# -- blur: loops over pixels -------------------------------------------------------------------------------------------


def mirrored(index, size):
    """Pixels beyond the border: d c b a | a b c d | d c b a."""
    index %= 2 * size
    return index if index < size else 2 * size - 1 - index


def filtered(image, weight, reach):
    """Σ weight(row, column) · pixel, divided by Σ weight, one pixel after the other."""
    found = np.zeros_like(image)
    offsets = [(i, j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)]
    total = sum(weight(*offset) for offset in offsets)
    channels, height, width = image.shape
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                for i, j in offsets:
                    pixel = image[c, mirrored(y + i, height), mirrored(x + j, width)]
                    found[c, y, x] += weight(i, j) / total * pixel
    return found


@pytest.mark.parametrize(("severity", "radius"), enumerate((1.2, 1.7, 2.3, 3.0, 4.0), 1))
@pytest.mark.parametrize("shape", [(2, 8, 11), (1, 5, 3)])
def test_defocus_is_the_mean_over_a_disc(severity, radius, shape):
    image = some_image(shape)
    radius *= math.sqrt(min(shape[1:]) / 32)
    expected = filtered(image, lambda i, j: min(1, max(0, radius + 0.5 - math.hypot(i, j))), 4)
    assert np.allclose(function("defocus_blur", image, severity), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("severity", "sigma"), enumerate((0.8, 1.1, 1.4, 1.8, 2.4), 1))
def test_gaussian_blur_weighs_by_a_gaussian(severity, sigma):
    image = some_image((2, 8, 10))
    sigma *= math.sqrt(8 / 32)
    expected = filtered(image, lambda i, j: math.exp(-(i * i + j * j) / (2 * sigma**2)), 6)
    assert np.allclose(function("gaussian_blur", image, severity), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("severity", "length"), enumerate((3.0, 4.2, 5.6, 7.5, 10.0), 1))
def test_motion_blur_draws_a_point_out_into_a_line(severity, length):
    image = np.zeros((1, 33, 33))
    image[0, 16, 16] = 1
    length *= math.sqrt(33 / 32)
    rows, columns = np.indices((33, 33)) - 16
    angles = []
    for seed in range(8):
        (found,) = function("motion_blur", image, severity, seed)
        assert found.sum() == pytest.approx(1)
        assert np.allclose(found, found[::-1, ::-1])  # the point is the middle
        angle = math.pi * np.random.default_rng(seed).random()
        angles.append(angle)
        along = rows * math.sin(angle) + columns * math.cos(angle)
        across = rows * math.cos(angle) - columns * math.sin(angle)
        # A line has the variance length² / 12; the grid of points adds the ends, bilinear shares up to ¼ per axis.
        assert (found * along**2).sum() == pytest.approx(length**2 / 12, abs=0.35 + 0.03 * length**2)
        assert (found * across**2).sum() < 0.3
        assert np.abs(along[found > 0]).max() <= length / 2 + math.sqrt(2)
    assert np.ptp(angles) > 1


@pytest.mark.parametrize(("severity", "largest"), enumerate((1.10, 1.17, 1.25, 1.36, 1.50), 1))
def test_zoom_blur_is_the_mean_of_magnifications(severity, largest):
    image = some_image((2, 6, 9))
    expected = np.zeros_like(image)
    _, height, width = image.shape
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    for k in range(9):
        factor = 1 + (largest - 1) * k / 8
        for y in range(height):
            for x in range(width):
                from_y, from_x = middle_y + (y - middle_y) / factor, middle_x + (x - middle_x) / factor
                top, left = min(int(from_y), height - 2), min(int(from_x), width - 2)
                dy, dx = from_y - top, from_x - left
                square = image[:, top : top + 2, left : left + 2]
                expected[:, y, x] += (
                    (1 - dy) * (1 - dx) * square[:, 0, 0]
                    + (1 - dy) * dx * square[:, 0, 1]
                    + dy * (1 - dx) * square[:, 1, 0]
                    + dy * dx * square[:, 1, 1]
                ) / 9
    assert np.allclose(function("zoom_blur", image, severity), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["defocus_blur", "gaussian_blur", "motion_blur", "zoom_blur", "pixelate", "contrast"])
def test_what_only_mixes_leaves_an_even_image_alone(name):
    even = np.full((3, 8, 6), 0.3)
    assert np.allclose(function(name, even, 5), even, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["defocus_blur", "gaussian_blur", "motion_blur", "zoom_blur", "fog"])
def test_channels_are_treated_alike(name):
    grey = np.repeat(some_image((1, 9, 9)), 3, axis=0)
    found = function(name, grey, 4)
    assert np.allclose(found, found[:1], rtol=0, atol=1e-12)


# -- the scene ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("severity", "thickest"), enumerate((0.20, 0.35, 0.50, 0.65, 0.80), 1))
def test_fog_is_one_layer_of_white(severity, thickest):
    image = 0.9 * some_image((3, 24, 17))
    thickness = (function("fog", image, severity) - image) / (1 - image)
    assert np.allclose(thickness, thickness[:1])
    assert thickness.max() == pytest.approx(thickest)
    assert thickness.min() == pytest.approx(0.3 * thickest)
    vertical = np.abs(np.diff(thickness[0], axis=0)).mean()
    assert vertical < 0.5 * np.abs(np.diff(np.random.default_rng(0).permutation(thickness[0].ravel()))).mean()


@pytest.mark.parametrize(("severity", "more"), enumerate((0.1, 0.2, 0.3, 0.4, 0.5), 1))
def test_brightness_adds_light(samples, severity, more):
    sample = samples["colour"][0]
    expected = [min(255, round(value + 255 * more + 1e-9)) for value in sample.ravel().tolist()]
    found = corrupted(sample, BYTES, CORRUPTIONS["brightness"], severity, 0, 0)
    assert np.abs(found.ravel().astype(int) - expected).max() <= 1  # halves may be rounded either way


@pytest.mark.parametrize(("severity", "kept"), enumerate((0.70, 0.50, 0.35, 0.22, 0.12), 1))
def test_contrast_keeps_the_mean_of_each_channel(severity, kept):
    image = some_image((2, 4, 5))
    found = function("contrast", image, severity)
    for channel, new in zip(image, found, strict=True):
        mean = sum(channel.ravel()) / channel.size
        for before, after in zip(channel.ravel(), new.ravel(), strict=True):
            assert after == pytest.approx(mean + kept * (before - mean))


@pytest.mark.parametrize(("severity", "share"), enumerate((0.025, 0.04, 0.055, 0.075, 0.10), 1))
def test_elastic_transform_moves_pixels_as_far_as_it_says(severity, share):
    size = 64
    rows, columns = np.indices((size, size)) / size
    # Two ramps tell where each pixel was read; beyond the border they stop.
    down, right = (function("elastic_transform", ramp[None], severity)[0] - ramp for ramp in (rows, columns))
    inner = slice(12, -12)
    distance = math.sqrt((down[inner, inner] ** 2 + right[inner, inner] ** 2).mean())
    assert distance == pytest.approx(share, rel=0.3)
    # Smooth: neighbours move alike.
    assert np.abs(np.diff(down, axis=0)).max() < 0.7 * share
    assert abs(np.corrcoef(down.ravel(), right.ravel())[0, 1]) < 0.7


# -- storing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("severity", "share"), enumerate((0.80, 0.65, 0.50, 0.40, 0.30), 1))
@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 10, 7)])
def test_pixelate_shows_the_mean_of_each_block(severity, share, shape):
    image = some_image(shape)
    _, height, width = shape
    rows, columns = (max(1, round(share * side)) for side in (height, width))
    found = function("pixelate", image, severity)
    for c in range(shape[0]):
        for y in range(height):
            for x in range(width):
                block = [
                    image[c, i, j]
                    for i in range(height)
                    for j in range(width)
                    if i * rows // height == y * rows // height and j * columns // width == x * columns // width
                ]
                assert found[c, y, x] == pytest.approx(sum(block) / len(block))
    assert len(np.unique(found[0].round(9))) == rows * columns


@pytest.mark.parametrize(("severity", "quality"), enumerate((60, 35, 20, 12, 7), 1))
def test_jpeg_is_what_pillow_stores(samples, severity, quality):
    def through(image):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    colour = corrupted(samples["colour"][1], BYTES, CORRUPTIONS["jpeg"], severity, 0, 0)
    assert np.array_equal(colour.transpose(1, 2, 0), through(Image.fromarray(samples["colour"][1].transpose(1, 2, 0))))
    grey = corrupted(samples["digits"][1], BYTES, CORRUPTIONS["jpeg"], severity, 0, 0)
    assert np.array_equal(grey[0], through(Image.fromarray(samples["digits"][1][0])))
    two = np.stack([samples["digits"][1][0], samples["digits"][2][0]])
    assert np.array_equal(corrupted(two, BYTES, CORRUPTIONS["jpeg"], severity, 0, 0)[0], grey[0])


# -- values ------------------------------------------------------------------------------------------------------------


def test_bytes_come_back_as_they_were():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    assert np.array_equal(BYTES.stored(BYTES.unit(every)), every)
    assert BYTES.unit(every).min() == 0
    assert BYTES.unit(every).max() == 1
    assert np.array_equal(BYTES.stored(np.array([[[-1.0, 2.0, 0.5]]])), np.array([[[0, 255, 128]]], np.uint8))


def data_set(train):
    mean = [0.0] * (train.shape[1] if train.ndim == 4 else 1)
    split = ArraySplit(train, np.arange(len(train)) % 2)
    return DataSet(Splits(split, split, 2, tuple(mean), tuple(m + 1 for m in mean)), Augment(), seed=0)


def test_the_range_of_floats_is_that_of_each_channel():
    train = np.random.default_rng(0).normal(size=(50, 2, 3, 4)).astype(np.float32)
    train[:, 1] *= 100
    values = values_of(data_set(train), 0)
    for channel in range(2):
        assert values.low[channel] == min(train[:, channel].ravel())
        assert values.high[channel] == max(train[:, channel].ravel())
    assert values.low.shape == (2, 1, 1)
    assert np.allclose(values.stored(values.unit(train[3])), train[3], rtol=1e-5, atol=1e-4)
    assert values.as_json()["high"] == values.high.ravel().tolist()


def test_the_range_of_vectors_is_that_of_each_feature():
    train = (np.random.default_rng(0).normal(size=(40, 3)) * [1, 50, 0]).astype(np.float32) + 7
    values = values_of(data_set(train), 0)
    assert np.array_equal(values.low, train.min(0))
    assert np.array_equal(values.high, train.max(0))
    # What never varies cannot be corrupted; what lies beyond is cut.
    assert np.array_equal(values.unit(np.array([1e9, -1e9, 7], np.float32)), [1, 0, 0])
    found = corrupted(train[0], values, CORRUPTIONS["impulse_noise"], 5, 0, 0)
    assert found[2] == 7


def test_the_range_is_told_by_a_seeded_part_of_large_data():
    train = np.arange(3000, dtype=np.float32)[:, None]
    first, again, other = (values_of(data_set(train), seed) for seed in (0, 0, 1))
    assert first.as_json() == again.as_json() != other.as_json()
    assert 0 <= first.low[0] < 30
    assert 2970 < first.high[0] <= 2999
