"""`torchrun --max-restarts`: a killed rank ends the attempt; the next one continues the run from its last set."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.runs import SMALL, assert_same_run, finish
from tests.e2e.test_launch import LIGHT, Launched
from tests.support.ranks import free_port


@pytest.mark.parametrize("agents", [1, 2])
def test_a_restarted_attempt_continues_the_run(agents: int, tmp_path: Path) -> None:
    """One agent keeps its store over the restart; of two, only the one whose rank died counts it as a restart."""
    run, orders = tmp_path / "run", tmp_path / "orders"
    orders.write_text(f"1 30 {signal.SIGKILL}")
    struck = [*LIGHT, "--engine=tests.e2e.faults.Struck", f"--engine.orders={orders}"]
    ranks = ["--max-restarts", "2", "--nproc-per-node", str(2 // agents), "--local-addr", "127.0.0.1"]
    endpoint = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    launcher = ["torchrun", *ranks, *endpoint, "--nnodes", str(agents), "--rdzv-id", tmp_path.name]
    command = [*launcher, "-m", "dist_dash", "--", "train", *SMALL, *struck, f"--run={run}", "--fresh"]
    environment = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"} if agents == 2 else {}
    with ExitStack() as stack:
        launched = [stack.enter_context(Launched(*command, **environment)) for _ in range(agents)]
        output = "".join(f"{agent.wait()}\n{agent.output}" for agent in launched)
    assert not orders.exists(), output
    assert (run / "DONE").exists(), output
    assert f"continuing {run} at step 20 of 60" in output
    finish(tmp_path / "undisturbed", 2, 2, *struck)
    assert_same_run(run, tmp_path / "undisturbed")
