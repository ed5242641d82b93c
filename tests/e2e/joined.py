"""What a joined run is compared with."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.runs import lines_of, traces

QUICK = ["--method=SGD", "--engine=Torch", "--max_steps=45", "--record.every=5"]
SAME = ("recipe.yaml", "evaluation.json", "predictions.npz", "ensemble/ensemble.json")


def assert_joined(run: Path, together: Path) -> None:
    """Whatever the members trained together left, but for timings and what nobody can know afterwards."""
    names = [path.name for path in (together / "ensemble").iterdir()]
    for name in (*SAME, *(f"ensemble/{name}" for name in names)):
        assert (run / name).read_bytes() == (together / name).read_bytes(), name
    assert sorted(path.name for path in (run / "ensemble").iterdir()) == sorted(names)
    ours, theirs = ([line for line in lines_of(folder) if line["kind"] != "event"] for folder in (run, together))
    assert {line["kind"] for line in ours} == {"train", "eval"}
    for one, other in zip(ours, theirs, strict=True):
        timings = [{name: len(values) for name, values in line.pop("timing", {}).items()} for line in (one, other)]
        assert timings[0] == timings[1]
        unknown = {"ensemble", "diversity"} if one["kind"] == "eval" else set()
        assert one == {name: value for name, value in other.items() if name not in unknown}
    assert traces(together)
    assert traces(run) == traces(together)
    assert (run / "DONE").exists()
    assert not (run / "FAILED").exists()
    assert not list(run.rglob("*.partial"))


def files(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file()}
