"""What crosses between ranks: NCCL with one rank; several ranks on one GPU, through pinned memory, against the CPU."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.gpu.part import Part, run
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from tests.support.ranks import on_ranks

Found = dict[str, Any]
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


def one_rank(samples: int, classes: int, rounds: int) -> Found:
    """The collectives of the exchange on a group of this rank alone: each must give back what it was given."""
    with Exchange(layout_from_environment(1), deadline=30) as exchange:
        device, group = exchange.layout.device, exchange.replica_group
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        values = torch.randn(samples, classes, device=device)
        times, equal = [], True
        for _ in range(rounds):
            started = time.perf_counter()
            received, total = torch.empty_like(values), values.clone()
            works = [gather(received, values, group=group, async_op=True), dist.all_reduce(total, async_op=True)]
            with exchange.clock.waiting("wait"):
                for work in works:
                    work.wait()
            exchange.await_device()
            times.append(time.perf_counter() - started)
            equal = equal and bool(torch.equal(received, values) and torch.equal(total, values))
        waited = exchange.clock.read()["wait"]
        return {"backend": exchange.layout.backend, "equal": equal, "seconds": times[1:], "waited": waited}


def several(mode: str, samples: int, classes: int, rounds: int) -> Found:
    """Peers of logits that the device is still computing, received while it is busy; and the time of an exchange."""
    means, counts, times = [], [], []
    with Exchange(layout_from_environment(None), mode, deadline=20) as exchange:  # type: ignore[arg-type]
        layout, views = exchange.layout, ("logits", "probs")
        cuda = layout.device.type == "cuda"
        one = torch.eye(4096 if cuda else 8, device=layout.device)
        for number in range(rounds):
            draw = torch.Generator().manual_seed(1000 * number + layout.rank)
            drawn = torch.randn(samples, classes, generator=draw).to(layout.device)
            for _ in range(5):
                one = one @ one
            pending = exchange.gather(drawn * one[0, 0], views)  # these are known once the products are
            for _ in range(5):
                one = one @ one  # in place of the backward that hides the exchange
            peers = pending.wait()
            # Would take the place of what was received, were it free before it has been copied.
            torch.full((layout.members, samples, classes), float("nan"), pin_memory=cuda)
            means.append(torch.stack([peers.mean_logits, peers.mean_probs]).cpu())
            counts.append(float(peers.count))
            exchange.collect(0)
            started = time.perf_counter()
            exchange.gather(drawn, views).wait().mean_logits.cpu()
            times.append(time.perf_counter() - started)
    where = f"{layout.device} by {layout.backend}"
    return {"means": torch.stack(means).numpy(), "counts": counts, "seconds": times[1:], "where": where}


def exchange(part: Part) -> None:
    size = (8, 10, 3) if part.tiny else (128, 1000, 20)
    with part.section("NCCL, one rank"):
        (one,) = on_ranks(1, one_rank, *size, deadline=part.within(40))
        wanted = "nccl" if part.device == "cuda" else "gloo"
        fine = one["equal"] and one["backend"] == wanted
        part.add("NCCL, one rank: results are the inputs", float(fine), note=f"backend {one['backend']}", ok=fine)
        note = f"all-gather and all-reduce, [{size[0]}, {size[1]}] fp32"
        part.add("NCCL, one rank: two collectives", 1e3 * statistics.median(one["seconds"]), "ms", note=note)
    ranks = 2 if part.tiny else 4
    for mode in ("gather", "reduce"):
        with part.section(f"{ranks} ranks on one GPU, {mode}"):
            shared = on_ranks(ranks, several, mode, *size, environment=part.one_gpu, deadline=part.within(25))
            host = on_ranks(ranks, several, mode, *size, environment=NO_GPU, deadline=part.within(25))
            expected = "cuda:0 by gloo" if part.device == "cuda" else "cpu by gloo"
            fine = all(rank["where"] == expected and set(rank["counts"]) == {ranks - 1.0} for rank in shared)
            apart = max(float(abs(a["means"] - b["means"]).max()) for a, b in zip(shared, host, strict=True))
            name, where = f"{ranks} ranks on one GPU, {mode}", shared[0]["where"]
            part.add(f"{name}: peers against the CPU's", apart, "apart", 1e-5, where, ok=fine and apart <= 1e-5)
            seconds = [time for rank in shared for time in rank["seconds"]]
            note = f"[{size[0]}, {size[1]}] fp32 through pinned memory, nothing to hide it behind"
            part.add(f"{name}: an exchange", 1e3 * statistics.median(seconds), "ms", note=note)


if __name__ == "__main__":
    run(exchange)
