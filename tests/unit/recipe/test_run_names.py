"""Names of run folders: what is refused as one, and that two choices never share the default."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dist_dash.cluster.array import default_sweep
from dist_dash.errors import BadInput
from dist_dash.recipe.parsing import parse_command

SAMPLE = ["--config", str(Path(__file__).parents[1] / "sample.yaml")]


def default(*arguments: str) -> str:
    run = parse_command([*SAMPLE, *arguments]).run
    assert run.parent == Path("runs")
    assert re.fullmatch(r"[A-Za-z0-9._-]+", run.name)
    assert len(run.name) < 200
    return run.name


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], "sample-dash-s0"),
        (["--method", "SAM", "--seed", "3"], "sample-sam-s3"),
        (["--optimizer.lr=0.3"], "sample-dash-optimizer.lr-0.3-s0"),
        (["--optimizer.lr=0.3", "--epochs", "3"], "sample-dash-epochs-3_optimizer.lr-0.3-s0"),
        (["--epochs", "3", "--optimizer.init_args.lr", "0.3"], "sample-dash-epochs-3_optimizer.lr-0.3-s0"),
        (["--members=3", "--method=SGD", "--member=1"], "sample-sgd-member-1_members-3-s0"),
        (["--record.every=3", "--loader.workers=1", "--checks.deadline=7", "--checkpoints.keep=3"], "sample-dash-s0"),
        (["--epochs=7", "--extend"], "sample-dash-s0"),
        (["--epochs=7", "--extend", "--optimizer.lr=0.3"], "sample-dash-optimizer.lr-0.3-s0"),
    ],
)
def test_the_default_carries_what_the_command_line_overrides(arguments: list[str], name: str) -> None:
    assert default(*arguments) == name


def test_a_sweep_by_hand_never_meets_its_own_folder() -> None:
    sweep = [["--optimizer.lr", str(rate)] for rate in (0.1, 0.2, 1e-9)]
    models = [f"--model={{class_path: MLP, init_args: {{hidden: {hidden}}}}}" for hidden in (3, 4)]
    labels = [f"--labels.{name}=0.1" for name in ("noise", "smoothing", "mixup", "validation")]
    for model in models:
        sweep += [[model], [model, *labels], [model, *labels[:3], "--labels.validation=0.2"]]
    sweep += [[f"--method={{class_path: DASH, init_args: {{rho_div: 0.{i}}}}}"] for i in range(3)]
    assert len({default(*arguments) for arguments in sweep}) == len(sweep)


def test_the_default_folder_of_a_sweep_carries_what_its_points_share() -> None:
    assert default_sweep(SAMPLE) == Path("runs/sample-sweep")
    assert default_sweep([*SAMPLE, "--epochs=4"]) == Path("runs/sample-epochs-4-sweep")


@pytest.mark.parametrize("run", ["", " ", "a" * 300, "runs/" + "ä" * 200 + "/x", "a/" * 2000, "a\nb"])
def test_what_no_file_system_takes_is_refused_in_one_line(run: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_command([*SAMPLE, f"--run={run}"])
    text = str(caught.value)
    assert text.startswith("run: ")
    assert "\n" not in text
    assert len(text) < 200
    assert parse_command([*SAMPLE, "--run=" + "a" * 255]).run.name == "a" * 255
