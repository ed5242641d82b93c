"""The scaling study as Slurm arrays: one per number of ranks, then the table of all of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from dist_dash.runs.folder import RunFolder
from tests.e2e.runs import SMALL
from tests.e2e.test_launch import LIGHT
from tests.slurm.cluster import SlurmCluster
from tests.slurm.jobs import ROOT, Said

ENVIRONMENT = f"--environment={json.dumps({'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'})}"


def test_a_study_on_two_nodes(cluster: SlurmCluster, tmp_path: Path, evidence: list[Path]) -> None:
    evidence.append(tmp_path)
    recipe = [a for a in [*SMALL, *LIGHT] if not a.startswith(("--max_steps", "--record", "--checkpoints"))]
    short = ["--steps=30", "--warm-up=10", "--repeats=1", f"--folder={tmp_path / 'study'}"]
    grid = ["--members=1,2", "--replicas=1,2", "--scaling=weak", "--tasks-per-node=2", "--time=60", ENVIRONMENT]
    with cluster.activated():
        said = Said("scaling", "--executor=slurm", *grid, *short, *recipe, "--engine=Torch")
        assert said.status == 0, said.err
    rows = list(csv.DictReader((tmp_path / "study/scaling.csv").open()))
    assert {(row["members"], row["replicas"]) for row in rows} == {("1", "1"), ("2", "1"), ("1", "2"), ("2", "2")}
    assert (tmp_path / "study/scaling.png").stat().st_size > 10_000
    runs = [path.parent for path in (tmp_path / "study").glob("m*/environment.json")]
    jobs = {str(RunFolder(run).submitted()["job"]).partition("_")[0] for run in runs}
    assert (len(runs), len(jobs)) == (4, 3), "one submission for runs of 1, 2 and 4 ranks each"
    for path in (tmp_path / "study").glob("m2_r2_*/environment.json"):
        assert (
            json.loads(path.read_text())["layout"] | {"world": 4, "ranks_on_first_host": 2}
            == json.loads(path.read_text())["layout"]
        )
