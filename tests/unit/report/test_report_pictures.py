"""The numbers in the pictures of a run: those of its files, of a slow loop, and of the figure itself."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_dash.ensembles.finished import FinishedRun
from dist_dash.metrics.calibration import cross_fitted
from dist_dash.report.ascent_cosines import BETWEEN, WITHIN, ascent_directions, pair_cosines
from dist_dash.report.coverage_curves import coverage, curve
from dist_dash.report.learning_curves import learning_curves
from dist_dash.report.pair_matrices import pairwise_matrices
from dist_dash.report.picture import NotHere, Picture, drawable
from dist_dash.report.readings import per_member, thinned
from dist_dash.report.reliability_diagrams import reliability_diagrams
from dist_dash.report.size_curves import most_subsets, sizes
from dist_dash.report.step_time import step_time
from tests.support.reported import predicted, record, reported_run


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reported_run(tmp_path_factory.mktemp("pictures") / "run")


@pytest.fixture
def run(path: Path) -> FinishedRun:
    return FinishedRun(path)


def rows(picture: Picture) -> list[tuple]:
    return list(zip(*picture.data.values(), strict=True))


def lines_drawn(picture: Picture) -> list[tuple[list[float], list[float]]]:
    """Every line with a label, in the order in which it was drawn."""
    return [
        (line.get_xdata().tolist(), line.get_ydata().tolist())
        for axes in picture.figure.axes
        for line in axes.lines
        if not line.get_label().startswith("_")
    ]


def lines_written(picture: Picture) -> list[tuple[list[float], list[float]]]:
    """The same of the data: panel, of, x, y."""
    found: dict[tuple, tuple[list, list]] = {}
    for panel, of, x, y in rows(picture):
        found.setdefault((panel, of), ([], []))
        found[panel, of][0].append(x)
        found[panel, of][1].append(y)
    return list(found.values())


# -- learning curves ---------------------------------------------------------------------------------------------------


def test_learning_curves_are_the_lines_of_the_record(run):
    picture = learning_curves(run)
    found = {(panel, of, epoch): value for panel, of, epoch, value in rows(picture)}
    expected = {}
    for line in record(3, ("train", "eval")):
        if line["kind"] == "train":
            for member in range(3):
                of = f"member {member}"
                expected["training loss", of, line["epoch"]] = line["loss"][member]
                expected["training accuracy", of, line["epoch"]] = line["accuracy"][member]
        else:
            scores = {"ensemble": line["ensemble"], **{f"member {i}": s for i, s in enumerate(line["members"])}}
            for of, score in scores.items():
                expected["test accuracy", of, line["epoch"]] = score["accuracy"]
                expected["test NLL", of, line["epoch"]] = score["nll"]
    assert found == expected
    assert lines_drawn(picture) == lines_written(picture)


def test_without_evaluations_the_training_is_drawn_and_it_is_said(tmp_path):
    picture = learning_curves(FinishedRun(reported_run(tmp_path / "run", kinds=["train"])))
    assert {row[0] for row in rows(picture)} == {"training loss", "training accuracy"}
    assert "no evaluation" in picture.caption


def test_an_empty_record_has_no_learning_curves(tmp_path):
    run = FinishedRun(reported_run(tmp_path / "run", kinds=[]))
    for draw in (learning_curves, step_time, ascent_directions):
        with pytest.raises(NotHere):
            draw(run)


def test_a_joined_run_has_members_but_no_ensemble(tmp_path):
    run = reported_run(tmp_path / "run")
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in told:
        line.pop("ensemble", None)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    assert {row[1] for row in rows(learning_curves(FinishedRun(run)))} == {"member 0", "member 1", "member 2"}


def test_what_json_lacks_is_a_gap(tmp_path):
    run = reported_run(tmp_path / "run", kinds=["train"])
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    told[2]["loss"][1] = None
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    picture = learning_curves(FinishedRun(run))
    gaps = [row[:3] for row in rows(picture) if math.isnan(row[3])]
    assert gaps == [("training loss", "member 1", told[2]["epoch"])]


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=60),
    st.integers(1, 20),
)
def test_thinned_lines_are_means_over_windows(values, most):
    epochs = np.arange(len(values), dtype=float)
    found, means, window = thinned(epochs, np.array(values)[:, None], most)
    assert len(found) <= most
    parts = [range(start, min(start + window, len(values))) for start in range(0, len(values), window)]
    np.testing.assert_allclose(found, [statistics.fmean(map(float, part)) for part in parts])
    np.testing.assert_allclose(means[:, 0], [statistics.fmean(values[i] for i in part) for part in parts], atol=1e-12)


def test_lines_of_another_number_of_members_are_passed_over():
    told = [{"epoch": 1, "loss": [1, 2]}, {"epoch": 2}, {"epoch": 3, "loss": [3, 4, 5]}, {"epoch": 4, "loss": "x"}]
    epochs, values = per_member(told, "loss")
    assert epochs.tolist() == [3]
    assert values.tolist() == [[3, 4, 5]]
    assert per_member(told, "nothing")[1].shape == (0, 0)


# -- predictions -------------------------------------------------------------------------------------------------------


def mean_of_softmaxes(log_probs: np.ndarray) -> list[list[float]]:
    members, samples, classes = log_probs.shape
    return [
        [math.log(sum(math.exp(log_probs[m, n, c]) for m in range(members)) / members) for c in range(classes)]
        for n in range(samples)
    ]


def test_reliability_is_that_of_a_loop(run):
    picture = reliability_diagrams(run)
    log_probs, labels = predicted(3, 60, 6, 0)
    found = {row[:3]: row[3:] for row in rows(picture) if row[0] == "before scaling"}
    own = {"ensemble": mean_of_softmaxes(log_probs.astype(float)), "member 1": log_probs[1].astype(float).tolist()}
    for name, scores in own.items():
        for low, (high, count, confidence, accuracy) in {k[2]: v for k, v in found.items() if k[1] == name}.items():
            inside = []
            for score, label in zip(scores, labels, strict=True):
                top = max(range(6), key=lambda c: score[c])
                if low < math.exp(score[top]) <= high:
                    inside.append((math.exp(score[top]), top == label))
            assert count == len(inside)
            if inside:
                assert confidence == pytest.approx(statistics.fmean(c for c, _ in inside), abs=1e-6)
                assert accuracy == pytest.approx(statistics.fmean(r for _, r in inside), abs=1e-6)
            else:
                assert math.isnan(accuracy)
    assert {row[:2] for row in rows(picture)} == {
        (stage, of)
        for stage in ("before scaling", "after scaling")
        for of in ("ensemble", "member 0", "member 1", "member 2")
    }


def test_scaling_changes_confidence_but_nobody_s_choice(run):
    picture = reliability_diagrams(run)
    right = {}
    for stage, of, _, _, count, _, accuracy in rows(picture):
        right[stage, of] = right.get((stage, of), 0) + (count * accuracy if count else 0)
    for of in ("ensemble", "member 0"):
        assert right["before scaling", of] == pytest.approx(right["after scaling", of])
    log_probs, labels = predicted(3, 60, 6, 0)
    scaled = cross_fitted(log_probs[2], labels)
    tops = [math.exp(row.max()) for row in scaled]
    own = [row[2:6] for row in rows(picture) if row[:2] == ("after scaling", "member 2")]
    assert [count for _, _, count, _ in own] == [sum(low < top <= high for top in tops) for low, high, _, _ in own]
    before = [row[4] for row in rows(picture) if row[:2] == ("before scaling", "member 2")]
    assert before != [count for _, _, count, _ in own]


def test_bars_are_the_ensemble_s_accuracies(run):
    picture = reliability_diagrams(run)
    above = picture.figure.axes[0]
    heights = [bar.get_height() for bar in above.containers[0]]
    written = [row[6] for row in rows(picture) if row[:2] == ("before scaling", "ensemble")]
    np.testing.assert_array_equal(heights, written)
    counts = [bar.get_height() for bar in picture.figure.axes[2].containers[0]]
    assert counts == [row[4] for row in rows(picture) if row[:2] == ("before scaling", "ensemble")]
    assert sum(counts) == 60


def test_one_sample_has_no_scaling(tmp_path):
    picture = reliability_diagrams(FinishedRun(reported_run(tmp_path / "run", samples=1)))
    assert {row[0] for row in rows(picture)} == {"before scaling"}


def test_coverage_is_that_of_a_loop(run):
    picture = coverage(run)
    log_probs, labels = predicted(3, 60, 6, 0)
    member = log_probs[2].astype(float)
    order = sorted(range(60), key=lambda n: -member[n].max())
    right = [int(member[n].argmax()) == labels[n] for n in order]
    expected = [statistics.fmean(right[:k]) for k in range(1, 61)]
    found = [(x, y) for _, of, x, y in rows(picture) if of == "member 2"]
    np.testing.assert_allclose([x for x, _ in found], [k / 60 for k in range(1, 61)])
    np.testing.assert_allclose([y for _, y in found], expected)
    assert lines_drawn(picture) == lines_written(picture)
    assert found[-1][1] == run.evaluation["members"][2]["accuracy"]
    aac = statistics.fmean(y for _, of, _, y in rows(picture) if of == "ensemble")
    assert aac == pytest.approx(run.evaluation["ensemble"]["aac"])


@given(st.integers(1, 3000))
def test_a_curve_ends_at_full_coverage(samples):
    shares, values = curve(np.arange(samples, dtype=float))
    assert shares[-1] == 1
    assert values[0] == 0
    assert values[-1] == samples - 1
    assert len(shares) == min(samples, 100)
    np.testing.assert_allclose(shares, (values + 1) / samples)


def test_sizes_are_means_over_all_subsets(run):
    found = {(panel, members): (subsets, mean, sd) for panel, members, subsets, mean, sd in rows(sizes(run))}
    log_probs, labels = predicted(3, 60, 6, 0)
    for size in (1, 2, 3):
        accuracies, losses = [], []
        for subset in itertools.combinations(range(3), size):
            own = mean_of_softmaxes(log_probs[list(subset)].astype(float))
            accuracies.append(statistics.fmean(np.argmax(own, 1) == labels))
            losses.append(statistics.fmean(-own[n][labels[n]] for n in range(60)))
        for name, values in (("accuracy", accuracies), ("nll", losses)):
            subsets, mean, sd = found[name, size]
            assert subsets == len(values)
            assert mean == pytest.approx(statistics.fmean(values))
            assert sd == pytest.approx(statistics.pstdev(values), abs=1e-9)


def test_of_large_data_fewer_subsets_are_drawn():
    log_probs = np.broadcast_to(np.float32(0), (8, 50_000, 1_000))
    assert most_subsets(log_probs) == 4
    assert most_subsets(log_probs[:, :100]) == 100


def test_a_member_that_is_not_finite_keeps_its_number_out(tmp_path):
    log_probs, _ = predicted(3, 60, 6, 0)
    log_probs[1] = np.nan
    run = FinishedRun(reported_run(tmp_path / "run", log_probs=log_probs))
    assert {row[1] for row in rows(coverage(run))} == {"ensemble", "member 0", "member 2"}
    assert {row[1] for row in rows(pairwise_matrices(run))} == {"0", "2"}
    assert max(row[1] for row in rows(sizes(run))) == 2


# -- members -----------------------------------------------------------------------------------------------------------


def test_matrices_are_those_of_the_evaluation(run):
    picture = pairwise_matrices(run)
    pairwise = run.evaluation["diversity"]["pairwise"]
    names = [name for name in ("disagreement", "kl", "error_correlation", "weight_cosine") if name in pairwise]
    assert rows(picture) == [
        (name, str(row), str(column), pairwise[name][row][column])
        for name in names
        for row in range(3)
        for column in range(3)
    ]
    drawn = [axes.texts for axes in picture.figure.axes if axes.texts]
    assert len(drawn) == len(names)
    for name, texts in zip(names, drawn, strict=True):
        for text in texts:
            column, row = (round(part) for part in text.get_position())
            unit = 100 if name == "disagreement" else 1
            assert float(text.get_text()) == pytest.approx(unit * pairwise[name][row][column], abs=0.0051)


def test_one_member_has_no_pairs(tmp_path):
    run = FinishedRun(reported_run(tmp_path / "run", members=1))
    for draw in (pairwise_matrices, sizes):
        with pytest.raises(NotHere, match="one member"):
            draw(run)
    assert {row[1] for row in rows(coverage(run))} == {"ensemble"}
    assert {row[1] for row in rows(reliability_diagrams(run))} == {"ensemble"}


def test_ascent_directions_are_the_lines_of_the_record(run):
    picture = ascent_directions(run)
    found = {row[:3]: row[3] for row in rows(picture)}
    for line in record(3, ("ascent", "train")):
        if line["kind"] == "train":
            for member, value in enumerate(line["ascent_cosine"]):
                assert found.pop((WITHIN, f"member {member}", line["epoch"])) == value
        else:
            pairs = [line["cosines"][a][b] for a, b in ((0, 1), (0, 2), (1, 2))]
            ends = {"mean of pairs": statistics.fmean(pairs), "lowest pair": min(pairs), "highest pair": max(pairs)}
            for name, value in ends.items():
                assert found.pop((BETWEEN, name, line["epoch"])) == pytest.approx(value)
    assert not found
    assert lines_drawn(picture) == lines_written(picture)


def test_without_ascents_the_gradients_are_drawn(tmp_path):
    picture = ascent_directions(FinishedRun(reported_run(tmp_path / "run", kinds=["train"])))
    assert {row[0] for row in rows(picture)} == {WITHIN}


@pytest.mark.parametrize(
    "cosines",
    [
        None,
        [[1.0]],
        [[1.0, 0.5], [0.5]],
        [[1.0, None], [None, 1.0]],
        [[0.0, 0.0], [0.0, 1.0]],  # a member that did not move
    ],
)
def test_ascents_that_say_nothing_are_passed_over(cosines):
    assert len(pair_cosines([{"epoch": 1, "cosines": cosines}])[0]) == 0
    good = {"epoch": 2, "cosines": [[1.0, -0.25], [-0.25, 1.0]]}
    epochs, pairs = pair_cosines([{"epoch": 1, "cosines": cosines}, good])
    assert epochs.tolist() == [2]
    assert pairs.tolist() == [[-0.25]]


def test_step_time_is_the_median_of_the_record_without_its_first_line(run):
    picture = step_time(run)
    lines = [line["timing"] for line in record(3, ["train"])][1:]
    for member, part, milliseconds in rows(picture):
        assert milliseconds == pytest.approx(1000 * statistics.median(line[part][member] for line in lines))
    assert len(rows(picture)) == 12
    widths = [bar.get_width() for container in picture.figure.axes[0].containers for bar in container]
    parts = ("compute", "data", "transfer", "wait")
    assert widths == pytest.approx([value for name in parts for _, part, value in rows(picture) if part == name])


# -- names -------------------------------------------------------------------------------------------------------------


@given(st.text(max_size=200), st.integers(5, 60))
def test_names_in_pictures_are_short_and_printable(name, most):
    found = drawable(name, most)
    assert len(found) <= most
    assert found.isprintable()
    if len(name) <= most and name.isprintable():
        assert found == name
