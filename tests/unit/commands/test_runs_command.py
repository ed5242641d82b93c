"""`dist-dash runs`: which folders are runs, and what is shown of them, once or live."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from complaints import cli_complaint
from rich.console import Console
from runs_by_hand import EVAL, HOLD, TRAIN, dead, lines, made, submitted

from dist_dash.commands.cli import main
from dist_dash.runs import view as module
from dist_dash.runs.owner import OwnedFolder
from dist_dash.runs.states import RunState, find_runs, states
from dist_dash.runs.view import as_json, show_runs, summary, table, watch

pytestmark = pytest.mark.usefixtures("no_slurm")


# -- which folders are runs --------------------------------------------------------------------------------------------


def test_runs_are_found_at_any_depth_in_natural_order(tmp_path):
    for name in ("s10", "s2", "deep/er/s1", "s2/member_01", "s2/member_00"):
        made(tmp_path / "runs" / name)
    OwnedFolder(tmp_path / "runs/submitted").note_job("1", tmp_path)
    (tmp_path / "runs/locked").mkdir()
    (tmp_path / "runs/locked/owner.lock").touch()
    names = [str(path.relative_to(tmp_path / "runs")) for path in find_runs(tmp_path / "runs")]
    assert names == ["deep/er/s1", "locked", "s2", "s2/member_00", "s2/member_01", "s10", "submitted"]


def test_what_belongs_to_a_run_is_none(tmp_path):
    folder = made(tmp_path / "run")
    for own in (folder.checkpoints, folder.ensemble, folder.tensorboard, folder.jobs, tmp_path / "run/.hidden"):
        made(own / "nested")
    (tmp_path / "run/recipes").mkdir()
    (tmp_path / "run/recipes/recipe.yaml").touch()
    assert find_runs(tmp_path / "run") == [tmp_path / "run"]


def test_bad_folders_are_refused_in_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "logs").mkdir()
    assert cli_complaint(capsys, "runs", "gone") == "dist-dash: folder: gone is missing; it must be a folder of runs\n"
    assert "folder: file is a file; it must be" in cli_complaint(capsys, "runs", "file", "--json")
    assert "folder: logs holds no run; it must be" in cli_complaint(capsys, "runs", "logs", "--watch")
    assert "folder" in cli_complaint(capsys, "runs")
    assert "watch: not allowed with --json" in cli_complaint(capsys, "runs", "logs", "--watch", "--json")


# -- what it looks like ------------------------------------------------------------------------------------------------


def some(name: str, state: str = "done", **facts: object) -> RunState:
    usual = {"continued": 0, "step": 120, "total_steps": 600, "metrics": {}, "job": "", "why": "", "updated": None}
    return RunState(Path("runs", name), state, **{**usual, **facts})


def printed(thing: object, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(thing)
    return console.file.getvalue()


ALL = {"loss": 0.6711, "accuracy": 0.9577, "ensemble_accuracy": 0.961}


def test_the_table_says_what_is_known():
    text = printed(
        table([some("a", "running", continued=2, metrics=ALL, job="123_4"), some("b", "failed", why="TIMEOUT")])
    )
    for word in ("running,", "continued 2×", "120/600", "0.6711", "95.77%", "96.10%", "123_4", "TIMEOUT"):
        assert word in text
    assert "runs/" not in text
    assert "job" not in printed(table([some("a")]))
    assert "nan" in printed(table([some("a", metrics={"loss": float("nan")})]))
    assert "120 " in printed(table([some("a", total_steps=None)]))
    assert printed(table([]))


def test_markup_in_names_and_reasons_does_no_harm(tmp_path):
    folder = made(tmp_path / "[red]x", pid=dead())
    folder.mark(folder.failed, "[/bold] member [1] \x1b[2J")
    for width in (50, 200):
        text = printed(module._view(states([folder.path]), Console(width=width)), width)
        assert "[red]x" in text
        assert "[/bold] member [1]" in text
        assert "\x1b" not in text


def test_names_that_cannot_be_printed_do_no_harm(tmp_path):
    made(tmp_path / os.fsdecode(b"caf\xe9\n"))
    text = printed(table(states(find_runs(tmp_path))))
    assert "caf��" in text
    assert json.dumps(as_json(states(find_runs(tmp_path))))


def test_a_row_stays_a_row_on_a_narrow_terminal():
    names = [f"digits_dash-dash-s{n}" for n in range(3)]
    reason = "OUT_OF_MEMORY; see runs/sweep/slurm/190744_12_0_log.out"
    runs = [some(name, "failed", metrics=ALL, job="190744_12", why=reason) for name in names]
    text = printed(module._view(runs, Console(width=80)))
    for name in names:
        assert [line.split()[1] for line in text.splitlines() if line.startswith(f" {name}")] == ["failed"]
        assert f"{name}: {reason}" in text.splitlines()
    assert max(map(len, text.splitlines())) <= 80
    wide = printed(module._view(runs, Console(width=200)), 200)
    assert f"{names[0]}:" not in wide
    assert wide.count(reason) == 3


def test_nested_members_are_named_by_their_run(tmp_path):
    for name in ("x", "x/member_00"):
        made(tmp_path / name)
    text = printed(table(states(find_runs(tmp_path / "x"))))
    assert [line.split()[0] for line in text.splitlines() if "new" in line or "failed" in line] == ["x", "x/member_00"]


def test_the_counts_in_one_line():
    assert summary([some("a"), some("b", "queued")]) == "1 done, 0 running, 1 queued, 0 failed"
    assert (
        summary([some("a", "stopped"), some("b", "new")]) == "0 done, 0 running, 0 queued, 0 failed, 1 stopped, 1 new"
    )


def test_what_does_not_fit_into_the_terminal_is_counted():
    runs = [some(f"s{n}", "running" if n in (30, 70) else "done") for n in range(100)]
    console = Console(width=80, height=24)
    text = printed(module._fitting(runs, console))
    assert len(text.splitlines()) <= 24
    assert " s30 " in text
    assert " s70 " in text
    assert "98 done, 2 running, 0 queued, 0 failed; " in text
    assert "not shown" not in printed(module._fitting(runs[:5], console))


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_or_json(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = made(Path("runs/a"), pid=dead())
    folder.metrics.write_text(lines(TRAIN, EVAL))
    folder.mark(folder.done)
    assert main(["runs", "runs"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "1 done, 0 running, 0 queued, 0 failed"
    assert captured.err == ""
    assert main(["runs", "runs/a", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["path"], entry["state"], entry["step"]) == ("runs/a", "done", 10)
    assert entry["metrics"]["ensemble_accuracy"] == 0.875
    assert show_runs("runs", False, True) == 0


def test_it_starts_without_torch(tmp_path):
    made(tmp_path / "run")
    code = (
        "import sys; from dist_dash.commands.cli import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "runs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "deepspeed", "jsonargparse", "submitit"} & set(done.stderr.split())
    assert "dist_dash.commands.runs" in done.stderr


@pytest.fixture
def pauses(monkeypatch):
    """What happens between two looks, one thing in each pause."""
    happenings = []
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: happenings.pop(0)()))
    return happenings


def nothing() -> None:
    pass


def test_watching_tells_of_changes_until_all_is_over(capsys, tmp_path, fake, pauses):
    fake.say("squeue", "1|1|PENDING|Priority")
    folder = submitted(tmp_path / "run", "1")
    pauses += [nothing, nothing, lambda: folder.mark(folder.done)]
    assert watch(tmp_path) == 0
    assert capsys.readouterr().out.splitlines() == [
        "0 done, 0 running, 1 queued, 0 failed",
        "1 done, 0 running, 0 queued, 0 failed",
    ]
    assert len(fake.asked("squeue")) == 1  # it serves a whole cluster


def test_watching_asks_slurm_again_when_it_is_due(capsys, tmp_path, fake, pauses, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    fake.say("squeue", "1|1|RUNNING|None")
    fake.say("sacct", "1|1|TIMEOUT|0:0")
    folder = submitted(tmp_path / "run", "1")
    pauses += [nothing, lambda: fake.say("squeue")]
    assert watch([folder.path]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 done, 0 running, 0 queued, 1 failed"
    assert len(fake.asked("squeue")) == 3


def test_watching_sees_new_runs(capsys, tmp_path, fake, pauses):
    fake.say("squeue", "1|1|PENDING|Priority", "2|2|PENDING|Priority")
    first, second = submitted(tmp_path / "first", "1"), OwnedFolder(tmp_path / "second")
    pauses += [lambda: second.note_job("2", tmp_path), lambda: first.mark(first.done), lambda: second.mark(second.done)]
    assert watch(tmp_path) == 0
    assert [line[:30] for line in capsys.readouterr().out.splitlines()] == [
        "0 done, 0 running, 1 queued, 0",
        "0 done, 0 running, 2 queued, 0",
        "1 done, 0 running, 1 queued, 0",
        "2 done, 0 running, 0 queued, 0",
    ]


def test_ctrl_c_ends_the_view_and_nothing_else(tmp_path):
    path = tmp_path / "run"
    hold = [sys.executable, "-c", HOLD, str(path)]
    view = [sys.executable, "-m", "dist_dash", "runs", str(tmp_path), "--watch"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(hold, **pipes) as run:
        assert run.stdout.readline() == "held\n"
        with subprocess.Popen(view, stderr=subprocess.PIPE, **pipes) as watcher:
            assert watcher.stdout.readline() == "0 done, 1 running, 0 queued, 0 failed\n"
            time.sleep(0.2)
            watcher.send_signal(signal.SIGINT)
            out, error = watcher.communicate(timeout=300)
        assert (watcher.returncode, out, error) == (0, "", "")
        assert run.poll() is None
        run.stdin.close()


def test_on_a_terminal_the_table_lives(tmp_path):
    folder = OwnedFolder(tmp_path / "run")
    folder.acquire()
    folder.recipe.touch()
    ours, theirs = pty.openpty()
    view = [sys.executable, "-m", "dist_dash", "runs", str(tmp_path), "--watch"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    with subprocess.Popen(view, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as watcher:
        os.close(theirs)
        shown = b""
        while b"1 running" not in shown:
            shown += os.read(ours, 4096)
        folder.mark(folder.done)
        folder.release()
        while b"1 done, 0 running" not in shown:
            shown += os.read(ours, 4096)
        assert watcher.wait(300) == 0
    os.close(ours)
