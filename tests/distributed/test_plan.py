"""A plan and a dry run: an imagined rank does what real ranks do; the plan adds up; wrong input is refused."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dist_dash.cluster.measure import built
from dist_dash.cluster.scaling.step_model import Size
from dist_dash.cluster.walk import SAMPLES, Walked, check_layout, differing_ranks, layout_of, walk_rank
from dist_dash.commands.cli import main
from dist_dash.errors import RunFailed
from dist_dash.member.batch import Progress
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import Layout, layout_from_environment
from dist_dash.recipe.parsing import parse_command
from dist_dash.runs.checkpoint import CheckpointSets
from dist_dash.training.build import on_device
from dist_dash.training.identity import weights_digest
from tests.support.ranks import on_ranks

RECIPE = [
    *("--data=Digits", "--model=MLP", "--model.hidden=16", "--optimizer=SGD", "--optimizer.lr=0.05"),
    *("--engine=Torch", "--loader.batch_size=16", "--members=4", "--epochs=3", "--method=DASH"),
]
SIZE = ["--nodes=2", "--gpus-per-node=4"]


def on_stdout(arguments: list[str]) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main(arguments)
    return status, out.getvalue()


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("plan") / "profile.json"
    arguments = ["plan", *RECIPE, *SIZE, f"--save-profile={file}", "--steps=8"]
    ((status, text),) = on_ranks(1, on_stdout, arguments)
    assert status == 0
    assert "measured here" in text
    return file


def planned(profile: Path, *more: str) -> dict[str, Any]:
    status, text = on_stdout(["plan", *RECIPE, *SIZE, f"--profile={profile}", "--json", *more])
    assert status == 0
    found: dict[str, Any] = json.loads(text)
    return found


# -- what is measured --------------------------------------------------------------------------------------------------


def test_an_imagined_rank_sends_and_passes_what_the_formulas_say(profile: Path) -> None:
    methods = json.loads(profile.read_text())["methods"]
    passes = {name: (cost["forwards"], cost["backwards"]) for name, cost in methods.items()}
    assert passes == {"SGD": (1, 1), "SAM": (2, 2), "DASH joint": (2, 2), "DASH separate": (2, 3)}
    gathers = {name: (cost["gathers"], cost["gathered_bytes"]) for name, cost in methods.items()}
    assert gathers == {"SGD": (0, 0), "SAM": (0, 0), **dict.fromkeys(("DASH joint", "DASH separate"), (1, 16 * 10 * 4))}
    weights = 4 * (64 * 16 + 16 + 16 * 16 + 16 + 16 * 10 + 10)
    assert {(cost["averages"], cost["averaged_bytes"]) for cost in methods.values()} == {(1, weights)}
    assert methods["DASH separate"]["hiding"] > methods["DASH joint"]["hiding"]  # behind the backward of the loss
    assert [len(cost["meetings"]) for cost in methods.values()] == [0, 0, 1, 1]


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_a_plan_adds_up(profile: Path) -> None:
    found = planned(profile)
    assert found["map"] == [[r // 2, r % 2, r // 4] for r in range(8)]
    assert found["map"] == [[o.member, o.replica, o.rank // 4] for o in (Layout(r, 8, 4) for r in range(8))]
    samples = json.loads(profile.read_text())["samples"]
    assert found["updates"] == 3 * (samples // (16 * 2))
    assert {*found["methods"]} == {"SGD", "SAM", "DASH joint", "DASH separate", "separate, every 5th"}
    for one in found["methods"].values():
        assert one["seconds"] == pytest.approx(sum(term["seconds"] for term in one["terms"]))
        assert one["gpu_hours"] == pytest.approx(8 * one["seconds"] * found["updates"] / 3600)
        assert one["samples_per_second"] == pytest.approx(4 * 2 * 16 / one["seconds"])
        assert all(term["origin"] for term in one["terms"])
    own = found["methods"]["DASH separate"]
    assert own["memory_bytes"] == pytest.approx(
        sum(found["memory"][part] for part in ("weights", "gradients", "optimizer", "method", "activations"))
    )
    k = found["methods"]["separate, every 5th"]["seconds"]
    assert k == pytest.approx((own["seconds"] + 4 * found["methods"]["SGD"]["seconds"]) / 5)


def test_a_slow_network_and_slow_ranks_are_why_it_stops(profile: Path) -> None:
    slow = planned(profile, "--network=alpha_flags=5000")["limits"][0]
    assert slow["term"] == "agreement on flags, exposed"
    given = planned(profile, "--straggling=independent=1.5,persistent=0", "--network=alpha_flags=0,alpha_between=0")
    assert given["limits"][1]["term"] == "straggling, independent"
    assert given["origins"] == {"profile": "profile", "network": "given", "straggling": "given"}


def test_the_table_and_the_picture(profile: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.png"
    status, text = on_stdout(["plan", *RECIPE, *SIZE, f"--profile={profile}", f"--picture={file}"])
    assert status == 0
    assert "8 ranks on 2 nodes: 4 × 2; 32 samples per member and update" in text
    assert "member 3: ranks 6 to 7" in text
    for words in ("exchange, exposed", "α assumed", "GPU-hours", "Efficiency with more members"):
        assert words in text
    with Image.open(file) as image:
        assert image.size == (2100, 750)


def test_sigma_is_fitted_to_the_record_of_a_run(profile: Path, tmp_path: Path) -> None:
    timing = [[0.1, 0.2], [0.1, 0.2], [0.1, 0.2], [0.1, 0.2], [0.1, 0.2]]
    lines = [{"kind": "train", "step": s, "timing": {"compute": c}} for s, c in enumerate(timing, 1)]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (tmp_path / "environment.json").write_text(json.dumps({"layout": {"replicas": 1}}))
    found = planned(profile, f"--waits={tmp_path}")
    assert found["straggling"]["independent"] == pytest.approx(0, abs=1e-9)
    assert found["straggling"]["persistent"] == pytest.approx(0.4901, rel=1e-3)  # of log 0.1 and log 0.2
    (tmp_path / "environment.json").write_text(json.dumps({"layout": {"replicas": 2}}))
    refused(profile, [f"--waits={tmp_path}"], "2 replicas per member; it must be a run with one rank per member")


def refused(profile: Path | None, more: list[str], text: str, *, without: str = "") -> None:
    arguments = ["plan", *RECIPE, *SIZE, *([f"--profile={profile}"] if profile else []), *more]
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()) as out:
        assert main([one for one in arguments if not without or not one.startswith(without)]) == 2
    assert out.getvalue() == ""
    (line,) = error.getvalue().splitlines()
    assert text in line


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--nodes=0"], "nodes: 0 is not allowed; it must be a whole number ≥ 1"),
        (["--nodes=x"], "argument --nodes: invalid int value: 'x'"),
        (["--gpus-per-node=-8"], "gpus-per-node: -8 is not allowed"),
        (["--cores-per-node=0"], "cores-per-node: 0 is not allowed"),
        (["--members=3"], "members: 3 is not allowed; it must divide the 8 ranks"),
        (["--replicas=3"], "replicas: 3 is not allowed; 8 ranks for 4 members make 2"),
        (["--member=1", "--method=SGD"], "member: not allowed in a plan"),
        (["--every=0"], "every: 0 is not allowed"),
        (["--straggling=independent=-0.1"], "independent: '-0.1' is not allowed; it must be a number ≥ 0"),
        (["--straggling=sigma=1"], "straggling: 'sigma' is no field of it"),
        (["--network=alpha_inside"], "network: 'alpha_inside' is not allowed; it must be NAME=VALUE"),
        (["--network=beta_between=0"], "beta_between: '0' is not allowed; it must be a number > 0"),
        (["--network=overlap=2"], "overlap: '2' is not allowed; it must be a number ≤ 1"),
        (["--network=overlap=0,overlap=1"], "each name once"),
        (["--picture=a.gif"], "picture: 'a.gif' is not allowed; it must be a .png or .svg file"),
        (["--picture=nowhere/a.png"], "picture: nowhere/a.png cannot be written"),
        (["--save-profile=a.json"], "save-profile: not allowed with --profile"),
        (["--ranks=1"], "ranks: '1' is not allowed; it must be left out without --dry-run"),
        (["--dry-run", "--ranks=8"], "ranks: '8' is not allowed; it must be numbers of ranks below 8"),
        (["--waits=nowhere"], "nowhere/metrics.jsonl cannot be read"),
        (["--waits=x", "--straggling=persistent=0"], "waits: not allowed with --straggling"),
        (["--model.hidden=17"], "is of another recipe (model.hidden 16 there, 17 here)"),
        (["--loader.batch_size=32"], "is of another recipe (loader.batch_size 16 there, 32 here)"),
        (["--method.gamma=0.5"], "has no this recipe's DASH, only SGD, SAM"),
        (["--gpus-per-nod=3"], "--gpus-per-nod: no such option; did you mean --gpus-per-node or "),
        (["--nodes=400"], "loader.batch_size: '6400 samples per member and update' is not allowed"),
    ],
)
def test_wrong_input_is_one_line(
    profile: Path, more: list[str], text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(profile, more, text)
    assert not list(tmp_path.iterdir())


def test_a_damaged_profile_is_named(profile: Path, tmp_path: Path) -> None:
    file, content = tmp_path / "profile.json", json.loads(profile.read_text())
    for change, text in (
        ({"format": 2}, "format: 2 is not allowed; it must be 1"),
        ({"speed": 1}, "profile: 'speed' is no field of it"),
        (
            {"rates": {**content["rates"], "forward": -1.0}},
            "rates.forward: -1.0 is not allowed; it must be a number > 0",
        ),
        ({"methods": {}}, "has no DASH separate"),
    ):
        file.write_text(json.dumps({**content, **change}))
        refused(file, [], text)
    del content["recipe"]["deterministic"]  # as an earlier version would have written it
    file.write_text(json.dumps(content))
    assert planned(file)["method"] == "DASH separate"
    file.write_text("{")
    refused(file, [], "profile.json is missing or unreadable (JSONDecodeError)")
    refused(tmp_path / "none.json", [], "none.json is missing or unreadable (FileNotFoundError)")


# -- the dry run -------------------------------------------------------------------------------------------------------


def walked(ranks: list[int]) -> list[Walked]:
    return [walk_rank(RECIPE, Size(4, 2, 4), rank) for rank in ranks]


def really() -> tuple[int, int, str, list[int], float]:
    """What a real rank has, built alike, with its peers there."""
    recipe = parse_command(RECIPE).recipe
    with Exchange(layout_from_environment(4)) as exchange:
        member, _, loader = built(recipe, exchange, lambda text: None)
        digest, samples = weights_digest(member.engine.module), loader.assemble((0, 0)).ids.flatten().tolist()
        loader.batch_size = SAMPLES
        batch = on_device(recipe, loader.assemble((0, 0)), exchange.layout, Progress(0, 9, 3, 1.0, (1.0, 1.0)))
        loss = float(recipe.method.update(member, batch, exchange)["loss"])
        return exchange.layout.member, exchange.layout.replica, digest, samples[:4], loss


def test_an_imagined_rank_is_built_as_the_real_one() -> None:
    (found,) = on_ranks(1, walked, [0, 3, 7])
    real = on_ranks(8, really)
    for one in found:
        assert (one.member, one.replica, one.weights, one.samples, one.loss) == real[one.rank]
        assert one.moved
        assert (one.gathers, one.averages) == (1, 1)
        assert one.checkpoint == CheckpointSets.part(one.member, one.replica)


def test_ranks_that_differ_are_chosen() -> None:
    assert differing_ranks(Size(64, 16, 8), None) == [0, 1, 8, 16, 1023]
    assert differing_ranks(Size(1, 1, 8), None) == [0]
    models = [parse_command([*RECIPE, f"--model.hidden={8 * (m // 2 + 1)}"]).recipe.model for m in range(1, 9)]
    assert {2 * member for member in (0, 1, 3, 5, 7)} <= {*differing_ranks(Size(8, 2, 8), models)}


def test_the_layout_of_1024_ranks_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    check_layout(Size(64, 16, 8))
    last = layout_of(Size(5, 2, 4), 9)
    assert (last.local_rank, last.local_world, last.member, last.replica) == (1, 2, 4, 1)
    monkeypatch.setattr(Layout, "exchange_ranks", lambda self, replica: [m + replica for m in range(self.members)])
    with pytest.raises(RunFailed, match="the layout of 1024 ranks is inconsistent"):
        check_layout(Size(64, 16, 8))
