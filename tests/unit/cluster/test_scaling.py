"""A scaling study without a run: its points, its statistics against plain loops, its files, what it refuses."""

import csv
import io
import json
import os
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from complaints import cli_complaint
from PIL import Image
from rich.console import Console

from dist_dash.cluster import submission
from dist_dash.cluster.sbatch import JobBatch
from dist_dash.cluster.scaling import executors, scaling_report
from dist_dash.cluster.scaling import grid as scaling
from dist_dash.cluster.scaling import run as scaling_command
from dist_dash.cluster.scaling.executors import arrays, resources
from dist_dash.cluster.scaling.grid import Grid, kinds_of, read_updates, round_robin, rows, spread, whole_numbers
from dist_dash.cluster.scaling.grid import ScalingPoint as Point
from dist_dash.cluster.scaling.profile import Profile, deciding
from dist_dash.cluster.scaling.request import ScalingRun
from dist_dash.cluster.scaling.step_model import MethodCost, Rates
from dist_dash.cluster.site import Site
from dist_dash.commands.cli import main
from dist_dash.errors import BadInput
from dist_dash.recipe.parsing import parse_command
from dist_dash.runs import slurm
from dist_dash.runs.owner import OwnedFolder

pytestmark = pytest.mark.usefixtures("not_a_rank")
ROOT = Path(__file__).parents[3]
RECIPE = [
    "--data=Synthetic",
    "--data.size=8",
    "--model=MLP",
    "--optimizer=SGD",
    "--optimizer.lr=0.05",
    "--engine=Torch",
    "--loader.batch_size=12",
]
SECONDS = {(1, 1, 12): 1.0, (2, 1, 12): 1.25, (1, 2, 12): 1.6, (2, 2, 12): 2.0, (1, 2, 6): 0.8, (2, 2, 6): 1.0}


# -- points ------------------------------------------------------------------------------------------------------------


def test_weak_keeps_the_batch_of_a_rank_and_strong_that_of_a_member() -> None:
    grid = Grid((1, 2), (1, 2, 4), 12, ("weak", "strong"))
    assert [(p.members, p.replicas, p.batch) for p in grid.of("weak")] == [
        (1, 1, 12), (1, 2, 12), (1, 4, 12), (2, 1, 12), (2, 2, 12), (2, 4, 12),
    ]  # fmt: skip
    assert [p.batch for p in grid.of("strong")] == [12, 6, 3, 12, 6, 3]
    assert len(grid.points()) == 6 + 4
    assert {p.batch * p.replicas for p in grid.of("strong")} == {12}


def test_every_point_comes_once_before_any_comes_again() -> None:
    runs = round_robin(Grid((1, 2), (1,), 12, ("weak",)).points(), 3)
    names = [f"{point.name}_{repeat}" for point, repeat in runs]
    assert names == [f"m{m}_r1_b12_{repeat}" for repeat in (1, 2, 3) for m in (1, 2)]


def test_lists_are_sorted() -> None:
    assert whole_numbers("members", "8, 1,2") == (1, 2, 8)
    assert kinds_of(None, [1]) == ("weak",)
    assert kinds_of(None, [1, 2]) == ("weak", "strong")
    assert kinds_of("strong,weak", [1]) == ("weak", "strong")


def test_the_pure_part_does_not_wait_for_torch() -> None:
    modules = ", ".join(f"dist_dash.cluster.scaling.{name}" for name in ("grid", "scaling_report"))
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# -- what the records say ----------------------------------------------------------------------------------------------


def update(step: int, seconds: list[float], wait: list[float], transfer: list[float], samples: int) -> dict[str, Any]:
    rates = [samples / one for one in seconds]
    timing = {"seconds": seconds, "wait": wait, "transfer": transfer, "samples_per_second": rates}
    return {"kind": "train", "step": step, "epoch": step / 7, "loss": [1.0], "timing": timing}


def write_metrics(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def drawn(steps: int, members: int, seed: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    found = []
    for step in range(1, steps + 1):
        seconds = draw.uniform(0.1, 0.3, members).tolist()
        wait, transfer = (
            [s * share for s, share in zip(seconds, draw.uniform(0, 0.4, members), strict=True)] for _ in "ab"
        )
        found.append(update(step, seconds, wait, transfer, 24))
    return found


def by_loops(lines: list[dict[str, Any]], dropped: set[int]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in scaling.MEASURES}
    for line in lines:
        if line["kind"] != "train" or line["step"] in dropped:
            continue
        timing = line["timing"]
        slowest, waited, moved, samples = 0.0, 0.0, 0.0, 0.0
        for member in range(len(timing["seconds"])):
            seconds = timing["seconds"][member]
            slowest = max(slowest, seconds)
            waited += timing["wait"][member] / seconds
            moved += timing["transfer"][member] / seconds
            samples += 24
        count = len(timing["seconds"])
        for name, value in zip(
            scaling.MEASURES, (slowest, waited / count, moved / count, samples / slowest), strict=True
        ):
            found[name].append(value)
    return found


def test_reading_equals_plain_loops(tmp_path: Path) -> None:
    lines = drawn(20, 3, 0)
    lines.insert(5, {"kind": "event", "step": 5, "epoch": 1.0, "text": "unreadable sample passed over: a.png"})
    lines.insert(9, {"kind": "eval", "step": 8, "epoch": 1.0})
    found = read_updates(write_metrics(tmp_path / "metrics.jsonl", lines), 4)
    expected = by_loops(lines, {1, 2, 3, 4})
    assert list(found) == list(scaling.MEASURES)
    for name, values in found.items():
        assert len(values) == 16
        np.testing.assert_allclose(values, expected[name], rtol=1e-12)


def test_a_resumed_run_warms_up_twice(tmp_path: Path) -> None:
    lines = drawn(20, 2, 1)
    lines.insert(11, {"kind": "event", "step": 11, "epoch": 1.0, "text": "continuing RUN at step 11 of 20"})
    found = read_updates(write_metrics(tmp_path / "metrics.jsonl", lines), 3)
    assert found["step_seconds"].tolist() == by_loops(lines, {1, 2, 3, 12, 13, 14})["step_seconds"]
    assert [len(v) for v in read_updates(tmp_path / "metrics.jsonl", 11).values()] == [0] * 4


def broken_by(seconds: list[float | None]) -> dict[str, Any]:
    line = update(3, [1.0], [0.0], [0.0], 1)
    return {**line, "timing": {**line["timing"], "seconds": seconds}}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"kind": "train"}',
        json.dumps(broken_by([0.0])),
        json.dumps(broken_by([None])),
        json.dumps({**update(3, [1.0], [0.0], [0.0], 1), "timing": {"seconds": [1.0]}}),
        json.dumps(update(3, [1.0], [0.0, 0.0], [0.0], 1)),
        "[]",
    ],
)
def test_a_broken_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f"{text}\n")
    with pytest.raises(BadInput, match=r"metrics\.jsonl cannot be read as the record of a run"):
        read_updates(tmp_path / "metrics.jsonl", 0)


def quantile_by_loop(values: list[float], share: float) -> float:
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def test_spread_equals_plain_loops() -> None:
    draw = np.random.default_rng(2)
    repeats = [draw.uniform(0, 1, size) for size in (7, 12, 9)]
    found = spread(repeats)
    pooled = [float(value) for values in repeats for value in values]
    expected = [quantile_by_loop(pooled, share) for share in (0.5, 0.1, 0.9)]
    np.testing.assert_allclose([found.median, found.p10, found.p90], expected, rtol=1e-12)
    medians = [quantile_by_loop(values.tolist(), 0.5) for values in repeats]
    np.testing.assert_allclose([found.least, found.most], [min(medians), max(medians)], rtol=1e-12)


def constant(seconds: float, repeats: tuple[float, ...] = (1.0,)) -> list[dict[str, Any]]:
    """A point whose repeats always take the same time, each its own."""
    own = {"waiting_share": 0.25, "transfer_share": 0.125, "samples_per_second": 48.0}
    return [
        {"step_seconds": np.full(5, seconds * factor), **{name: np.full(5, value) for name, value in own.items()}}
        for factor in repeats
    ]


def test_efficiencies_by_hand() -> None:
    grid = Grid((1, 2), (1, 2), 12, ("weak", "strong"))
    found = rows(grid, {Point(*point): constant(seconds) for point, seconds in SECONDS.items()})
    listed = [(r.kind, r.point.members, r.point.replicas, r.efficiency and round(r.efficiency[0], 9)) for r in found]
    assert listed == [
        ("weak", 1, 1, 1.0),
        ("weak", 1, 2, 0.625),
        ("weak", 2, 1, 0.8),
        ("weak", 2, 2, 0.5),
        ("strong", 1, 1, 1.0),
        ("strong", 1, 2, 0.625),  # 1.0 · 1 / (2 · 0.8)
        ("strong", 2, 1, 1.0),
        ("strong", 2, 2, 0.625),  # 1.25 · 1 / (2 · 1.0)
    ]


def test_strong_efficiency_starts_from_the_smallest_replicas() -> None:
    grid = Grid((3,), (2, 8), 16, ("strong",))
    found = rows(grid, {Point(3, 2, 8): constant(0.9), Point(3, 8, 2): constant(0.3)})
    assert [row.efficiency and round(row.efficiency[0], 9) for row in found] == [1.0, 0.75]  # 0.9 · 2 / (8 · 0.3)


def test_the_repeats_bound_the_efficiency() -> None:
    grid = Grid((1, 2), (1,), 12, ("weak",))
    measured = {
        Point(1, 1, 12): constant(1.0, (0.8, 1.0, 1.2)),
        Point(2, 1, 12): constant(2.0, (0.5, 1.0, 1.5)),
    }
    first, second = rows(grid, measured)
    assert first.efficiency == (1.0, 1.0, 1.0)
    assert second.efficiency == pytest.approx((0.5, 0.8 / 3.0, 1.2 / 1.0))
    assert (second.repeats, second.updates) == (3, 15)


def test_without_the_point_to_compare_with_there_is_no_efficiency() -> None:
    grid = Grid((1, 2), (1, 2), 12, ("weak", "strong"))
    found = rows(grid, {Point(2, 1, 12): constant(1.0), Point(2, 2, 6): constant(0.5)})
    assert [(row.kind, row.efficiency and row.efficiency[0]) for row in found] == [
        ("weak", None),
        ("strong", 1.0),
        ("strong", 1.0),
    ]


# -- table and files ---------------------------------------------------------------------------------------------------


def shown(found: list[scaling.ScalingRow], repeats: int = 1) -> str:
    text = io.StringIO()
    Console(width=120, file=text).print(scaling_report.table(found, repeats, ["a note"]))
    return text.getvalue()


def test_the_table_has_every_point_with_its_spread() -> None:
    grid = Grid((1, 2), (1,), 12, ("weak",))
    text = shown(rows(grid, {Point(1, 1, 12): constant(0.1), Point(2, 1, 12): constant(0.2, (0.9, 1.1))}), 3)
    line = next(line for line in text.splitlines() if "2 × 1" in line)
    assert line.split()[3:] == ["12", "200", "180–220", "0.50", "25.0", "12.5", "48.0"]
    below = text.splitlines()[text.splitlines().index(line) + 1]
    assert below.split() == ["180–220", "2", "of", "3", "0.45–0.56", "25.0", "12.5", "48.0"]
    assert "a note" in text


def test_files_say_what_the_rows_say_and_the_pictures_are_not_blank(tmp_path: Path) -> None:
    grid = Grid((1, 2), (1, 2), 12, ("weak", "strong"))
    found = rows(grid, {Point(*point): constant(seconds, (0.9, 1.1)) for point, seconds in SECONDS.items()})
    scaling_report.write(tmp_path, grid, found, {"title": "DASH, cpu", "device": "cpu"})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(scaling_report.FILES)
    content = json.loads((tmp_path / "scaling.json").read_text())
    assert content["device"] == "cpu"
    with (tmp_path / "scaling.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(content["rows"]) == len(found) == 8
    for line, row, entry in zip(table, content["rows"], found, strict=True):
        assert {name: str(value) for name, value in row.items()} == line
        assert (line["scaling"], int(line["ranks"])) == (entry.kind, entry.point.ranks)
        assert float(line["step_seconds"]) == entry.measures["step_seconds"].median
        assert float(line["step_seconds_repeats_high"]) == entry.measures["step_seconds"].most
        assert float(line["efficiency"]) == pytest.approx(entry.efficiency and entry.efficiency[0])
    picture = np.asarray(Image.open(tmp_path / "scaling.png").convert("RGB"))
    thirds = np.array_split(picture, 3, axis=1)
    assert all(len(np.unique(third.reshape(-1, 3), axis=0)) > 50 for third in thirds)
    assert len(list(ElementTree.parse(tmp_path / "scaling.svg").iter())) > 300


def test_points_without_efficiency_can_be_shown(tmp_path: Path) -> None:
    grid = Grid((1, 2), (1,), 12, ("weak",))
    found = rows(grid, {Point(2, 1, 12): constant(1.0)})
    scaling_report.write(tmp_path, grid, found, {})
    assert "–" in shown(found)
    assert json.loads((tmp_path / "scaling.json").read_text())["rows"][0]["efficiency"] is None


# -- the command, on runs that were made by hand -----------------------------------------------------------------------


def study(*options: object) -> list[str]:
    return ["scaling", "--executor=here", "--folder=study", *map(str, options), *RECIPE]


def finished(name: str, members: int, replicas: int, batch: int, seconds: float, *further: str) -> OwnedFolder:
    """A finished run of 6 updates, as training leaves it."""
    folder = OwnedFolder(Path("study") / name)
    folder.path.mkdir(parents=True)
    Path("study/scaling.lock").touch()
    layout = [f"--members={members}", f"--replicas={replicas}", f"--loader.batch_size={batch}", "--max_steps=6"]
    short = ["--record.every=1", "--record.evaluate_every=0", "--record.progress=false"]
    command = parse_command([*RECIPE, *layout, *short, "--checkpoints.every_epochs=0", *further])
    folder.recipe.write_text(command.as_yaml(members))
    folder.environment.write_text(json.dumps({"device": "cpu", "threads": 1, "packages": {"torch": "2.13.0"}}))
    every = [seconds] * members
    lines = [update(s, every, [0.1 * seconds] * members, [0.0] * members, batch * replicas) for s in range(1, 7)]
    write_metrics(folder.metrics, lines)
    (folder.path / "owner.lock").touch()
    folder.done.touch()
    return folder


def test_what_was_foreseen_stands_beside_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    finished("m1_r1_b12_1", 1, 1, 12, 0.1)
    finished("m2_r1_b12_1", 2, 1, 12, 0.125)
    rates = Rates(12, 1, 16, 1, on_gpu=False, forward=0.01, backward=0.02, merging=1e-6, decoding=1e-5)
    costs = {
        "SAM": MethodCost(seconds=0.07, forwards=2, backwards=2, copies=2),
        "SGD": MethodCost(seconds=0.04, forwards=1, backwards=1, copies=0),
        "DASH separate": MethodCost(
            seconds=0.09, forwards=2, backwards=3, copies=4, gathers=1, gathered_bytes=480, meetings=[0.4]
        ),
    }
    resolved = parse_command(RECIPE).resolved
    facts = {"made": {"date": "today"}, "device": "CPU", "samples": 5000, "shape": [3, 8, 8], "classes": 10}
    sizes = {"parameter_bytes": 1e4, "process_bytes": 1e8, "data_bytes": 0.0}
    measured = {"recipe": deciding(resolved), "rates": rates, "methods": costs}
    Profile(format=1, uint8=True, jitter=0.0, steps=8, **facts, **sizes, **measured).write(Path("p.json"))  # type: ignore[arg-type]
    options = ["--members=1,2", "--steps=6", "--warm-up=2", "--repeats=1", "--collect", "--profile=p.json"]
    assert main([*study(*options), "--json"]) == 0
    alone, two = (row["foreseen_seconds"] for row in json.loads(capsys.readouterr().out)["rows"])
    assert alone == pytest.approx(0.07, rel=0.01)  # DASH without peers is SAM
    assert main(study(*options)) == 0
    assert f"{1000 * two:.1f}"[:4] in (text := capsys.readouterr().out)
    assert f"{100 * (two / 0.125 - 1):+.0f} %" in text
    # The plan of the same size says the same.
    same = ["--members=2", "--nodes=1", "--gpus-per-node=2", f"--cores-per-node={os.cpu_count()}"]
    assert main(["plan", *RECIPE, *same, "--profile=p.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["methods"]["DASH separate"]["seconds"] == two
    assert "another recipe" in cli_complaint(capsys, *study(*options, "--folder=other"), "--model.hidden=3")


def test_collecting_shows_what_there_is_and_names_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    finished("m1_r1_b12_1", 1, 1, 12, 0.1)
    finished("m1_r1_b12_2", 1, 1, 12, 0.1)
    finished("m2_r1_b12_1", 2, 1, 12, 0.125)
    broken = OwnedFolder("study/m2_r1_b12_2")
    broken.path.mkdir()
    (broken.path / "owner.lock").touch()
    broken.mark(broken.failed, "member 1: out of memory")
    options = ["--members=1,2,4", "--steps=6", "--warm-up=2", "--repeats=2", "--collect"]
    assert main([*study(*options), "--json"]) == 75
    captured = capsys.readouterr()
    content = json.loads(captured.out)
    assert [(row["members"], row["repeats"], row["updates"]) for row in content["rows"]] == [(1, 2, 8), (2, 1, 4)]
    assert [row["efficiency"] for row in content["rows"]] == [1.0, pytest.approx(0.8)]
    assert [row["samples_per_second"] for row in content["rows"]] == pytest.approx([120, 2 * 12 / 0.125])
    assert [row["waiting_share"] for row in content["rows"]] == pytest.approx([0.1, 0.1])
    assert content["settings"]["warm_up"] == 2
    assert content["environment"]["packages"] == {"torch": "2.13.0"}
    assert content["recipe"]["max_steps"] == 6
    notes = " ".join(content["notes"])
    assert "DASH with one member has no peers and exchanges nothing: it is the baseline." in notes
    assert notes.endswith(
        "Not finished, left out: m4_r1_b12_1 (not started), m2_r1_b12_2 (failed: member 1: out of memory), "
        "m4_r1_b12_2 (not started)."
    )
    assert main(study(*options)) == 75
    assert "1 of 2" in capsys.readouterr().out
    assert all((Path("study") / name).stat().st_size for name in scaling_report.FILES)


def test_a_finished_study_runs_nothing_again(capsys: pytest.CaptureFixture[str]) -> None:
    finished("m1_r1_b12_1", 1, 1, 12, 0.1)
    assert main(study("--members=1", "--steps=6", "--warm-up=2", "--repeats=1")) == 0
    assert "1 points, 1 runs, 0 to do" in capsys.readouterr().err


def test_machines_that_differ_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    finished("m1_r1_b12_1", 1, 1, 12, 0.1)
    other = finished("m1_r1_b12_2", 1, 1, 12, 0.1)
    other.environment.write_text(json.dumps({"device": "H100", "threads": 1}))
    assert main([*study("--members=1", "--steps=6", "--warm-up=2", "--repeats=2"), "--method=SGD"]) == 2
    assert "method.class_path" in capsys.readouterr().err
    assert main(study("--members=1", "--steps=6", "--warm-up=2", "--repeats=2")) == 0
    assert "their times cannot be compared" in capsys.readouterr().out


def test_a_finished_run_with_other_settings_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    finished("m1_r1_b12_1", 1, 1, 12, 0.1, "--optimizer.lr=0.5")
    text = cli_complaint(capsys, *study("--members=1", "--steps=6", "--warm-up=2"))
    assert text == (
        "dist-dash: m1_r1_b12_1: optimizer.lr is 0.05 now, but the finished run has 0.5; "
        "use another --folder, or remove that run\n"
    )


def test_a_run_that_finished_without_an_update_to_measure_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    finished("m1_r1_b12_1", 1, 1, 12, 0.1)
    lines = [{"kind": "event", "step": 4, "text": "continuing RUN at step 4 of 6"}, *drawn(6, 1, 0)[4:]]
    write_metrics(Path("study/m1_r1_b12_1/metrics.jsonl"), lines)
    assert main(study("--members=1", "--steps=6", "--warm-up=4", "--repeats=1", "--collect")) == 75
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "m1_r1_b12_1 (done: continued after a stop, and then had no update beyond the warm-up" in captured.err


# -- Slurm, without a cluster ------------------------------------------------------------------------------------------


def test_nodes_follow_from_the_ranks() -> None:
    site = Site(gpus_per_node=4, mem_gb=100, nodes=9, sbatch={"mail-type": "END"})
    found = {ranks: resources(site, ranks, False) for ranks in (1, 2, 4, 8)}
    asked = {ranks: (s.nodes, s.tasks_per_node, s.gpus_per_node, s.mem_gb) for ranks, s in found.items()}
    assert asked == {1: (1, 1, 1, 25), 2: (1, 2, 2, 50), 4: (1, 4, 4, 100), 8: (2, 4, 4, 100)}
    assert all(s.ranks == ranks for ranks, s in found.items())
    assert resources(site, 4, True).sbatch == {"mail-type": "END", "exclusive": "true"}
    assert resources(Site(tasks_per_node=4), 2, False).gpus_per_node == 0
    with pytest.raises(BadInput, match="6 per job do not fill nodes of 4 ranks"):
        resources(site, 6, False)


def test_an_array_per_number_of_ranks_in_the_order_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    rounds = round_robin(Grid((1, 2), (1, 2), 12, ("weak",)).points(), 2)
    runs = [ScalingRun(point, repeat, Path(), ("--seed=1",)) for point, repeat in rounds]
    sites = {ranks: resources(Site(tasks_per_node=4), ranks, False) for ranks in (1, 2, 4)}
    batches = arrays("study", runs, sites, Path("logs"), 1)
    listed = [[job.run for job in batch.jobs] for batch in batches]
    assert listed == [
        ["m1_r1_b12_1", "m1_r1_b12_2"],
        ["m1_r2_b12_1", "m2_r1_b12_1", "m1_r2_b12_2", "m2_r1_b12_2"],
        ["m2_r2_b12_1", "m2_r2_b12_2"],
    ]
    assert [(b.site.ranks, b.parallel, b.name) for b in batches] == [
        (1, 1, "study-1"),
        (2, 1, "study-2"),
        (4, 1, "study-4"),
    ]


def test_all_is_submitted_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    answers = [["7_0", "7_1"], ["8"], BadInput("Slurm: full")]

    def answer(batch: JobBatch, further: dict[str, str]) -> list[str]:
        assert further == {}, "arrays of different sizes do not wait for each other"
        given = answers.pop(0)
        if isinstance(given, BadInput):
            raise given
        return given

    monkeypatch.setattr(submission, "_submit", answer)
    monkeypatch.setattr(slurm, "ask", lambda *words: asked.append(words))
    with pytest.raises(BadInput, match="Slurm: full"):
        submission.submit([JobBatch(f"study-{ranks}", (), Site(), Path("logs"), 1) for ranks in (1, 2, 4)])
    assert asked == [("scancel", "7"), ("scancel", "8")]


def under_slurm(monkeypatch: pytest.MonkeyPatch, queue: list[Any]) -> list[list[str]]:
    """Slurm that takes whatever is submitted as jobs 7_0, 7_1, … and gives these answers; the runs per submission."""
    submitted: list[list[str]] = []

    def submit(batches: list[JobBatch]) -> list[str]:
        names = []
        for batch in batches:
            submitted.append([Path(job.run).name for job in batch.jobs])
            for index, job in enumerate(batch.jobs):
                names.append(f"{len(submitted)}_{index}")
                OwnedFolder(job.run).note_job(names[-1], Path("logs"))
        return names

    def answer(names: dict[str, Any]) -> dict[str, slurm.SlurmJob]:
        given = (queue.pop(0) if queue else {}) if names else {}
        if isinstance(given, BadInput):
            raise given
        return {name: slurm.SlurmJob(state) for name, state in given.items()}

    monkeypatch.setattr(slurm, "available", lambda: True)
    monkeypatch.setattr(slurm, "limit", lambda name: None)
    monkeypatch.setattr(slurm, "queue", answer)
    monkeypatch.setattr(slurm, "ended", lambda names: {})
    monkeypatch.setattr(scaling_command, "check", lambda batches: None)
    monkeypatch.setattr(scaling_command, "submit", submit)
    monkeypatch.setattr(executors.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(executors, "FIRST_PAUSE", 0.0)
    return submitted


def test_only_what_is_neither_finished_nor_under_way_is_submitted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished("m1_r1_b12_1", 1, 1, 12, 0.1)
    OwnedFolder("study/m2_r1_b12_1").note_job("99", Path("logs"))
    stopped = OwnedFolder("study/m1_r1_b12_2")
    stopped.acquire()
    stopped.mark(stopped.to_continue, "SIGTERM")
    stopped.release()
    submitted = under_slurm(monkeypatch, [{"99": "PENDING", "98": "RUNNING"}])
    options = [*study("--members=1,2", "--steps=6", "--warm-up=2", "--repeats=2"), "--executor=slurm"]
    assert main([*options, "--no-wait"]) == 0
    assert submitted == [["m1_r1_b12_2"], ["m2_r1_b12_2"]]
    assert not stopped.to_continue.exists()
    captured = capsys.readouterr()
    assert "2 points, 4 runs, 2 to do, 1 in Slurm's hands already; in" in captured.err
    assert captured.out == ""


def test_waiting_bears_with_a_busy_controller(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = BadInput("Slurm: squeue did not answer within 60 s")
    under_slurm(monkeypatch, [{"1_0": "PENDING"}, busy, {"1_0": "RUNNING", "5": "PENDING"}, {"1_0": "RUNNING"}, {}])
    options = [*study("--members=1", "--steps=6", "--warm-up=2", "--repeats=1"), "--executor=slurm"]
    assert main(options) == 1
    listed = capsys.readouterr().err.splitlines()
    assert [line.removeprefix("scaling: ") for line in listed[2:6]] == [
        "0 of 1 runs finished, 1 pending",
        "Slurm: squeue did not answer within 60 s; asking again",
        "0 of 1 runs finished, 1 running",
        "0 of 1 runs finished",
    ]
    under_slurm(monkeypatch, [busy] * (executors.UNANSWERED + 1))
    OwnedFolder("study/m1_r1_b12_1").job.unlink()
    assert main(options) == 2
    assert "did not answer" in capsys.readouterr().err


@pytest.mark.parametrize("finishes", [False, True])
def test_starting_over_waits_for_a_run_that_a_killed_study_left(tmp_path: Path, finishes: bool) -> None:
    left = OwnedFolder(tmp_path / "run")
    left.acquire()
    left.metrics.touch()
    waiting = threading.Thread(target=executors.start_over, args=[OwnedFolder(left.path)])
    waiting.start()
    waiting.join(1.5)
    assert waiting.is_alive()
    assert left.metrics.exists()
    if finishes:
        left.mark(left.done)
    left.release()
    waiting.join(10)
    assert not waiting.is_alive()
    assert left.metrics.exists() == left.done.exists() == finishes


def test_a_dry_run_prints_scripts_or_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(study("--members=1,2", "--repeats=1", "--dry-run")) == 0
    out = capsys.readouterr().out
    commands = out.splitlines()
    assert [command.partition(" --run=")[2].rpartition("/")[2] for command in commands] == [
        "m1_r1_b12_1",
        "m2_r1_b12_1",
    ]
    parse_command(commands[1].split()[2:])
    monkeypatch.setenv("PATH", "/nowhere")
    assert main([*study("--members=1,2", "--dry-run", "--exclusive", "--tasks-per-node=2"), "--executor=slurm"]) == 0
    out = capsys.readouterr().out
    assert out.count("#SBATCH --exclusive\n") == 2
    assert out.count("#SBATCH --array=0-2%1\n") == 2
    assert "#SBATCH --ntasks-per-node=2\n" in out
    assert not Path("study").exists()


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--members=1,,2"], "members: '1,,2' is not allowed; it must be whole numbers ≥ 1"),
        (["--members=0,1"], "members: '0,1' is not allowed; it must be whole numbers ≥ 1"),
        (["--members=1,-2"], "members: '1,-2' is not allowed"),
        (["--members=1,2,1"], "members: '1,2,1' is not allowed; it must be numbers that are given once each"),
        (["--members="], "members: '' is not allowed"),
        (["--members=1", "--replicas=two"], "replicas: 'two' is not allowed"),
        ([], "the following arguments are required: --members"),
        (["--members=1", "--scaling=weakly"], "scaling: 'weakly' is not allowed; it must be weak, strong or weak,"),
        (["--members=1", "--scaling=weak,weak"], "scaling: 'weak,weak' is not allowed"),
        (["--members=1", "--steps=10", "--warm-up=10"], "warm-up: 10 is not allowed; it must be at least 0, less than"),
        (["--members=1", "--warm-up=-1"], "warm-up: -1 is not allowed"),
        (["--members=1", "--steps=0"], "steps: 0 is not allowed"),
        (["--members=1", "--repeats=0"], "repeats: 0 is not allowed"),
        (["--members=1", "--steps=many"], "argument --steps: invalid int value: 'many'"),
        (["--members=1", "--replicas=1,5"], "it must divide loader.batch_size (12)"),
        (["--members=1", "--optimizer.lr=x"], "optimizer"),
        (["--members=1", "--loader.batchsize=x"], "loader.batchsize: no such field"),
        (["--members=1,2", "--models=[{class_path: MLP}]"], "models: 1 is not allowed; it must be one per member, of"),
        (["--members=1", "--run=mine"], "run: not allowed in a scaling study; every run has a folder of its own"),
        (["--members=1", "--max_steps=7"], "max_steps: not allowed in a scaling study; use --steps"),
        (["--members=1", "--collect"], "holds no scaling study"),
        (["--members=1", "--executor=cloud"], "argument --executor: invalid choice: 'cloud'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_nothing_runs(
    capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert words in cli_complaint(capsys, *study(), *options)


def test_foreign_folders_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("study").mkdir()
    Path("study/thesis.tex").write_text("years of work")
    assert "holds files that are not a study's" in cli_complaint(capsys, *study("--members=1"))
    Path("study/thesis.tex").unlink()
    Path("study/scaling.lock").touch()
    Path("study/m1_r1_b12_1").mkdir()
    Path("study/m1_r1_b12_1/thesis.tex").touch()
    assert "m1_r1_b12_1 holds files that are not a run's" in cli_complaint(capsys, *study("--members=1"))
    Path("file").touch()
    assert "is a file; it must be a folder" in cli_complaint(capsys, *study("--members=1"), "--folder=file")


def test_without_slurm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    text = cli_complaint_with_a_plan(capsys, *study("--members=1"), "--executor=slurm")
    assert "executor: slurm is not allowed, sbatch is not on PATH; use --executor here" in text


def cli_complaint_with_a_plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert not list(Path.cwd().iterdir())
    return captured.err


def test_two_studies_do_not_share_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    from filelock import FileLock

    Path("study").mkdir()
    with FileLock("study/scaling.lock"):
        assert main(study("--members=1")) == 2
    assert "is in use by another `dist-dash scaling`; wait for it" in capsys.readouterr().err
    assert Path("study/scaling.lock").exists()
