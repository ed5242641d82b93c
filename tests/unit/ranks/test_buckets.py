"""How vectors are cut into buckets, and put together again."""

from __future__ import annotations

import pytest
import torch

from dist_dash.ranks.buckets import Mean, buckets_of
from dist_dash.ranks.transport import Transfer


@pytest.mark.parametrize("megabytes", [1e-4, 0.5, 25.0, 1e9])
def test_buckets_hold_every_tensor_once_in_order(megabytes: float) -> None:
    sizes = [3, 700_000, 1, 1, 40_000, 300_000, 20, 5, 250_000, 260_000, 1_000_000, 9]
    types = [torch.float32] * 7 + [torch.float64] + [torch.float32] * 4
    tensors = [torch.empty(n, dtype=t) for n, t in zip(sizes, types, strict=True)]
    buckets = buckets_of(tensors, megabytes)
    assert [position for bucket in buckets for position in bucket] == [*range(len(tensors))]
    total = sum(t.nbytes for t in tensors)
    for bucket in buckets:
        assert len({tensors[i].dtype for i in bucket}) == 1
        assert len(bucket) == 1 or sum(tensors[i].nbytes for i in bucket) <= min(1e6 * megabytes, max(1e6, total / 8))
    assert len(buckets) == {1e-4: 11, 0.5: 10}.get(megabytes, 9)


def test_a_mean_has_the_layout_of_its_parameter_and_zeros_for_what_never_came() -> None:
    like = [torch.empty(2, 3, 4, 4).contiguous(memory_format=torch.channels_last), torch.empty(6, 4).t(), torch.ones(3)]
    values = {0: torch.randn(2, 3, 4, 4), 1: torch.randn(4, 6)}
    sent = []

    def start(flat: torch.Tensor) -> Transfer:
        sent.append(len(flat))
        return Transfer(lambda: flat.mul_(2))

    mean = Mean([[2, 1], [0]], like, values.get, start)
    assert mean.arrived(0)
    assert sent == []  # behind the first bucket
    assert mean.arrived(1)
    assert not mean.send_rest()
    assert sent == [27, 96]
    assert not mean.arrived(1)
    found = mean.wait()
    assert all(found[i].stride() == like[i].stride() for i in range(3))
    assert torch.equal(found[0], 2 * values[0])
    assert torch.equal(found[1], 2 * values[1])
    assert not found[2].any()
