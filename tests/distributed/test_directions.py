"""Which updates of a run leave the cosines between perturbations, and that they cost the run nothing else."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_dash.member.batch import Batch, Progress
from dist_dash.member.engine import Torch
from dist_dash.member.losses import cross_entropy
from dist_dash.member.member import Member
from dist_dash.member.sketch import SIZE, Sketch
from dist_dash.member.vector import ParameterVector
from dist_dash.methods import SAM, SGD, Measured
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import layout_from_environment
from dist_dash.ranks.peers import PendingStack
from tests.distributed.small import batches, network, run_member
from tests.e2e.runs import assert_same_run, finish, lines_of, start
from tests.support.ranks import on_ranks

PER_EPOCH = 4  # 1347 training samples in batches of 320
QUICK = [
    "--engine=Torch",
    "--model.hidden=8",
    "--loader.batch_size=320",
    "--max_steps=10",
    "--checkpoints.every_steps=3",
]


class Shy(SAM):
    """SAM whose member 1 does not perturb its weights in the updates of every other epoch, and is sick in one of them.

    Args:
        sick: the update in which its perturbation is NaN; the batch's step counts from 0.
    """

    def __init__(self, rho: float = 0.05, sick: int = -1) -> None:
        super().__init__(rho)
        self.sick, self.plain = sick, SGD()

    def update(self, member: Member, batch: Batch, exchange: Exchange) -> Measured:
        if member.index == 1 and batch.progress.step == self.sick:
            with member.perturbed(ParameterVector([torch.full_like(p, torch.nan) for p in member.parameters])):
                pass
        elif member.index == 1 and (batch.progress.step + 1) % (2 * PER_EPOCH):
            found = self.plain.update(member, batch, exchange)
            return {**found, "perturbed_loss": found["loss"], "g_loss_norm": found["loss"], "loss_rise": found["loss"]}
        return super().update(member, batch, exchange)


class Counted(Torch):
    """An engine that writes down when its exchange collects something from all members.

    Args:
        file: to which a line with the step is added.
    """

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def attach(self, module: Any, make_optimizer: Any, exchange: Exchange) -> None:
        super().attach(module, make_optimizer, exchange)
        stack = exchange.stack

        def counted(values: Tensor) -> PendingStack:
            with Path(self.file).open("a") as file:
                file.write(f"{exchange.step + 1} {len(values)}\n")
            return stack(values)

        exchange.stack = counted  # type: ignore[method-assign]


def ascents(run: Path) -> dict[int, list[list[float | None]]]:
    lines = [line for line in lines_of(run) if line["kind"] == "ascent"]
    assert all(set(line) == {"kind", "step", "epoch", "cosines"} for line in lines)
    assert all(line["epoch"] == pytest.approx(line["step"] / PER_EPOCH, abs=1e-6) for line in lines)
    return {line["step"]: line["cosines"] for line in lines}


# -- on ranks, against vectors that are known --------------------------------------------------------------------------


def own_vector(member: int, replica: int, size: int) -> ParameterVector:
    generator = torch.Generator().manual_seed(10 * member + replica)
    return ParameterVector([torch.randn(size, generator=generator), torch.ones(3)], 0.1 + member)


def ask(members: int, size: int, silent: list[int]) -> tuple[int, list[list[float]] | None]:
    layout, sketch = layout_from_environment(members), Sketch()
    if layout.member not in silent:
        sketch.see(own_vector(layout.member, layout.replica, size))
    with Exchange(layout, deadline=300) as exchange:
        return layout.replica, sketch.cosines(exchange)


@pytest.mark.parametrize(
    ("world", "members", "size", "silent"),
    [(3, 3, 100, []), (4, 2, 100, []), (3, 3, SIZE + 7, [1]), (2, 2, 50, [0, 1]), (1, 1, 50, [])],
)
def test_all_ranks_of_a_group_find_the_same(world: int, members: int, size: int, silent: list[int]) -> None:
    for replica, found in on_ranks(world, ask, members, size, silent):
        if len(silent) == members:
            assert found is None
            continue
        vectors = [own_vector(member, replica, size).materialised() for member in range(members)]
        wholes = [torch.cat(parts).double() * (member not in silent) for member, parts in enumerate(vectors)]
        expected = [[float(a @ b / (a.norm() * b.norm()).clamp_min(1e-30)) for b in wholes] for a in wholes]
        tolerance = 1e-7 if size <= SIZE else 5 / SIZE**0.5
        assert torch.allclose(torch.tensor(found), torch.tensor(expected), atol=tolerance)


def sketched_update(method: Any, members: int) -> tuple[list[list[float]] | None, Any]:
    """One update with a sketch, as a run does it; also the weights after it."""
    layout = layout_from_environment(members)
    with Exchange(layout, deadline=300) as exchange:
        engine = Torch("fp64")
        engine.attach(network(layout.member, False, torch.float64), lambda p: torch.optim.SGD(p, lr=0.1), exchange)
        member = Member(engine, layout.member, 1)
        member.sketch = Sketch()
        method.update(member, Batch(micro_batches(), Progress(0, 1000, 100)), exchange)
        return member.sketch.cosines(exchange), [p.detach().clone().numpy() for p in member.parameters]


def micro_batches() -> list[Any]:
    from dist_dash.member.batch import micro_batch

    ((x, target),) = batches(1, 1, 1, torch.float64)[0][0]
    return [micro_batch(x, target, torch.arange(len(x)), None, 0.0, torch.device("cpu"), torch.float64)]


def test_sam_ascends_along_its_gradient() -> None:
    """The cosines of a real update are those between the members' gradients."""
    gradients = []
    for index in range(3):
        net, (micro,) = network(index, False, torch.float64), micro_batches()
        found = torch.autograd.grad(cross_entropy(net(micro.x), micro.target), list(net.parameters()))
        gradients.append(torch.cat([part.flatten() for part in found]))
    expected = [[float(a @ b / a.norm() / b.norm()) for b in gradients] for a in gradients]
    assert len({round(value, 3) for row in expected for value in row}) == 4
    for found, _ in on_ranks(3, sketched_update, SAM(rho=0.3), 3):
        assert torch.allclose(torch.tensor(found), torch.tensor(expected), atol=1e-12)


def test_a_sketch_changes_no_weight() -> None:
    data = batches(1, 1, 1, torch.float64)
    settings = {"lr": 0.1}
    plain = on_ranks(3, run_plain, SAM(rho=0.3), 3, data, settings)
    for (_, weights), other in zip(on_ranks(3, sketched_update, SAM(rho=0.3), 3), plain, strict=True):
        assert all((ours == theirs).all() for ours, theirs in zip(weights, other["weights"].values(), strict=True))


def run_plain(method: Any, members: int, data: Any, settings: dict[str, float]) -> dict[str, Any]:
    return run_member(method, members, data, optimizer=settings)


# -- in runs -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(run, 3, 3, *QUICK)
    return run


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    numbers = itertools.count()

    def make(world: int, members: int, *arguments: str) -> Path:
        run = tmp_path / f"run_{next(numbers)}"
        finish(run, world, members, *QUICK, *arguments)
        return run

    return make


def test_one_line_at_the_end_of_each_epoch(undisturbed: Path) -> None:
    found = ascents(undisturbed)
    assert list(found) == [PER_EPOCH, 2 * PER_EPOCH]
    for rows in found.values():
        cosines = torch.tensor(rows)
        assert cosines.shape == (3, 3)
        assert torch.equal(cosines, cosines.T)
        assert torch.allclose(cosines.diagonal(), torch.ones(3))
        assert 0.001 < float(cosines.fill_diagonal_(0).abs().max()) < 0.999
    kinds = [line["kind"] for line in lines_of(undisturbed) if line["step"] == PER_EPOCH]
    assert kinds == ["ascent", "train", "eval"]


def test_how_often_and_whether_at_all_changes_nothing_else(undisturbed: Path, made: Callable[..., Path]) -> None:
    for epochs, steps in ((2, [2 * PER_EPOCH]), (0, [])):
        run = made(3, 3, f"--record.directions={epochs}")
        assert list(ascents(run)) == steps
        for member in range(3):
            name = f"ensemble/member_{member:02d}.safetensors"
            assert (run / name).read_bytes() == (undisturbed / name).read_bytes()
        assert (run / "evaluation.json").read_bytes() == (undisturbed / "evaluation.json").read_bytes()
        trained = [
            [{**line, "timing": None} for line in lines_of(path) if line["kind"] == "train"]
            for path in (run, undisturbed)
        ]
        assert trained[0] == trained[1]


@pytest.mark.parametrize(
    ("members", "arguments", "lines", "collected"),
    [
        (2, [], 2, [PER_EPOCH, 2 * PER_EPOCH]),
        (2, ["--record.directions=0"], 0, []),
        (1, [], 0, []),
        (2, ["--method=SGD"], 0, [PER_EPOCH, 2 * PER_EPOCH]),  # nobody knows beforehand that nobody will perturb
        (2, ["--method=SAM", "--method.rho=0"], 0, [PER_EPOCH, 2 * PER_EPOCH]),
        (2, ["--max_steps=3"], 0, []),
    ],
)
def test_what_is_collected_and_what_is_written(
    members: int, arguments: list[str], lines: int, collected: list[int], tmp_path: Path, made: Callable[..., Path]
) -> None:
    file = tmp_path / "collected"
    run = made(
        members, members, *arguments, "--engine=tests.distributed.test_directions.Counted", f"--engine.file={file}"
    )
    assert len(ascents(run)) == lines
    found = [tuple(map(int, line.split())) for line in file.read_text().splitlines()] if file.exists() else []
    assert sorted(found) == sorted((step, SIZE) for step in collected for _ in range(members))


def test_with_replicas_the_first_ones_compare(made: Callable[..., Path]) -> None:
    run = made(4, 2, "--loader.batch_size=160")
    assert list(ascents(run)) == [PER_EPOCH, 2 * PER_EPOCH]
    assert all(len(rows) == 2 for rows in ascents(run).values())


def test_a_member_that_does_not_perturb_holds_up_nobody(made: Callable[..., Path]) -> None:
    shy = ["--method=tests.distributed.test_directions.Shy"]
    found = ascents(made(3, 3, *shy))
    assert list(found) == [PER_EPOCH, 2 * PER_EPOCH]
    first, second = (torch.tensor(rows) for rows in found.values())
    assert torch.equal(first[1], torch.zeros(3))
    assert torch.equal(first[:, 1], torch.zeros(3))
    assert float(first[0, 0]) == pytest.approx(1)
    assert float(first[0, 2]) != 0
    assert bool((second != 0).all())


def test_a_sick_member_is_null(made: Callable[..., Path]) -> None:
    found = ascents(made(3, 3, "--method=tests.distributed.test_directions.Shy", f"--method.sick={PER_EPOCH - 1}"))
    rows = found[PER_EPOCH]
    assert rows[1] == [None, None, None]
    assert [row[1] for row in rows] == [None, None, None]
    assert rows[0][2] == rows[2][0] != 0
    assert rows[0][0] == pytest.approx(1)


@pytest.mark.parametrize("step", [PER_EPOCH - 3, PER_EPOCH - 1])
def test_a_resumed_run_writes_the_same_lines(step: int, undisturbed: Path, tmp_path: Path) -> None:
    """Stopped right before, and right after the line was written."""
    run = tmp_path / "run"
    (tmp_path / "orders").write_text(f"1 {step} {signal.SIGKILL if step == PER_EPOCH - 1 else signal.SIGTERM}")
    struck = ["--engine=tests.e2e.faults.Struck", f"--engine.orders={tmp_path / 'orders'}"]
    ranks = start(run, 3, 3, *QUICK, *struck)
    results = ranks.results()
    assert results == [("value", 75)] * 3 or ("killed", 9) in results, ranks.output(0)
    finish(run, 3, 3, *QUICK, *struck)
    assert ascents(run) == ascents(undisturbed)
    assert_same_run(run, undisturbed)
