"""The cluster that all tests here share: when they are skipped, what is tidied up between them, what they report."""

from __future__ import annotations

import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import SlurmCluster, SlurmError, can_isolate, missing

QUESTIONS = (
    ["squeue", "--all", "--states=all"],
    ["sinfo", "--Node", "--long"],
    ["sacct", "--duplicates", "--format=JobID,JobName,Partition,NodeList,State,ExitCode,Start,End"],
)
LINES = 60


def pytest_runtest_setup(item: pytest.Item) -> None:
    if lacking := missing():
        pytest.skip(f"needs Slurm: apt-get install {' '.join(lacking)}")
    if item.get_closest_marker("isolated") and not can_isolate():
        pytest.skip("needs root and name spaces")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with SlurmCluster(nodes=2, cpus=4, gpus=2, logs=tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def tidy(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test meets the jobs or the broken nodes of another one."""
    yield
    if cluster := request.node.funcargs.get("cluster"):
        cluster.reset()


@pytest.fixture
def evidence() -> list[Path]:
    """Folders of a test whose logs are shown if it fails; to be filled by the test."""
    return []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        values = getattr(item, "funcargs", {})
        if cluster := values.get("cluster"):
            report.sections += [(" ".join(question), ask(cluster, question)) for question in QUESTIONS]
        for folder in values.get("evidence", []):
            logs = sorted(path for path in folder.rglob("*") if path.suffix in (".out", ".err", ".log"))
            report.sections += [(str(path), tail(path.read_text(errors="replace"))) for path in logs]
    return report


def ask(cluster: SlurmCluster, question: list[str]) -> str:
    try:
        return tail(cluster.run(*question))
    except (SlurmError, subprocess.TimeoutExpired) as error:
        return str(error)


def tail(text: str) -> str:
    return "\n".join(text.splitlines()[-LINES:])
