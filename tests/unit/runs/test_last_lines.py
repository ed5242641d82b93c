"""What is read of a metrics.jsonl that is large, torn or strange."""

import json
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from runs_by_hand import EVAL, TRAIN, lines, made, state_of

from dist_dash.runs import last_lines as tail
from dist_dash.runs.folder import RunFolder
from dist_dash.runs.states import RunState
from dist_dash.runs.view import as_json

pytestmark = pytest.mark.usefixtures("no_slurm")


def measured(folder: RunFolder, text: str | bytes) -> RunState:
    folder.metrics.write_bytes(text if isinstance(text, bytes) else text.encode())
    return state_of(folder.path)


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return made(tmp_path / "run")


def test_the_last_lines_are_shown_as_means_over_the_members(folder):
    folder.environment.write_text(json.dumps({"total_steps": 42}))
    found = measured(folder, lines({**TRAIN, "loss": [9.0]}, EVAL, TRAIN, {"kind": "event", "step": 21, "text": "x"}))
    assert found.metrics == {"loss": 1.5, "accuracy": 0.625, "ensemble_accuracy": 0.875, "ensemble_nll": 0.25}
    assert (found.step, found.total_steps, found.updated) == (21, 42, folder.metrics.stat().st_mtime)


def test_a_run_without_metrics_has_none(folder):
    found = state_of(folder.path)
    assert (found.metrics, found.step, found.total_steps, found.updated) == ({}, None, None, None)
    assert measured(folder, "").metrics == {}


@pytest.mark.parametrize(
    "after",
    [
        json.dumps({**TRAIN, "step": 99, "loss": [7.0]}),  # complete but for its line break
        '{"kind": "train", "step": 99, "lo',
        "\0" * 5000,
        '\n[1, 2]\n"train"\nnull\n{"step": 99}\n{"kind": 3, "step": 99}\n',
        "{" * 20000 + "\n",
        "[" * 20000 + "\n",
    ],
)
def test_a_torn_or_foreign_end_is_passed_over(folder, after):
    found = measured(folder, lines(TRAIN, EVAL) + after)
    assert (found.metrics["loss"], found.step) == (1.5, 10)


def test_bytes_that_are_no_text_are_passed_over(folder):
    assert measured(folder, lines(TRAIN).encode() + b"\xff\xfe\n").step == 20


def test_a_number_that_was_not_finite_is_not_hidden_by_the_others(folder):
    found = measured(
        folder, lines({**TRAIN, "loss": [1.0, None]}, {**EVAL, "ensemble": {"accuracy": 0.5, "nll": None}})
    )
    assert [name for name, value in found.metrics.items() if value != value] == ["loss", "ensemble_nll"]
    (entry,) = as_json([found])
    assert entry["metrics"] == {"loss": None, "accuracy": 0.625, "ensemble_accuracy": 0.5, "ensemble_nll": None}
    assert json.loads(json.dumps(entry, allow_nan=False))["path"] == str(folder.path)


@pytest.mark.parametrize("strange", [{"loss": 3}, {"loss": []}, {"loss": {}}, {"step": "x"}, {"step": None}])
def test_lines_of_another_shape_do_no_harm(folder, strange):
    found = measured(folder, lines({**TRAIN, **strange}, {"kind": "eval", "ensemble": [1], "step": 1.5}))
    assert found.metrics["accuracy"] == 0.625
    assert found.step is None


def test_only_the_end_of_a_large_file_is_read(folder, monkeypatch):
    read, opened = [], Path.open

    def counting(path, mode="r", **options):
        file = opened(path, mode, **options)
        if mode != "rb":
            return file
        noting = MagicMock(wraps=file)
        noting.__enter__.return_value = noting
        noting.__exit__.side_effect = lambda *_: file.close()
        noting.read.side_effect = lambda size: [read.append(size), file.read(size)][1]
        return noting

    monkeypatch.setattr(Path, "open", counting)
    many = lines({**TRAIN, "step": 1, "pad": "x" * 1000}) * 5000
    found = measured(folder, many + lines(EVAL, TRAIN))
    assert (found.step, found.metrics["ensemble_accuracy"], read) == (20, 0.875, [tail.TAIL])
    read.clear()
    state_of(folder.path)
    assert read == []  # what has not changed is not read again
    found = measured(folder, many + lines(EVAL) + many[:200_000].rpartition("\n")[0] + "\n")
    assert (found.metrics["ensemble_accuracy"], read) == (0.875, [tail.TAIL, 4 * tail.TAIL])
    read.clear()
    found = measured(folder, lines(EVAL) + many)
    assert (found.step, "ensemble_accuracy" in found.metrics, max(read)) == (1, False, tail.MOST)


def test_long_lines_are_found(folder):
    found = measured(folder, lines(EVAL, {**TRAIN, "pad": "x" * 300_000}))
    assert (found.step, found.metrics["loss"]) == (20, 1.5)


def test_a_file_of_the_same_length_is_read_anew(folder):
    assert measured(folder, lines(TRAIN)).metrics["loss"] == 1.5
    assert measured(folder, lines({**TRAIN, "loss": [1.0, 5.0]})).metrics["loss"] == 3.0
