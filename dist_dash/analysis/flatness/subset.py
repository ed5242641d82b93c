"""A fixed, seeded part of a split, in memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dist_dash.data.loader import EvalLoader
from dist_dash.data.source import SubsetSplit
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.errors import BadInput, require_count
from dist_dash.recipe.recipe import Loader
from dist_dash.seeds import derived_seed


def subset(run: FinishedRun, split: str, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Samples as they are evaluated, not augmented, with the labels that the run had for them (noisy in `train`).

    Args:
        run: whose data are meant.
        split: `train`, `validation` or `test`.
        samples: at most so many; unreadable ones are missing where the recipe skips them.
        seed: decides which; equal for all runs of the same data.

    Returns:
        x `[n, *shape]` as stored, y int64 `[n]`, in the split's order.

    Raises:
        BadInput: the data cannot be reached, there is no such split, or no sample of it can be read.
    """
    require_count("samples", samples)
    of = run.data().evaluation_split(split)
    generator = np.random.default_rng(derived_seed("subset", seed, len(of)))
    chosen = np.sort(generator.permutation(len(of))[:samples])
    on_bad_sample = run.group("loader", Loader).on_bad_sample
    batches = list(EvalLoader(SubsetSplit(of, chosen), batch_size=256, on_bad_sample=on_bad_sample))
    x = torch.cat([batch.x[batch.valid] for batch in batches])
    if not len(x):
        raise BadInput(f"data: none of {len(chosen)} samples of the {split} split can be read")
    return x, torch.cat([batch.labels[batch.valid] for batch in batches])
