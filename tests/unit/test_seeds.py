import os
import subprocess
import sys
from itertools import product

import torch

from dist_dash.seeds import derived_seed


def test_a_seed_is_the_same_on_every_machine():
    # Written down once: a change would make old runs unrepeatable.
    assert derived_seed("weights", 0, 1) == 7491421151205753486
    assert derived_seed("direction", 3, 1, 4) == 6277448711228249261
    assert derived_seed("rank") == 3331338064596952686


def test_a_seed_does_not_depend_on_the_process():
    code = "from dist_dash.seeds import derived_seed; print(derived_seed('order', 7, 2))"
    found = {
        subprocess.check_output([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": s})
        for s in ("1", "2")
    }
    assert found == {f"{derived_seed('order', 7, 2)}\n".encode()}


def test_purposes_seeds_and_parts_give_different_streams():
    found = [derived_seed(*parts) for parts in product(("weights", "order", "rank"), range(20), range(20))]
    found += [derived_seed("weights", 1), derived_seed("weights", 11), derived_seed("weights", 1, 1, 1)]
    assert len(set(found)) == len(found)


def test_every_seed_fits_torchs_generators():
    seeds = [derived_seed("weights", s) for s in range(2000)]
    assert all(0 <= s < 2**63 for s in seeds)
    assert max(seeds) > 2**62  # the whole range is used
    torch.Generator().manual_seed(max(seeds))
