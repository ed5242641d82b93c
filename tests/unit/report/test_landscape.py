"""Pictures of the loss around and between members: their numbers against networks built one by one."""

import copy
import io
import itertools
from itertools import combinations

import numpy as np
import pytest
import torch
from exported import unsealed
from finished_by_hand import finished_run, write_flatness
from PIL import Image
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from dist_dash.analysis.flatness.subset import subset
from dist_dash.analysis.flatness.weight_space import Stopwatch, TooSlow, barrier
from dist_dash.models import MLP, SmallCNN
from dist_dash.report import loss_landscape as landscape
from dist_dash.report.flatness_bars import flatness_bars
from dist_dash.report.loss_landscape import loss_plane, loss_within, segments
from dist_dash.report.picture import NotHere


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("landscape") / "run", arguments=["--labels.noise=0.3"])


def looks_right(picture) -> None:
    """Something is drawn, the columns are equally long, and no text speaks Python."""
    content = io.BytesIO()
    picture.figure.savefig(content, format="png", dpi=60)
    pixels = np.asarray(Image.open(content).convert("L"))
    assert pixels.std() > 10
    assert len({len(column) for column in picture.data.values()}) == 1
    for text in (picture.caption, *picture.findings, *picture.findings.values()):
        assert text == text.strip()
        assert "nan" not in text
        assert "float64" not in text


def with_weights(network, weights, of_training):
    """The network with these weights and statistics of the training samples, estimated by layers of momentum 1."""
    moved = copy.deepcopy(network)
    vector_to_parameters(weights, moved.parameters())
    for module in moved.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        moved.train()(of_training)
    return moved.eval()


def scores(run, network) -> tuple[float, float]:
    stored = np.load(run.path.parent / "data.npz")
    with torch.no_grad():
        logits = network(torch.from_numpy(stored["x_test"]))
    y = torch.from_numpy(stored["y_test"])
    return nn.functional.cross_entropy(logits, y).item(), float((logits.argmax(1) == y).double().mean())


def of_training(run):
    return torch.from_numpy(np.load(run.path.parent / "data.npz")["x_train"])


# -- the plane ---------------------------------------------------------------------------------------------------------


def test_the_plane_shows_the_scores_of_the_networks_on_it(made):
    run, networks = made
    picture = loss_plane(run, grid=5)
    data = picture.data
    looks_right(picture)
    assert data["what"] == ["grid"] * 25 + ["member 0", "member 1", "member 2"]
    weights = [parameters_to_vector(network.parameters()).detach().double() for network in networks]
    u = weights[1] - weights[0]
    v = weights[2] - weights[0]
    v = v - (v @ u) / (u @ u) * u
    u, v = u / u.norm(), v / v.norm()
    for row in (0, 3, 7, 12, 24, 25, 26, 27):
        point = (weights[0] + data["x"][row] * u + data["y"][row] * v).float()
        loss, accuracy = scores(run, with_weights(networks[0], point, of_training(run)))
        assert data["loss"][row] == pytest.approx(loss, rel=1e-4), row
        assert data["accuracy"][row] == pytest.approx(accuracy, abs=1e-9), row
    for index, network in enumerate(networks):
        loss, _ = scores(run, with_weights(network, weights[index].float(), of_training(run)))
        assert data["loss"][25 + index] == pytest.approx(loss, rel=1e-4)
    corners = np.array([data["x"][25:], data["y"][25:]]).T
    for i, j in combinations(range(3), 2):
        apart = float((weights[i] - weights[j]).norm())
        assert np.linalg.norm(corners[i] - corners[j]) == pytest.approx(apart, rel=1e-5)
    assert picture.findings["loss at members 0, 1, 2"] == ", ".join(f"{loss:.3f}" for loss in data["loss"][25:])
    mean = with_weights(networks[0], torch.stack(weights).mean(0).float(), of_training(run))
    assert picture.findings["loss at the mean of their weights"].startswith(f"{scores(run, mean)[0]:.3f} ")
    assert picture.findings["highest loss on the grid"] == f"{max(data['loss'][:25]):.3f}"


def test_the_grid_covers_the_members_with_a_margin(made):
    run, _ = made
    data = loss_plane(run, grid=4).data
    grid = np.array([data["x"][:16], data["y"][:16]])
    corners = np.array([data["x"][16:], data["y"][16:]])
    side = np.max(corners.max(1) - corners.min(1))
    assert grid.min(1) == pytest.approx(corners.min(1) - 0.25 * side)
    assert grid.max(1) == pytest.approx(corners.max(1) + 0.25 * side)
    assert len(set(data["x"][:16])) == len(set(data["y"][:16])) == 4
    assert data["y"][:4] == [data["y"][0]] * 4  # row by row


def test_the_drawn_loss_is_that_of_the_data(made):
    """A transposed or mirrored grid would put the colours elsewhere: the members' marks tell."""
    run, _ = made
    picture = loss_plane(run, grid=9)
    left, right = picture.figure.axes[:2]
    for axes in (left, right):
        marks = [line.get_xydata()[0] for line in axes.lines]
        rows = [picture.data["what"].index(f"member {member}") for member in range(3)]
        expected = [[picture.data["x"][row], picture.data["y"][row]] for row in rows]
        assert np.allclose(marks, expected)
        assert [text.get_text() for text in axes.texts] == ["0", "1", "2"]
    lowest = int(np.argmin(picture.data["loss"][:81]))
    place = picture.data["x"][lowest], picture.data["y"][lowest]
    filled = left.collections[0]
    inside = [path.contains_point(place, radius=1e-9) for path in filled.get_paths()]
    assert inside[0] or inside[1]
    assert not any(inside[4:])


def test_the_caption_says_what_was_done(made):
    run, _ = made
    picture = loss_plane(run, grid=3)
    for text in ("45 samples of the test split", "batch-norm statistics", "60 training samples", "3 × 3", "anew"):
        assert text in picture.caption
    no_norm, _ = finished_run(run.path.parent / "plain", [SmallCNN(width=2, norm="none")] * 3)
    assert "batch-norm" not in loss_plane(no_norm, grid=3).caption


def test_a_plane_needs_three_members_of_one_architecture_that_do_not_lie_on_a_line(tmp_path):
    two, _ = finished_run(tmp_path / "two", [SmallCNN(width=2)] * 2)
    with pytest.raises(NotHere, match="three members"):
        loss_plane(two)
    mixed, _ = finished_run(tmp_path / "mixed", [SmallCNN(width=2), SmallCNN(width=2), SmallCNN(width=3)])
    for picture in (loss_plane, segments):
        with pytest.raises(NotHere, match="member 2 has another architecture"):
            picture(mixed)
    equal, _ = finished_run(tmp_path / "equal")
    for member in (1, 2):
        (equal.path / f"ensemble/member_0{member}.safetensors").write_bytes(
            (equal.path / "ensemble/member_00.safetensors").read_bytes()
        )
    unsealed(equal.path / "ensemble")
    with pytest.raises(NotHere, match="line"):
        loss_plane(equal)
    same = segments(equal, points=3)
    assert np.ptp(same.data["loss"]) < 1e-6
    assert same.findings["mean barrier"] == "0.000"


def test_data_that_have_moved_are_a_sentence(tmp_path):
    run, _ = finished_run(tmp_path / "run")
    (tmp_path / "data.npz").unlink()
    for picture in (loss_plane, segments, loss_within):
        with pytest.raises(NotHere, match=r"^Data.path.*data\.npz.*\.$"):
            picture(run)


def test_what_would_take_too_long_is_not_begun(made, monkeypatch):
    run, _ = made
    asked = []

    class Slow(landscape.BetweenMembers):
        def score(self, weights):
            asked.append(weights)
            return super().score(weights)

    monkeypatch.setattr(landscape, "BetweenMembers", Slow)
    for picture in (loss_plane, segments):
        with pytest.raises(NotHere, match="minutes"):
            picture(run, patience=0.0)
    assert len(asked) == 4
    with pytest.raises(NotHere, match="minutes"):
        loss_within(run, patience=0.0)
    assert len(loss_plane(run, grid=2, patience=60.0).data["x"]) == 7


def test_the_time_is_estimated_from_what_was_done_so_far(made, monkeypatch):
    """One second passes at each look at the clock: at the start, and after a gradient (worth three losses) a member."""
    run, _ = made
    clock = itertools.count(0, torch.get_num_threads())
    monkeypatch.setattr("time.process_time", lambda: next(clock))
    loss_within(run, points=3, directions=2, patience=9.1)  # 27 losses, 3 of them in the first second
    with pytest.raises(NotHere, match="0 minutes"):
        loss_within(run, points=3, directions=2, patience=8.9)
    watch = Stopwatch(10, 4.9)
    with pytest.raises(TooSlow) as caught:
        watch.check(2)
    assert caught.value.seconds == 5
    Stopwatch(10, 5.1).check(2)


# -- segments ----------------------------------------------------------------------------------------------------------


def test_segments_show_the_scores_of_the_networks_on_them(made):
    run, networks = made
    picture = segments(run, points=5)
    looks_right(picture)
    data = picture.data
    assert data["pair"] == ["0–1"] * 5 + ["0–2"] * 5 + ["1–2"] * 5
    assert data["t"] == [0, 0.25, 0.5, 0.75, 1] * 3
    weights = [parameters_to_vector(network.parameters()) for network in networks]
    for row, (pair, t) in enumerate(zip(data["pair"], data["t"], strict=True)):
        i, j = (int(part) for part in pair.split("–"))
        network = with_weights(networks[0], (1 - t) * weights[i] + t * weights[j], of_training(run))
        loss, accuracy = scores(run, network)
        assert data["loss"][row] == pytest.approx(loss, rel=1e-4)
        assert data["accuracy"][row] == pytest.approx(accuracy)
    heights = [barrier(np.array(data["loss"][start : start + 5])) for start in (0, 5, 10)]
    assert picture.findings["mean barrier"] == f"{np.mean(heights):.3f}"
    highest = ("0–1", "0–2", "1–2")[int(np.argmax(heights))]
    assert picture.findings["highest barrier"] == f"{max(heights):.3f} (members {highest})"
    lines = [line.get_xydata()[:, 1] for line in picture.figure.axes[0].lines]
    assert np.allclose(np.concatenate(lines), data["loss"])


def test_a_convex_loss_has_no_barriers(tmp_path):
    """Linear classifiers: cross-entropy is convex in their weights."""
    run, networks = finished_run(tmp_path / "run", [MLP(depth=0)] * 3)
    picture = segments(run)
    assert {value.split()[0] for value in picture.findings.values()} == {"0.000"}
    ends = [picture.data["loss"][k] for k in (0, 10, 21)]
    assert ends == pytest.approx([scores(run, network)[0] for network in networks], rel=1e-5)


def test_of_many_members_the_first_four_are_paired(tmp_path):
    run, _ = finished_run(tmp_path / "run", [MLP(hidden=3, depth=1)] * 5)
    picture = segments(run, points=3)
    assert list(dict.fromkeys(picture.data["pair"])) == ["0–1", "0–2", "0–3", "1–2", "1–3", "2–3"]
    assert "first four" in picture.caption
    alone, _ = finished_run(tmp_path / "alone", [MLP(hidden=3, depth=1)])
    with pytest.raises(NotHere, match="two members"):
        segments(alone)


# -- the ball ----------------------------------------------------------------------------------------------------------


def test_the_loss_within_a_distance_is_that_of_networks_so_far_away(made):
    run, networks = made
    picture = loss_within(run, radius=0.4, points=5, directions=3)
    looks_right(picture)
    data = picture.data
    assert data["member"] == [member for member in range(3) for _ in range(5)]
    assert data["distance"] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4] * 3)
    x, y = subset(run, "train", 500, 0)
    assert len(x) == 60
    for member, network in enumerate(networks):
        own = copy.deepcopy(network)
        nn.functional.cross_entropy(own(x), y).backward()
        gradient = torch.cat([p.grad.flatten() for p in own.parameters()])
        for r, distance in enumerate((0, 0.1, 0.2, 0.3, 0.4)):
            moved = copy.deepcopy(network)
            weights = parameters_to_vector(network.parameters()) + distance * gradient / gradient.norm()
            vector_to_parameters(weights, moved.parameters())  # and the member's own statistics
            expected = nn.functional.cross_entropy(moved(x), y).item()
            assert data["along_gradient"][5 * member + r] == pytest.approx(expected, rel=1e-4)
    for row in range(15):
        low, middle, high = (data[f"random_{name}"][row] for name in ("lowest", "mean", "highest"))
        assert low <= middle <= high
        assert (low == high == data["along_gradient"][row]) == (data["distance"][row] == 0)
    rise = np.mean([data["along_gradient"][5 * m + 4] - data["along_gradient"][5 * m] for m in range(3)])
    assert picture.findings["mean rise at distance 0.4 along the gradient"] == f"{rise:.3f}"
    rise = np.mean([data["random_mean"][5 * m + 4] - data["random_mean"][5 * m] for m in range(3)])
    assert picture.findings["mean rise at distance 0.4 in random directions"] == f"{rise:.4f}"


def test_random_directions_are_as_long_as_said(tmp_path):
    """A linear classifier, of little curvature: the rise of the loss is the slope times the length."""
    run, networks = finished_run(tmp_path / "run", [MLP(depth=0)])
    data = loss_within(run, radius=1e-2, points=3, directions=200).data
    x, y = subset(run, "train", 500, 0)
    own = networks[0].double()
    nn.functional.cross_entropy(own(x), y).backward()
    gradient = torch.cat([p.grad.flatten() for p in own.parameters()])
    # The component of a random unit vector of R^P along a given one has the standard deviation 1/√P.
    expected = 1e-2 * float(gradient.norm()) / len(gradient) ** 0.5
    spread = data["random_highest"][2] - data["random_lowest"][2]
    assert 4 * expected < spread < 8 * expected  # the range of 200 normal numbers is about 5.5 deviations


def test_members_of_different_architectures_have_a_ball_each(tmp_path):
    run, _ = finished_run(tmp_path / "run", [SmallCNN(width=2), MLP(hidden=4)])
    assert set(loss_within(run, points=3, directions=2).data["member"]) == {0, 1}


# -- bars --------------------------------------------------------------------------------------------------------------


def test_bars_of_a_run_are_its_members(made):
    run, _ = made
    with pytest.raises(NotHere, match="was not measured; `dist-dash flatness"):
        flatness_bars(run)
    rises = [{"worst_rise": 0.5, "eigenvalue": 3.0, "trace": 9.0, "trace_error": 0.25}, None, {"worst_rise": 0.25}]
    write_flatness(run, rises, rho=0.125)
    picture = flatness_bars(run)
    looks_right(picture)
    assert picture.data["member"] == [0, 2]
    assert picture.data["worst_rise"] == [0.5, 0.25]
    assert picture.data["trace_error"] == [0.25, 1.0]
    bars = [[patch.get_height() for patch in axes.patches] for axes in picture.figure.axes]
    assert bars == [picture.data[name] for name in ("worst_rise", "eigenvalue", "trace")]
    assert picture.findings["Hessian trace, mean over members"] == "5"
    assert "ρ = 0.125" in picture.caption
    run.folder.flatness.unlink()


def test_bars_of_groups_are_means_over_runs_of_means_over_members(tmp_path):
    runs = {}
    for group, seed, values in (("A", 0, [1, 3]), ("A", 1, [4, 8, None]), ("B <b>$x$", 0, [5])):
        run, _ = finished_run(tmp_path / f"{group[0]}{seed}" / "run", [MLP(hidden=2)], seed)
        write_flatness(run, [None if v is None else {"trace": float(v)} for v in values])
        runs.setdefault(group, []).append(run)
    picture = flatness_bars(runs)
    looks_right(picture)
    assert picture.data["group"] == ["A"] * 4 + ["B <b>$x$"]
    assert picture.data["number"] == [0, 0, 1, 1, 0]  # the folders have one name
    assert picture.data["run"] == ["run"] * 5
    assert picture.data["trace"] == [1, 3, 4, 8, 5]
    assert picture.findings["Hessian trace, A"] == f"4 ± {np.std([2, 6], ddof=1):.2g}"
    assert picture.findings["Hessian trace, B <b>$x$"] == "5"
    assert [patch.get_width() for patch in picture.figure.axes[2].patches] == [4, 5]
    assert picture.figure.axes[0].get_yticklabels()[1].get_text() == "B <b>$x$"


@pytest.mark.parametrize("name", ["split", "samples", "rho", "steps", "seed", "dtype"])
def test_runs_measured_differently_are_not_compared(tmp_path, name):
    runs = [finished_run(tmp_path / f"{k}" / "run", [MLP(hidden=2)])[0] for k in range(2)]
    write_flatness(runs[0], [{}])
    write_flatness(runs[1], [{}], **{name: "test" if name == "split" else 7})
    with pytest.raises(NotHere, match=f"different settings .{name}: "):
        flatness_bars({"one": runs[:1], "other": runs[1:]})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"members": [{"trace": 1}]}', '{"members": 3}'])
def test_a_damaged_file_is_a_sentence(tmp_path, content):
    run, _ = finished_run(tmp_path / "run", [MLP(hidden=2)])
    run.folder.flatness.write_text(content)
    with pytest.raises(NotHere, match="is damaged"):
        flatness_bars(run)
    for wrong in ([{"trace": "x"}], [{}]):
        write_flatness(run, wrong, rho=[1] if wrong == [{}] else 0.05)
        with pytest.raises(NotHere, match="is damaged"):
            flatness_bars(run)
    write_flatness(run, [None])
    with pytest.raises(NotHere, match="finite"):
        flatness_bars(run)
    with pytest.raises(NotHere, match="no run"):
        flatness_bars({})
