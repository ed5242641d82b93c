"""Severity s is that of CIFAR-10-C, Tiny-ImageNet-C and ImageNet-C: as strong, in PSNR, as the published programs."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from dist_dash.analysis.shift.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from dist_dash.analysis.shift.values import Values
from tests.unit.analysis.published_psnr import PSNR

BYTES = Values(np.array(0.0), np.array(255.0), np.dtype(np.uint8))
ROWS = {32: 4, 64: 2, 224: 1}
# Where an image has one random field, or one direction, a few images are not a sample.
REPETITIONS = {
    64: {"fog": 12, "elastic_transform": 3, "frost": 12, "spatter": 3, "motion_blur": 3},
    224: {"fog": 12, "elastic_transform": 16, "frost": 12, "spatter": 12, "motion_blur": 6, "snow": 3},
}


@pytest.fixture(scope="module")
def tiles():
    """Two photographs, cut into squares of each side: bytes `[N, 3, side, side]`."""
    found = {}
    for side, rows in ROWS.items():
        cut = []
        for photograph in map(Image.fromarray, load_sample_images().images):
            width = max(rows * side, round(photograph.width * rows * side / photograph.height))
            small = np.asarray(photograph.resize((width, rows * side), Image.Resampling.BILINEAR))
            places = [(row, column) for row in range(rows) for column in range(width // side)]
            cut += [small[r * side :, c * side :][:side, :side].transpose(2, 0, 1) for r, c in places]
        found[side] = np.stack(cut)
    return found


def psnr(images, kind, severity, repetitions):
    errors = [
        ((corrupted(image, BYTES, CORRUPTIONS[kind], severity, repetition, index) - image.astype(float)) ** 2).mean()
        for repetition in range(repetitions)
        for index, image in enumerate(images)
    ]
    return 10 * np.log10(255**2 / np.mean(errors))


@pytest.mark.parametrize("kind", list(CORRUPTIONS))
@pytest.mark.parametrize("side", list(ROWS))
def test_as_strong_as_published(tiles, side, kind):
    repetitions = REPETITIONS.get(side, {}).get(kind, 1)
    found = [psnr(tiles[side], kind, severity, repetitions) for severity in SEVERITIES]
    assert found == pytest.approx(PSNR[side][kind], abs=0.5)
