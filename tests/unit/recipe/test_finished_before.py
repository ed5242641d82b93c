"""The same command on a finished run has nothing to do; another one is refused, with what differs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from dist_dash.errors import BadInput
from dist_dash.recipe.parsing import Command, parse_command
from dist_dash.recipe.recipe_of_run import finished_before
from dist_dash.runs.owner import OwnedFolder

GIVEN = ["--data=Digits", "--model=MLP", "--method=DASH", "--optimizer=SGD", "--optimizer.lr=0.1", "--engine=Torch"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of two members on one rank each, as far as its settings go."""
    folder = OwnedFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.recipe.write_text(asked(folder.path).as_yaml(2))
    folder.environment.write_text(json.dumps({"layout": {"members": 2, "replicas": 1, "first_member": 0}}))
    folder.mark(folder.done)
    return folder.path


def asked(run: Path, *arguments: str) -> Command:
    return parse_command([*GIVEN, f"--run={run}", *arguments])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--record.every=3", "--checks.deadline=7", "--checkpoints.keep=5", "--loader.workers=2"],
        ["--members=2"],
        ["--replicas=1"],
        ["--extend"],
        ["--optimizer=torch.optim.SGD", "--optimizer.lr=0.1"],
    ],
)
def test_there_is_nothing_left_to_do(arguments: list[str], run: Path) -> None:
    assert finished_before(asked(run, *arguments), 2, 1)


DIFFERENT = {
    "seed 0 → 4": ["--seed=4"],
    "optimizer.lr 0.1 → 0.2": ["--optimizer.lr=0.2"],
    "epochs 10 → 11": ["--epochs=11"],
    "epochs 10 → 9; max_steps None → 5": ["--epochs=9", "--max_steps=5"],
    "labels.noise 0.0 → 0.2": ["--labels.noise=0.2"],
    "data.class_path 'Digits' → 'Synthetic'": ["--data=Synthetic"],
    "method.class_path 'DASH' → 'SGD'": ["--method=SGD"],
    "first_member 0 → 1": ["--members=2", "--method=SGD", "--member=1"],
    "init 'own' → 'shared'": ["--init=shared"],
}


@pytest.mark.parametrize("difference", DIFFERENT)
def test_other_settings_are_listed(difference: str, run: Path) -> None:
    with pytest.raises(BadInput) as caught:
        finished_before(asked(run, *DIFFERENT[difference]), 2, 1)
    text = str(caught.value)
    assert text.startswith(f"run: {run} was started with other settings (")
    assert difference in text
    assert ("--extend" in text) == difference.startswith("epochs")
    assert not finished_before(asked(run, *DIFFERENT[difference], "--fresh"), 2, 1)


def test_other_numbers_of_ranks_are_listed(run: Path) -> None:
    with pytest.raises(BadInput, match=r"\(members 2 → 4; replicas 1 → 2\)"):
        finished_before(asked(run), 4, 2)


def test_a_longer_run_goes_on_where_that_is_asked_for(run: Path) -> None:
    assert not finished_before(asked(run, "--extend", "--epochs=11"), 2, 1)
    with pytest.raises(BadInput, match=r"\(seed 0 → 1\); use another --run, or --fresh"):
        finished_before(asked(run, "--extend", "--epochs=11", "--seed=1"), 2, 1)
    with pytest.raises(BadInput, match="extend: not allowed with --fresh"):
        asked(run, "--extend", "--fresh")


@pytest.mark.parametrize("kept", ["digest", "none", "other"])
def test_data_that_have_moved_are_the_same_where_their_digest_says_so(kept: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"x_{part}": rng.random((6, 3), np.float32) for part in ("train", "test")}
    arrays |= {f"y_{part}": np.arange(6) % 2 for part in ("train", "test")}
    for name in ("then.npz", "now.npz"):
        np.savez(tmp_path / name, **arrays)
    folder, path = OwnedFolder(tmp_path / "run"), f"--data.path={tmp_path}"
    (folder.path / "ensemble").mkdir(parents=True)
    before = parse_command([*GIVEN, f"--run={folder.path}", "--data=Arrays", f"{path}/then.npz"])
    facts = before.recipe.data.load().facts.as_json()
    known = {"digest": {"data": facts}, "none": {}, "other": {"data": {**facts, "digest": "0" * 32}}}[kept]
    (folder.ensemble / "ensemble.json").write_text(json.dumps(known))
    folder.recipe.write_text(before.as_yaml(2))
    folder.mark(folder.done)
    (tmp_path / "then.npz").unlink()
    now = parse_command([*GIVEN, f"--run={folder.path}", "--data=Arrays", f"{path}/now.npz"])
    if kept == "digest":
        assert finished_before(now, 2, 1)
        now.recipe.seed = now.resolved["seed"] = 1
    with pytest.raises(BadInput, match="seed 0 → 1" if kept == "digest" else r"data\.path '.*then\.npz' → '"):
        finished_before(now, 2, 1)


def test_a_run_of_a_version_with_fewer_fields(run: Path) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    del recipe["deterministic"], recipe["method"]["init_args"]["rho_div"], recipe["augment"]
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (run / "DONE").write_text("")  # as earlier versions left it
    assert finished_before(asked(run), 2, 1)
    with pytest.raises(BadInput, match="deterministic True → False"):
        finished_before(asked(run, "--deterministic=false"), 2, 1)


@pytest.mark.parametrize("content", ["", "epochs: [", "- a", "epochs: 11\n"])
def test_settings_that_cannot_be_read_are_not_taken_for_the_same(content: str, run: Path) -> None:
    (run / "recipe.yaml").write_text(content)
    with pytest.raises(BadInput, match=r"recipe\.yaml has changed since the run was finished"):
        finished_before(asked(run), 2, 1)
    (run / "DONE").write_text("")
    with pytest.raises(BadInput, match=r"^run: "):
        finished_before(asked(run), 2, 1)
