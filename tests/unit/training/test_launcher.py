"""Local ranks under a torch whose agent can be asked to wait, and under one whose agent cannot."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dist_dash.errors import BadInput
from dist_dash.recipe.parsing import parse_command
from dist_dash.training import grace, launcher

SAMPLE = str(Path(__file__).parents[1] / "sample.yaml")


class Earlier(SimpleNamespace):
    """torch 2.11's `LaunchConfig`: any argument of today's but the shutdown timeout."""

    def __init__(
        self, min_nodes, max_nodes, nproc_per_node, run_id, rdzv_backend, rdzv_endpoint, local_addr, max_restarts,
        signals_to_handle,
    ):  # fmt: skip
        super().__init__(nproc_per_node=nproc_per_node, signals_to_handle=signals_to_handle)


class Later(SimpleNamespace):
    def __init__(self, shutdown_timeout=None, **others):
        super().__init__(shutdown_timeout=shutdown_timeout, **others)


@pytest.fixture
def started(monkeypatch, tmp_path):
    """The configuration and the words with which torch was asked to start ranks."""
    found = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        launcher, "elastic_launch", lambda config, *command: lambda *words: found.append((config, words))
    )
    return found


@pytest.mark.parametrize("config", [Earlier, Later])
def test_local_ranks_start_whether_or_not_torch_can_be_asked_to_wait(config, started, monkeypatch):
    monkeypatch.setattr(launcher, "LaunchConfig", config)
    arguments = ["--config", SAMPLE, "--members=2", "--replicas=2"]
    assert launcher.launch_local(arguments, parse_command(arguments)) == 0
    ((asked, words),) = started
    assert (asked.nproc_per_node, words[-1]) == (4, "--members=2")
    assert vars(asked).get("shutdown_timeout") == (grace.GRACE if config is Later else None)


@pytest.mark.parametrize(("words", "ranks"), [(["--members=8"], 2), ([], 1)])
def test_a_rank_for_every_so_many_members(words, ranks, started, monkeypatch):
    monkeypatch.setattr(launcher, "default_members", lambda: 2)
    arguments = ["--config", SAMPLE, "--engine=Torch", "--members_per_rank=4", *words]
    assert launcher.launch_local(arguments, parse_command(arguments)) == 0
    ((asked, given),) = started
    assert (asked.nproc_per_node, given[-1]) == (ranks, f"--members={4 * ranks}")


@pytest.mark.parametrize(("source", "words"), [("--nnodes", []), ("--shutdown-timeout", ["--shutdown-timeout", "7"])])
def test_torchrun_is_asked_only_what_it_knows(source, words, monkeypatch, tmp_path):
    (tmp_path / "torch/distributed").mkdir(parents=True)
    (tmp_path / "torch/distributed/run.py").write_text(f'parser.add_argument("{source}")')
    spec = SimpleNamespace(origin=str(tmp_path / "torch/__init__.py"))
    monkeypatch.setattr(grace.importlib.util, "find_spec", lambda name: spec if name == "torch" else None)
    signals = "SIGHUP,SIGINT,SIGTERM,SIGUSR1,SIGUSR2"
    assert grace.torchrun_options("7") == ["--signals-to-handle", signals, *words]
    quiet = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); signal.signal(signal.SIGINT, signal.SIG_IGN);"
    script = f"{quiet} from dist_dash.training.grace import signals_to_handle; print(signals_to_handle())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "SIGTERM,SIGUSR1,SIGUSR2\n"  # under nohup, in a script's background


def test_more_ranks_than_a_machine_can_hold_are_refused(tmp_path):
    command = parse_command(["--config", SAMPLE, f"--run={tmp_path / 'run'}", "--members=1000000"])
    with pytest.raises(BadInput, match=r"^members: 1000000 is not allowed; it must be so small"):
        launcher.launch_local([], command)
    assert not (tmp_path / "run").exists()
