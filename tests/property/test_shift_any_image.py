"""What every corruption promises, for images of any size and content."""

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dist_dash.analysis.shift.corruptions import CORRUPTIONS, SEVERITIES, applicable, corrupted
from dist_dash.analysis.shift.samples import ChangedSplit
from dist_dash.analysis.shift.values import Values
from dist_dash.data.loader import EvalLoader
from dist_dash.data.source import ArraySplit, SubsetSplit

BYTES = Values(np.array(0.0), np.array(255.0), np.dtype(np.uint8))
corruption = st.sampled_from(list(CORRUPTIONS.values()))
severity = st.sampled_from(SEVERITIES)
shape = st.tuples(st.integers(1, 4), st.integers(1, 17), st.integers(1, 17))
images = shape.flatmap(lambda s: hnp.arrays(np.uint8, s))


@given(images, corruption, severity, st.integers(0, 2**40), st.integers(0, 2**40))
def test_bytes_stay_bytes_of_their_shape(image, kind, strength, seed, sample_id):
    assume(applicable([kind], image.shape))
    found = corrupted(image, BYTES, kind, strength, seed, sample_id)
    assert (found.shape, found.dtype) == (image.shape, np.uint8)
    assert np.array_equal(corrupted(image, BYTES, kind, strength, seed, sample_id), found)


@given(shape, corruption, severity, st.floats(-1e4, 1e4), st.floats(0, 1e4), st.integers(0, 99))
def test_floats_stay_in_their_range(size, kind, strength, low, width, seed):
    assume(applicable([kind], size))
    image = np.random.default_rng(seed).uniform(low - width, low + 2 * width, size).astype(np.float32)
    values = Values(np.full((size[0], 1, 1), low), np.full((size[0], 1, 1), low + width), np.dtype(np.float32))
    found = corrupted(image, values, kind, strength, seed, 0)
    assert (found.shape, found.dtype) == (size, np.float32)
    slack = 1e-6 * max(1, abs(low) + width)
    assert low - slack <= found.min() <= found.max() <= low + width + slack


@given(
    st.lists(st.integers(0, 11), min_size=1, max_size=8, unique=True), st.integers(1, 9), corruption, st.integers(0, 3)
)
def test_neither_batches_nor_other_samples_matter(ids, batch_size, kind, seed):
    assume(not kind.colours)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 1, 6, 6), dtype=np.uint8)
    base = ArraySplit(pixels, np.arange(12))

    def change(sample, index):
        return corrupted(sample, BYTES, kind, 3, seed, index)

    split = ChangedSplit(SubsetSplit(base, np.array(ids)), change)
    for batch in EvalLoader(split, batch_size=batch_size):
        for sample, label, valid in zip(batch.x.numpy(), batch.labels.tolist(), batch.valid.tolist(), strict=True):
            if valid:
                assert np.array_equal(sample, change(pixels[label], label))
