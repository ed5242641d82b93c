"""Runs that are not one ensemble's members, or not all of them: refused in one line, and nothing is changed."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dist_dash.commands.cli import main
from dist_dash.ensembles.join import join, join_if_complete
from dist_dash.errors import BadInput
from dist_dash.files import SEAL
from dist_dash.runs.folder import RunFolder
from dist_dash.runs.owner import OwnedFolder
from tests.e2e.joined import assert_joined, files


@pytest.fixture
def run(alone: Path, tmp_path: Path) -> Path:
    """Three finished members to be joined."""
    return shutil.copytree(alone, tmp_path / "run")


def refusal(call: Callable[[], Any], run: Path) -> str:
    before = files(run)
    with pytest.raises(BadInput) as caught:
        call()
    assert files(run) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edited(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = yaml.safe_load(file.read_text())
    change(content)
    content.pop(SEAL, None)
    file.write_text(json.dumps(content))
    with contextlib.suppress(FileNotFoundError):
        done = file.parents[file.parent.name == "ensemble"] / "DONE"
        done.write_text("")  # as an earlier version left it


def test_members_that_miss_are_named_with_what_became_of_them(run: Path) -> None:
    (run / "member_00/DONE").unlink()
    (run / "member_01/DONE").rename(run / "member_01/CONTINUE")
    (run / "member_01/CONTINUE").write_text("SIGUSR2\n")
    assert not join_if_complete(run)
    text = refusal(lambda: join(run), run)
    assert text == f"run: {run} cannot be joined: member_00 is not finished, member_01 was stopped (SIGUSR2)"
    OwnedFolder(RunFolder(run).member(1).path).mark(run / "member_01/FAILED", "rank 0: out of memory")
    shutil.rmtree(run / "member_02")
    assert not join_if_complete(run)
    text = refusal(lambda: join(run), run)
    assert text.endswith(
        "member_00 is not finished, member_01 has failed (rank 0: out of memory), member_02 is missing"
    )


def test_a_folder_without_members(tmp_path: Path, together: Path) -> None:
    text = refusal(lambda: join(tmp_path / "nowhere"), tmp_path)
    assert text.startswith(f"run: {tmp_path}/nowhere holds no members; each is trained by `dist-dash train --members ")
    assert not (tmp_path / "nowhere").exists()
    other = shutil.copytree(together, tmp_path / "other")
    for _ in ("finished", "unfinished"):
        text = refusal(lambda: join(other), other)
        assert text == f"run: {other} holds a run of its own (checkpoints); join members in another folder"
        (other / "DONE").unlink(missing_ok=True)


def test_the_command_refuses_in_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "member_02/DONE").unlink()
    assert main(["join", str(run)]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"dist-dash: run: {run} cannot be joined: member_02 is not finished\n"
    assert captured.out == ""


def recipe(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda run: edited(run / "member_01/recipe.yaml", change)


def spec(**values: Any) -> Callable[[Path], None]:
    return lambda run: edited(run / "member_01/ensemble/ensemble.json", lambda content: content.update(values))


def replicas(run: Path) -> None:
    edited(run / "member_01/environment.json", lambda content: content["layout"].update(replicas=2))


def labels(shift: int, samples: int) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        file = run / "member_01/predictions.npz"
        arrays = dict(np.load(file))
        arrays["labels"][:1] += shift
        np.savez(file, log_probs=arrays["log_probs"][:, :samples], labels=arrays["labels"][:samples])

    return change


def other_data(content: dict[str, Any]) -> None:
    content["data"]["digest"], content["data"]["counts"]["test"] = "0", 448


def moved(run: Path) -> None:
    edited(run / "member_01/recipe.yaml", lambda content: content["data"]["init_args"].update(root="elsewhere"))


UNFIT = {
    "a choice": (
        recipe(lambda r: r.update(epochs=7)),
        "were trained differently: epochs 10 (members 0 2), 7 (member 1)",
    ),
    "two choices, nested": (
        recipe(lambda r: (r["optimizer"]["init_args"].update(lr=0.1), r["loader"].update(order="own"))),
        "differently: optimizer.lr 0.05 (members 0 2), 0.1 (member 1); loader.order 'shared' (members 0 2), ",
    ),
    "another number of members": (
        recipe(lambda r: r.update(members=2)),
        "were trained differently: members 3 (members 0 2), 2 (member 1)",
    ),
    "more members than the recipe has": (
        lambda run: shutil.copytree(run / "member_02", run / "member_03"),
        "run holds member_03, but the recipe has 3 members",
    ),
    "another number of replicas": (replicas, "were trained differently: replicas 1 (members 0 2), 2 (member 1)"),
    "another member": (
        lambda run: (shutil.rmtree(run / "member_01"), shutil.copytree(run / "member_02", run / "member_01")),
        "run/member_01 holds member_02.safetensors; it must hold member_01.safetensors and nothing else",
    ),
    "weights that are gone": (
        lambda run: (run / "member_01/ensemble/member_01.safetensors").unlink(),
        "run/member_01 holds no weights; it must hold member_01.safetensors and",
    ),
    "other classes": (spec(class_names=list("abcdefghij")), "were trained differently: data.class_names "),
    "other training data": (spec(mean=[0.9]), "were trained on different data: mean of member 1"),
    "other data": (
        lambda run: edited(run / "member_01/ensemble/ensemble.json", other_data),
        "trained on different data: member 1's differ from member 0's (test: 448 samples instead of 449)",
    ),
    "another place of data that nobody knows": (
        lambda run: (moved(run), spec(data=None)(run)),
        "were trained differently: place of the data [] (members 0 2), ['elsewhere'] (member 1)",
    ),
    "other labels": (labels(1, 449), "the labels of members 0 and 1 differ (1 of 449); their test data did"),
    "fewer samples": (
        labels(0, 448),
        "the labels of members 0 and 1 differ (449 and 448 samples); their test data did",
    ),
}


@pytest.mark.parametrize("unfit", UNFIT)
def test_members_that_do_not_belong_together(unfit: str, run: Path) -> None:
    spoil, expected = UNFIT[unfit]
    spoil(run)
    before = files(run)
    for attempt in (join, join_if_complete):
        with pytest.raises(BadInput) as caught:
            attempt(run)
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)
    after = files(run)
    for name in ("owner.json", "owner.lock"):  # what the labels are is read by the owner alone
        after.pop(str(run / name), None)
    assert after == before


def test_members_may_differ_in_what_changes_nothing(run: Path, together: Path) -> None:
    edited(run / "member_01/recipe.yaml", lambda r: (r["loader"].update(workers=2), r["record"].update(every=1)))
    moved(run)  # a copy of its own, of the same digest
    edited(run / "member_02/ensemble/ensemble.json", lambda s: s.update(mean=[s["mean"][0] * (1 + 1e-9)]))
    assert join(run)
    assert_joined(run, together)


def test_what_differs_is_no_matter_while_members_are_missing(run: Path) -> None:
    """A member that is to start over may have an earlier attempt in its folder when the others finish."""
    edited(run / "member_01/recipe.yaml", lambda r: r.update(members=4))
    (run / "member_02/DONE").unlink()
    assert not join_if_complete(run)
    assert "were trained differently: members 3 (members 0 2), 4 (member 1)" in refusal(lambda: join(run), run)
