"""A member whose predictions are not finite: an evaluation goes without, the end of the run names it."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.runs import lines_of, start


def test_a_non_finite_member_is_named_and_the_record_tells(tmp_path: Path) -> None:
    models = (
        "[{class_path: MLP}, {class_path: Custom, init_args: {target: 'tests.e2e.doubles:non_finite_in_evaluation'}}]"
    )
    run = tmp_path / "run"
    ranks = start(run, 2, 2, f"--models={models}", "--max_steps=45")  # an epoch has 42 updates
    assert ranks.results() == [("value", 1)] * 2, ranks.output(0)
    assert "member 1: its predictions of the test split are not finite" in ranks.output(0).replace("\n", " ")
    kinds = [line["kind"] for line in lines_of(run)]
    assert kinds.count("train") == 45
    assert kinds.count("eval") == 0
    events = [line["text"] for line in lines_of(run) if line["kind"] == "event"]
    assert events == ["member 1: predictions are not finite; this evaluation is left out"]
    assert (run / "checkpoints/step_00000045").is_dir()
    assert not (run / "DONE").exists()
