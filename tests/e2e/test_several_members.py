"""Chains of updates that become several members each: exported, evaluated, read again and joined."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dist_dash.commands.cli import main
from dist_dash.data import Digits
from dist_dash.ensembles.ensemble import load_ensemble
from dist_dash.ensembles.join import join
from dist_dash.errors import BadInput
from dist_dash.runs.folder import RunFolder
from dist_dash.runs.owner import OwnedFolder
from tests.e2e.joined import assert_joined
from tests.e2e.runs import finish

TWICE = [
    "--method=SGD",
    "--engine=Torch",
    "--max_steps=46",  # an epoch has 42 updates
    "--record.every=23",
    "--schedule=tests.distributed.proofs.TwoSnapshots",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two members of two replicas each, two snapshots each."""
    run = tmp_path_factory.mktemp("several") / "run"
    finish(run, 4, 2, *TWICE, "--loader.batch_size=16")
    return run


def test_every_snapshot_is_a_member(run: Path) -> None:
    names = [f"member_{number:02d}.safetensors" for number in range(4)]
    assert sorted(path.name for path in (run / "ensemble").iterdir()) == ["ensemble.json", *names]
    spec = json.loads((run / "ensemble/ensemble.json").read_text())
    assert [entry["file"] for entry in spec["members"]] == names
    assert (spec["format"], spec["data"]) == (2, Digits().load().facts.as_json())
    for number in (0, 2):  # the first snapshot of each chain; the second one is what the chain ended with
        assert (run / "ensemble" / names[number]).read_bytes() == (run / "snapshots" / names[number]).read_bytes()
        assert (run / "ensemble" / names[number]).read_bytes() != (run / "ensemble" / names[number + 1]).read_bytes()
    found = json.loads((run / "evaluation.json").read_text())
    assert len(found["members"]) == 4
    assert np.shape(found["diversity"]["pairwise"]["weight_cosine"]) == (4, 4)
    final = np.load(run / "predictions.npz")
    (trace,) = (run / "trace").iterdir()
    assert np.load(trace)["log_probs"].shape[0] == 2  # on the way: the present weights
    assert final["log_probs"].shape == (4, len(final["labels"]), 10)


def test_the_figures_are_those_of_whoever_evaluates_again(run: Path, tmp_path: Path) -> None:
    again = shutil.copytree(run, tmp_path / "run")
    for name in ("evaluation.json", "predictions.npz"):
        (again / name).unlink()
    assert main(["evaluate", str(again)]) == 0
    before, after = (json.loads((one / "evaluation.json").read_text()) for one in (run, again))
    assert after["ensemble"] == before["ensemble"]
    np.testing.assert_array_equal(*(np.load(one / "predictions.npz")["log_probs"] for one in (run, again)))
    assert main(["report", str(again), "--output", str(tmp_path / "report.html")]) == 0
    assert "member 3" in (tmp_path / "report.html").read_text()
    samples = np.random.default_rng(0).integers(0, 255, (5, 1, 8, 8), dtype=np.uint8)
    assert load_ensemble(again).predict(samples).member_probs.shape == (4, 5, 10)


def test_parts_of_several_members_are_joined(tmp_path: Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    finish(together, 2, 2, *TWICE)
    for member in range(2):
        finish(alone / f"member_{member:02d}", 1, 2, *TWICE, f"--member={member}")
    names = {path.name for path in (alone / "member_01/ensemble").iterdir()}
    assert names == {"ensemble.json", "member_02.safetensors", "member_03.safetensors"}
    assert join(alone)
    assert_joined(alone, together)
    spec = alone / "member_01/ensemble/ensemble.json"
    content = {name: value for name, value in json.loads(spec.read_text()).items() if name != "blake2b"}
    spec.write_text(json.dumps({**content, "members": content["members"][:1]}))
    member = OwnedFolder(RunFolder(alone).member(1).path)
    member.mark(member.done)
    with pytest.raises(BadInput, match=r"member_01 holds member_02\.safetensors; it must hold member_01\.safetensors"):
        join(alone)
