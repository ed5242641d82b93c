"""Each corruption against a loop over pixels written from its definition, and what all of them promise."""

import colorsys
import io
import itertools
import math

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from dist_dash.analysis.shift import blur
from dist_dash.analysis.shift.corruption_texts import COMMON
from dist_dash.analysis.shift.corruptions import CORRUPTIONS, SEVERITIES, applicable, chosen, corrupted
from dist_dash.analysis.shift.image import published_side, whole
from dist_dash.analysis.shift.values import Values, values_of
from dist_dash.data import Augment, Digits, Synthetic
from dist_dash.data.dataset import DataSet
from dist_dash.data.source import ArraySplit, Splits
from dist_dash.errors import BadInput

BYTES = Values(np.array(0.0), np.array(255.0), np.dtype(np.uint8))
NAMES = list(CORRUPTIONS)
NOISE = ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"]
# Of the others, the published constants do not rise in every respect.
RISING = [*NOISE, "defocus_blur", "gaussian_blur", "zoom_blur", "snow", "fog", "brightness", "contrast", "pixelate"]


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


def test_all_that_are_published_are_there_each_with_a_line_of_text():
    assert len(CORRUPTIONS) == 19
    assert list(COMMON) == NAMES[:15]
    assert [name for name, corruption in CORRUPTIONS.items() if corruption.name != name] == []
    texts = [corruption.text for corruption in CORRUPTIONS.values()]
    assert len(set(texts)) == len(texts)
    assert all(text and "\n" not in text for text in texts)


@pytest.mark.parametrize("kind", ["digits", "colour"])
@pytest.mark.parametrize("name", RISING)
def test_stronger_severities_change_more(samples, kind, name):
    if kind == "digits" and name in ("pixelate", "zoom_blur"):
        return  # steps of whole pixels, and there are 8
    given = np.stack(samples[kind]).astype(np.float64)
    changes = []
    for severity in SEVERITIES:
        found = [corrupted(x, BYTES, CORRUPTIONS[name], severity, 0, i) for i, x in enumerate(samples[kind])]
        changes.append(np.abs(np.stack(found) - given).mean())
    assert changes[0] > 0.5  # grey levels of 255
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
    if CORRUPTIONS[name] not in applicable(chosen("all"), shape):
        return
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
    found = corrupted(image, BYTES, CORRUPTIONS[name], 2, 0, 0)
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
    assert not np.array_equal(found(severity=5), first)
    chance = name in [*NOISE, "glass_blur", "motion_blur", "snow", "frost", "fog", "spatter", "elastic_transform"]
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
    assert [c.name for c in applicable(chosen("all"), (1, 7, 1))] == [name for name in NAMES if name != "saturate"]
    assert [c.name for c in applicable(chosen("all"), (3, 7, 1))] == NAMES
    vector = np.linspace(-1, 1, 99, dtype=np.float32)
    values = Values(np.full(99, -1.0), np.full(99, 1.0), np.dtype(np.float32))
    for corruption in applicable(chosen("all"), (99,)):
        found = corrupted(vector, values, corruption, 5, 0, 0)
        assert (found.shape, found.dtype) == ((99,), np.float32)
        assert not np.array_equal(found, vector)


def test_names_are_chosen_in_their_order_and_once():
    assert [c.name for c in chosen("pixelate, fog,pixelate")] == ["pixelate", "fog"]
    assert [c.name for c in chosen("all")] == NAMES
    assert [c.name for c in chosen("common")] == NAMES[:15]
    with pytest.raises(BadInput, match=r"^corruptions: 'gausian_noise' is not allowed; did you mean gaussian_noise"):
        chosen("fog,gausian_noise")
    with pytest.raises(BadInput, match=r"^corruptions: 'xyz' is not allowed; it must be common, all, or of gauss"):
        chosen("xyz")
    with pytest.raises(BadInput, match=r"^corruptions: '' is not allowed"):
        chosen("")


# -- noise: moments ----------------------------------------------------------------------------------------------------

GREY = np.full((1, 300, 300), 0.4)


@pytest.mark.parametrize(("severity", "sigma"), enumerate((0.08, 0.12, 0.18, 0.26, 0.38), 1))
def test_gaussian_noise_has_the_deviation_of_imagenet_c(severity, sigma):
    noise = function("gaussian_noise", GREY, severity) - GREY
    assert noise.mean() == pytest.approx(0, abs=4 * sigma / 300)
    assert noise.std() == pytest.approx(sigma, rel=0.02)


@pytest.mark.parametrize(("severity", "sigma"), enumerate((0.15, 0.2, 0.35, 0.45, 0.6), 1))
def test_speckle_noise_grows_with_the_value(severity, sigma):
    for value in (0.2, 0.8):
        noise = function("speckle_noise", np.full_like(GREY, value), severity) - value
        assert noise.std() == pytest.approx(sigma * value, rel=0.02)
    assert (function("speckle_noise", np.zeros((1, 4, 4)), severity) == 0).all()


@pytest.mark.parametrize(("severity", "events"), enumerate((60, 25, 12, 5, 3), 1))
def test_shot_noise_counts_events(severity, events):
    found = function("shot_noise", GREY, severity)
    assert found.mean() == pytest.approx(0.4, rel=0.01)
    assert found.var() == pytest.approx(0.4 / events, rel=0.03)  # Poisson: the variance is the mean
    assert np.allclose(found * events, np.rint(found * events))
    assert (function("shot_noise", np.zeros((1, 4, 4)), severity) == 0).all()


@pytest.mark.parametrize(("severity", "share"), enumerate((0.03, 0.06, 0.09, 0.17, 0.27), 1))
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


@pytest.mark.parametrize(("severity", "sigma"), enumerate((0.4, 0.6, 0.7, 0.8, 1.0), 1))
def test_gaussian_blur_weighs_by_a_gaussian(severity, sigma):
    image = some_image((2, 8, 10))
    reach = int(4 * sigma + 0.5)
    offsets = [(i, j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)]
    weights = [math.exp(-(i * i + j * j) / (2 * sigma**2)) for i, j in offsets]
    expected = np.zeros_like(image)
    for c, y, x in np.ndindex(image.shape):
        for (i, j), weight in zip(offsets, weights, strict=True):
            expected[c, y, x] += weight / sum(weights) * image[c, min(max(y + i, 0), 7), min(max(x + j, 0), 9)]
    assert np.allclose(function("gaussian_blur", image, severity), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 40, 40), (1, 100, 90), (3, 230, 240)])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_defocus_by_fourier_transforms_or_not_is_one_filter(severity, shape):
    image = some_image(shape)
    radius, softness = blur._DEFOCUS[published_side(shape)][severity - 1]
    expected = [ndimage.correlate(channel, blur._disc(radius, softness), mode="mirror") for channel in image]
    assert np.allclose(function("defocus_blur", image, severity), expected, rtol=0, atol=1e-12)


def test_motion_blur_takes_half_a_gaussian_along_a_flat_line():
    image = np.zeros((1, 41, 41))
    image[0, 20, 20] = 1
    for seed in range(8):
        (found,) = function("motion_blur", image, 5, seed)
        angle = math.radians(np.random.default_rng(seed).uniform(-45, 45))
        expected, weights = np.zeros((41, 41)), [math.exp(-(i**2) / (2 * 2.5**2)) for i in range(19)]
        for i, weight in enumerate(weights):
            row, column = (math.ceil(i * part - 0.5) for part in (math.sin(angle), math.cos(angle)))
            expected[20 - row, 20 - column] += weight / sum(weights)
        assert np.allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("side", "severity"), [(40, 2), (33, 5), (200, 3)])
def test_glass_blur_displaces_one_pixel_after_the_other(side, severity):
    image = whole(some_image((2, side, side + 3)))
    reach = {40: 1, 33: 1, 200: 2}[side]
    rng = np.random.default_rng(3)
    offsets = np.random.default_rng(3).integers(-reach, reach, (2, side - 2 * reach, side + 3 - 2 * reach))
    expected = image.copy()
    for y in range(side - reach, reach, -1):
        for x in range(side + 3 - reach, reach, -1):
            row, column = offsets[:, y - reach - 1, x - reach - 1]
            expected[:, y, x] = expected[:, y + row, x + column]
    assert np.array_equal(blur._displaced(image, reach, rng), expected)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_zoom_blur_is_the_mean_of_magnifications(severity):
    image = some_image((2, 33, 40))
    factors = np.arange(1, [1.06, 1.11, 1.16, 1.21, 1.26][severity - 1], 0.01)
    total = image.copy()
    for factor in factors:
        taken = [math.ceil(side / factor) for side in image.shape[1:]]
        first = [(side - part) // 2 for side, part in zip(image.shape[1:], taken, strict=True)]
        middle = image[:, first[0] : first[0] + taken[0], first[1] : first[1] + taken[1]]
        larger = ndimage.zoom(middle, (1, factor, factor), order=1)
        trim = [(larger.shape[axis] - image.shape[axis]) // 2 for axis in (1, 2)]
        total += larger[:, trim[0] : trim[0] + 33, trim[1] : trim[1] + 40]
    expected = total / (len(factors) + 1)
    assert np.allclose(function("zoom_blur", image, severity), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "name", ["defocus_blur", "gaussian_blur", "glass_blur", "motion_blur", "zoom_blur", "pixelate", "contrast"]
)
def test_what_only_mixes_leaves_an_even_image_alone(name):
    even = np.full((3, 8, 6), 51 / 255)
    assert np.allclose(function(name, even, 5), even, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow", "fog", "brightness"]
)
def test_channels_are_treated_alike(name):
    grey = np.repeat(some_image((1, 9, 9)), 3, axis=0)
    found = function(name, grey, 4)
    assert np.allclose(found, found[:1], rtol=0, atol=1e-12)


# -- light and colour --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("severity", "thickness"), enumerate((0.2, 0.5, 0.75, 1, 1.5), 1))
def test_fog_is_one_layer_over_all_channels(severity, thickness):
    image = some_image((3, 24, 17))
    brightest = image.max()
    layer = (function("fog", image, severity) * (brightest + thickness) / brightest - image) / thickness
    assert np.allclose(layer, layer[:1])
    assert -1e-9 < layer.min() < layer.max() < 1 + 1e-9
    vertical = np.abs(np.diff(layer[0], axis=0)).mean()
    assert vertical < 0.7 * np.abs(np.diff(np.random.default_rng(0).permutation(layer[0].ravel()))).mean()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_and_saturation_are_those_of_hsv(severity):
    image = some_image((3, 6, 7))
    image[:, 0, 0], image[:, 0, 1], image[:, 0, 2] = 0, 0.4, 1
    more = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    times, plus = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[severity - 1]
    brighter, coloured = (function(name, image, severity) for name in ("brightness", "saturate"))
    for place in np.ndindex(6, 7):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[(slice(None), *place)])
        expected = colorsys.hsv_to_rgb(hue, saturation, min(1, value + more))
        assert brighter[(slice(None), *place)] == pytest.approx(expected)
        expected = colorsys.hsv_to_rgb(hue, min(1, saturation * times + plus), value)
        assert coloured[(slice(None), *place)] == pytest.approx(expected)


@pytest.mark.parametrize(("severity", "kept"), enumerate((0.75, 0.5, 0.4, 0.3, 0.15), 1))
def test_contrast_keeps_the_mean_of_each_channel(severity, kept):
    image = some_image((2, 4, 5))
    found = function("contrast", image, severity)
    for channel, new in zip(image, found, strict=True):
        mean = sum(channel.ravel()) / channel.size
        for before, after in zip(channel.ravel(), new.ravel(), strict=True):
            assert after == pytest.approx(mean + kept * (before - mean))


@pytest.mark.parametrize("name", ["frost", "spatter"])
def test_grey_images_are_given_the_luminance_of_what_is_coloured(name):
    grey = np.repeat(some_image((1, 12, 12)), 3, axis=0)
    colours = function(name, grey, 4)
    luminance = np.tensordot((0.299, 0.587, 0.114), colours, 1)
    assert not np.allclose(colours[0], colours[1])
    assert np.allclose(function(name, grey[:1], 4), luminance[None], atol=1e-6 if name == "spatter" else 0.05)


def test_constants_are_those_of_the_nearest_size():
    sides = {1: 32, 28: 32, 32: 32, 45: 32, 46: 64, 64: 64, 96: 64, 119: 64, 120: 224, 224: 224, 500: 224}
    assert {side: published_side((3, side, side + 9)) for side in sides} == sides
    assert published_side((64,)) == 32


# -- storing and bending -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("severity", "share"), enumerate((0.95, 0.9, 0.85, 0.75, 0.65), 1))
@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 10, 7)])
def test_pixelate_is_pillows_box_filter(severity, share, shape):
    image = whole(some_image(shape))
    size = (shape[2], shape[1])
    found = function("pixelate", image, severity)
    for channel, expected in zip(found, image, strict=True):
        stored = Image.fromarray(np.rint(expected * 255).astype(np.uint8))
        small = stored.resize([int(side * share) for side in size], Image.Resampling.BOX)
        large = np.asarray(small.resize(size, Image.Resampling.BOX))
        assert np.abs(channel * 255 - large).max() <= 1.001  # Pillow rounds twice
    assert np.allclose(found * 255, np.rint(found * 255))


def test_elastic_transform_bends_as_a_whole_and_locally():
    ramps = np.indices((224, 224)) / 223
    for severity, (most, local) in enumerate(((24, 0.2), (49, 2), (5, 3), (5, 3), (5, 3)), 1):
        moved = (function("elastic_transform", ramps, severity) - ramps)[:, 60:-60, 60:-60] * 223
        assert 0.3 < np.abs(moved).max() < 2 * most + 30
        assert (np.abs(np.diff(moved, 2, axis=1)).max() < 0.05) == (local < 1)


@pytest.mark.parametrize(("severity", "quality"), enumerate((80, 65, 58, 50, 40), 1))
def test_jpeg_is_what_pillow_stores(samples, severity, quality):
    def through(image):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    colour = corrupted(samples["colour"][1], BYTES, CORRUPTIONS["jpeg_compression"], severity, 0, 0)
    assert np.array_equal(colour.transpose(1, 2, 0), through(Image.fromarray(samples["colour"][1].transpose(1, 2, 0))))
    grey = corrupted(samples["digits"][1], BYTES, CORRUPTIONS["jpeg_compression"], severity, 0, 0)
    assert np.array_equal(grey[0], through(Image.fromarray(samples["digits"][1][0])))
    two = np.stack([samples["digits"][1][0], samples["digits"][2][0]])
    assert np.array_equal(corrupted(two, BYTES, CORRUPTIONS["jpeg_compression"], severity, 0, 0)[0], grey[0])


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
