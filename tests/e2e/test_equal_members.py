"""Members that would start equal and stay so are refused; each way out makes them differ."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from dist_dash.commands.cli import main
from dist_dash.models.custom import Custom
from dist_dash.models.network import add_noise, draws_in_training, seeded_network
from tests.support.ranks import Ranks

LAZY = ["--model=Custom", "--model.target=tests.e2e.pictures:lazy", "--engine=Torch"]
LAZY += ["--data=Digits", "--optimizer=SGD", "--optimizer.lr=0.01", "--max_steps=2", "--record.progress=false"]
DATA = (1, 8, 8), 10, (0.5,), (0.5,), True


def lazy(seed: int, dropout: float = 0.0) -> torch.nn.Sequential:
    return seeded_network(seed, Custom("tests.e2e.pictures:lazy", {"dropout": dropout}), *DATA, heads=(10,))


def weights(network: torch.nn.Module) -> np.ndarray:
    return torch.cat([p.detach().reshape(-1) for p in network.parameters()]).numpy()


def run(folder: Path, *arguments: str) -> tuple[list[int], list[str], list[np.ndarray]]:
    """Two members of DASH: exit statuses, what was said, the members' weights where they were exported."""
    ranks = Ranks(2, main, ["train", *LAZY, f"--run={folder}", "--members=2", *arguments])
    statuses = [value for _, value in ranks.results()]
    found = [safetensors.numpy.load_file(file) for file in sorted(folder.glob("ensemble/*.safetensors"))]
    flat = [np.concatenate([one[name].reshape(-1) for name in sorted(one)]) for one in found]
    return statuses, [line for rank in range(2) for line in ranks.output(rank).splitlines()], flat


def test_lazy_layers_are_drawn_from_the_seed() -> None:
    torch.manual_seed(5)
    one = lazy(0)
    torch.manual_seed(6)
    np.testing.assert_array_equal(weights(one), weights(lazy(0)))
    assert not np.array_equal(weights(one), weights(lazy(1)))
    state = torch.get_rng_state()
    lazy(2)
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_is_seeded_and_as_large_as_said() -> None:
    plain, one, again, other = (lazy(0) for _ in range(4))
    for network, seed in ((one, 1), (again, 1), (other, 2)):
        add_noise(network, 0.1, seed)
    np.testing.assert_array_equal(weights(one), weights(again))
    assert not np.array_equal(weights(one), weights(other))
    for before, after in zip(plain.parameters(), one.parameters(), strict=True):
        ratio = (after - before).detach().norm() / before.detach().norm()
        assert 0.03 < float(ratio) < 0.2


@pytest.mark.parametrize(("dropout", "draws"), [(0.0, False), (0.5, True)])
def test_chance_in_training_is_noticed(dropout: float, draws: bool) -> None:
    network, state = lazy(0, dropout), torch.get_rng_state()
    assert draws_in_training(network, (1, 8, 8)) == draws
    assert torch.equal(torch.get_rng_state(), state)


def test_equal_members_are_refused_and_every_way_out_makes_them_differ(tmp_path: Path) -> None:
    statuses, said, _ = run(tmp_path / "shared", "--init=shared")
    assert statuses == [2, 2]
    (line,) = said
    assert line.startswith(
        "dist-dash: init: members 0 and 1 start equal, and DASH would keep them equal; use init: own, "
    )
    assert not (tmp_path / "shared/recipe.yaml").exists()
    statuses, said, members = run(tmp_path / "own")
    assert statuses == [0, 0], said
    files = [str(tmp_path / f"own/ensemble/member_{i:02d}.safetensors") for i in range(2)]
    assert run(tmp_path / "one", f"--init={files[0]}")[0] == [2, 2]
    ways = {
        "noise": [f"--init={files[0]}", "--init_noise=0.01"],
        "files": [f"--init={json.dumps(files)}", "--optimizer.lr=1e-12"],
        "dropout": ["--init=shared", "--model.kwargs={dropout: 0.5}"],
        "no exchange": ["--init=shared", "--method=SGD", "--model.kwargs={dropout: 0.5}"],
    }
    for name, arguments in ways.items():
        statuses, said, found = run(tmp_path / name, *arguments)
        assert statuses == [0, 0], (name, said)
        assert not np.array_equal(*found), name
        if name == "files":
            for member, before in zip(found, members, strict=True):
                np.testing.assert_allclose(member, before, atol=1e-6)
    statuses, (line,), _ = run(tmp_path / "three", f"--init={json.dumps([*files, files[0]])}")
    assert (statuses, line) == (
        [2, 2],
        "dist-dash: init: 3 is not allowed; it must be one file per member (2 members)",
    )
