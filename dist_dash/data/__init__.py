"""Samples: where they lie, which order they come in, how they are varied, and how a rank gets its share of them.

May import `metrics`, `ranks` and the files beside the folders. Start with `source.py`.
This file imports configuration classes only, none of which needs torch: `dist-dash --help` must not wait for it.
"""

from __future__ import annotations

from dist_dash.data.arrays import Arrays
from dist_dash.data.augment import Augment
from dist_dash.data.cifar import CIFAR10, CIFAR100
from dist_dash.data.digits import Digits
from dist_dash.data.idx import IDX
from dist_dash.data.image_folder import ImageFolder
from dist_dash.data.source import Source
from dist_dash.data.synthetic import Synthetic

__all__ = ["CIFAR10", "CIFAR100", "IDX", "Arrays", "Augment", "Digits", "ImageFolder", "Source", "Synthetic"]
