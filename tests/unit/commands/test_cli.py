import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from complaints import cli_complaint

from dist_dash import __version__
from dist_dash.commands.cli import main
from dist_dash.metrics.summary import evaluate

pytestmark = pytest.mark.usefixtures("not_a_rank")
ROOT = Path(__file__).parents[3]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}


SHOW_HELP = """
import sys
from dist_dash.commands.cli import main
try:
    main(["--help"])
finally:
    print(*sys.modules, file=sys.stderr)
"""


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    log_probs = np.log(generator.dirichlet(np.ones(10), size=(3, 40))).astype(np.float32)
    np.savez(tmp_path / "p.npz", log_probs=log_probs, labels=generator.integers(10, size=40))
    return tmp_path / "p.npz"


def test_help_lists_the_commands_and_does_not_wait_for_torch():
    done = subprocess.run(
        [sys.executable, "-c", SHOW_HELP], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    for name in ("train", "evaluate", "predict"):
        assert f"\n    {name} " in done.stdout
    loaded = set(done.stderr.split())
    assert "dist_dash.commands.cli" in loaded
    assert not loaded & {"torch", "numpy", "jsonargparse", "deepspeed", "rich"}


def test_the_module_and_the_script_start_the_same(tmp_path):
    script = [str(Path(sys.executable).with_name("dist-dash"))]
    if not Path(*script).exists():  # the project is on PYTHONPATH, not installed: what the script would do
        script = [sys.executable, "-c", "from dist_dash.commands.cli import entry; entry()"]
    for command in ([sys.executable, "-m", "dist_dash"], script):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, env=ENVIRONMENT)
        assert (done.returncode, done.stdout) == (0, f"dist-dash {__version__}\n")


@pytest.mark.parametrize("arguments", [["fly"], [], ["--nonsense"]])
def test_an_unknown_command_ends_with_two(arguments, capsys):
    assert "COMMAND" in cli_complaint(capsys, *arguments)


def test_evaluate_wants_a_run_or_predictions(capsys, predictions):
    assert "either a RUN or --predictions" in cli_complaint(capsys, "evaluate")
    assert "either a RUN or --predictions" in cli_complaint(capsys, "evaluate", "run", "--predictions", predictions)


def test_evaluate_prints_the_table_of_predictions(capsys, predictions):
    assert main(["evaluate", "--predictions", str(predictions)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert [name for name in ("member 0", "member 2", "member mean", "ensemble") if name not in captured.out] == []


def test_evaluate_prints_json_for_programs(capsys, predictions):
    assert main(["evaluate", "--predictions", str(predictions), "--json"]) == 0
    with np.load(predictions) as arrays:
        expected = evaluate(arrays["log_probs"], arrays["labels"], "given", None)
    assert json.loads(capsys.readouterr().out) == expected


@pytest.mark.parametrize("content", [None, b"", b"PK torn", {"labels": np.zeros(3)}, {"log_probs": np.array([None])}])
def test_evaluate_names_predictions_that_are_none(capsys, tmp_path, content):
    path = tmp_path / "bad.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.savez(path, **content)
    assert f"predictions: {path} " in cli_complaint(capsys, "evaluate", "--predictions", path)


def test_evaluate_names_a_run_without_an_ensemble(capsys, tmp_path):
    nowhere = tmp_path / "nowhere"
    assert f"run: {nowhere} is no folder" in cli_complaint(capsys, "evaluate", nowhere)
    nowhere.mkdir()
    (nowhere / "recipe.yaml").write_text("epochs: 1\n")
    assert f"run: {nowhere} holds no exported ensemble" in cli_complaint(capsys, "evaluate", nowhere)


def test_evaluate_wants_the_recipe_of_the_run(capsys, run):
    assert f"{run} has no recipe.yaml" in cli_complaint(capsys, "evaluate", run)


def test_train_refuses_a_bad_recipe_before_anything_starts(capsys):
    recipe = ROOT / "launch/recipes/digits_dash.yaml"
    text = cli_complaint(capsys, "train", "--config", recipe, "--method.rho_div", "-1", "--run", "run")
    assert text == "dist-dash: method.rho_div: -1.0 is not allowed; it must be a finite number ≥ 0\n"


def test_train_leaves_a_foreign_folder_alone(capsys, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work")
    recipe = ROOT / "launch/recipes/digits_dash.yaml"
    assert "holds files that are not a run's" in cli_complaint(capsys, "train", "--config", recipe, "--run", "mine")


def test_only_the_first_rank_complains_of_bad_input(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert main(["evaluate"]) == 2
    assert capsys.readouterr().err == ""
