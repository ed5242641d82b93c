"""Members' predictions over training in the plane: distances against SciPy and loops, planted points found again."""

import io

import numpy as np
import pytest
from finished_by_hand import finished_run, write_trace
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.distance import jensenshannon, pdist, squareform

from dist_dash.models import MLP
from dist_dash.report import embedding as module
from dist_dash.report.embedding import embedding, embedding_of_runs
from dist_dash.report.kept_predictions import distances, in_the_plane, read_trace
from dist_dash.report.picture import NotHere

FEW = settings(max_examples=40, deadline=None, derandomize=True, database=None)
N, C = 12, 3


def predictions(generator, *shape, sharpness=2.0):
    logits = sharpness * generator.standard_normal((*shape, C))
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


@pytest.fixture
def make(tmp_path):
    """Runs with a trace: `T` evaluations of `members` members; labels and ids are the same for all runs."""

    def made(name="run", members=3, steps=(5, 10, 20), seed=0):
        run, _ = finished_run(tmp_path / name, [MLP(hidden=2)] * members)
        log_probs = predictions(np.random.default_rng(seed), len(steps), members, N)
        for step, of_step in zip(steps, log_probs, strict=True):
            write_trace(run, step, of_step, np.arange(N) % C, 3 * np.arange(N) + 1)
        return run, log_probs

    return made


# -- distances ---------------------------------------------------------------------------------------------------------


@FEW
@given(
    st.integers(1, 5), st.integers(1, 6), st.integers(2, 5), st.integers(0, 2**32), st.sampled_from([0.3, 3.0, 60.0])
)
def test_distances_are_roots_of_the_mean_squared_jensenshannon_distance_of_scipy(k, n, classes, seed, sharpness):
    logits = sharpness * np.random.default_rng(seed).standard_normal((k, n, classes))
    log_probs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    found = distances(log_probs)
    for i in range(k):
        for j in range(k):
            squares = [
                jensenshannon(np.exp(p), np.exp(q)) ** 2 for p, q in zip(log_probs[i], log_probs[j], strict=True)
            ]
            assert found[i, j] == pytest.approx(np.sqrt(np.nan_to_num(squares).mean()), abs=2e-7)
    assert np.array_equal(found, found.T)
    assert not np.diag(found).any()
    assert found.max() <= np.sqrt(np.log(2)) + 1e-12
    for i in range(k):
        for j in range(k):
            assert np.all(found[i, j] <= found[i] + found[:, j] + 1e-9)  # the triangle inequality
    order = np.random.default_rng(seed).permutation(n)
    assert np.allclose(distances(log_probs[:, order]), found, atol=1e-7)


def test_certain_and_opposite_predictions_are_as_far_apart_as_can_be():
    with np.errstate(divide="ignore"):
        certain = np.log(np.eye(2))[:, None].repeat(4, 1)
    assert distances(certain)[0, 1] == pytest.approx(np.sqrt(np.log(2)))
    half = certain.copy()
    half[1, :2] = certain[0, :2]  # they agree on one half of the samples
    assert distances(half)[0, 1] == pytest.approx(np.sqrt(np.log(2) / 2))


# -- the plane ---------------------------------------------------------------------------------------------------------


@FEW
@given(st.integers(2, 20), st.integers(0, 2**32), st.sampled_from([0.01, 1.0]))
def test_points_that_lie_in_a_plane_are_found_again(k, seed, scale):
    planted = scale * np.random.default_rng(seed).standard_normal((k, 2))
    matrix = squareform(pdist(planted))
    found, stress = in_the_plane(matrix)
    assert np.allclose(squareform(pdist(found)), matrix, atol=1e-3 * scale)
    assert stress < 1e-3
    assert np.allclose(found.mean(0), 0, atol=1e-9)


@FEW
@given(st.integers(3, 12), st.integers(0, 2**32))
def test_the_stress_equals_a_loop_and_is_no_worse_than_that_of_classical_scaling(k, seed):
    matrix = squareform(pdist(np.random.default_rng(seed).standard_normal((k, 7))))
    found, stress = in_the_plane(matrix)

    def stress_of(points):
        above = sum((np.linalg.norm(points[i] - points[j]) - matrix[i, j]) ** 2 for i in range(k) for j in range(i))
        below = sum(np.linalg.norm(points[i] - points[j]) ** 2 for i in range(k) for j in range(i))
        return np.sqrt(above / below)

    def raw(points):
        return sum((np.linalg.norm(points[i] - points[j]) - matrix[i, j]) ** 2 for i in range(k) for j in range(i))

    assert stress == pytest.approx(stress_of(found), rel=1e-9, abs=1e-9)
    centred = np.eye(k) - 1 / k
    values, vectors = np.linalg.eigh(-centred @ matrix**2 @ centred / 2)
    classical = vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0))
    assert raw(found) <= raw(classical) * (1 + 1e-9) + 1e-12
    again, _ = in_the_plane(matrix)
    assert np.array_equal(found, again)


def test_predictions_that_never_differ_are_one_point():
    found, stress = in_the_plane(np.zeros((4, 4)))
    assert (found.shape, stress) == ((4, 2), 0.0)
    assert not found.any()


# -- traces ------------------------------------------------------------------------------------------------------------


def test_a_trace_is_read_on_the_samples_that_all_evaluations_share(make):
    run, log_probs = make()
    ids, labels = 3 * np.arange(N) + 1, np.arange(N) % C
    order = np.random.default_rng(1).permutation(N)
    write_trace(run, 10, log_probs[1][:, order], labels[order], ids[order])
    kept = np.delete(np.arange(N), [2, 7])
    write_trace(run, 20, log_probs[2][:, kept], labels[kept], ids[kept])
    found = read_trace(run)
    assert found.steps == [5, 10, 20]
    assert found.ids.tolist() == ids[kept].tolist()
    assert found.labels.tolist() == labels[kept].tolist()
    assert np.allclose(found.log_probs, log_probs[:, :, kept], atol=1e-6)


def test_evaluations_that_are_not_finite_are_left_out(make):
    run, log_probs = make()
    write_trace(run, 10, np.full_like(log_probs[1], np.nan), np.arange(N) % C, 3 * np.arange(N) + 1)
    assert read_trace(run).steps == [5, 20]
    write_trace(run, 20, np.full_like(log_probs[1], np.nan), np.arange(N) % C, 3 * np.arange(N) + 1)
    with pytest.raises(NotHere, match="of 1 evaluations"):
        embedding(run)


def test_a_trace_that_is_missing_or_torn_is_a_sentence(make, tmp_path):
    bare, _ = finished_run(tmp_path / "bare", [MLP(hidden=2)] * 2)
    with pytest.raises(NotHere, match=r"^bare kept the predictions of 0 evaluations.*record\.trace"):
        embedding(bare)
    run, log_probs = make("torn")
    write_trace(run, 10, log_probs[1, :2], np.arange(N) % C, 3 * np.arange(N) + 1)  # of two members
    with pytest.raises(NotHere, match="cannot be read"):
        embedding(run)
    run.folder.trace_at(10).write_bytes(b"PK torn")
    with pytest.raises(NotHere, match="cannot be read"):
        embedding(run)
    alone, _ = make("alone", members=1)
    with pytest.raises(NotHere, match="two members"):
        embedding(alone)


# -- the picture -------------------------------------------------------------------------------------------------------


def looks_right(picture) -> None:
    content = io.BytesIO()
    picture.figure.savefig(content, format="png", dpi=60)
    assert np.asarray(Image.open(content).convert("L")).std() > 10
    assert len({len(column) for column in picture.data.values()}) == 1


def test_the_picture_of_a_run_shows_its_members_and_how_far_apart_they_are(make):
    run, log_probs = make()
    picture = embedding(run)
    looks_right(picture)
    data = picture.data
    assert data["step"] == [5] * 3 + [10] * 3 + [20] * 3
    assert data["member"] == [0, 1, 2] * 3
    matrix = distances(log_probs.astype(np.float32).astype(float).reshape(9, N, C))
    points, stress = in_the_plane(matrix)
    assert np.allclose(np.array([data["x"], data["y"]]).T, points)
    assert picture.findings["stress-1 of the plane"] == f"{stress:.3f}"
    for t in range(3):
        pairs = [(0, 1), (0, 2), (1, 2)]
        apart = np.mean([matrix[3 * t + i, 3 * t + j] for i, j in pairs])
        choices = log_probs[t].argmax(-1)
        differ = np.mean([np.mean(choices[i] != choices[j]) for i, j in pairs])
        assert data["mean_distance"][3 * t] == pytest.approx(apart)
        assert data["mean_disagreement"][3 * t] == pytest.approx(differ)
    first, last = data["mean_distance"][0], data["mean_distance"][-1]
    assert picture.findings["mean distance between members, first → last"] == f"{first:.3f} → {last:.3f}"
    plane, above, below = picture.figure.axes
    ends = [line.get_xydata()[0].tolist() for line in plane.lines if line.get_label().startswith("member")]
    assert np.allclose(ends, points[-3:])
    assert np.allclose(above.lines[0].get_xydata().T, [[5, 10, 20], data["mean_distance"][::3]])
    assert np.allclose(below.lines[0].get_xydata().T, [[5, 10, 20], data["mean_disagreement"][::3]])
    assert f"{N} samples" in picture.caption


def test_members_that_become_one_are_seen_to(make):
    run, log_probs = make(steps=(1, 2, 3))
    for t, share in enumerate((1.0, 0.5, 0.0)):
        common = log_probs[t, :1]
        mixed = np.log((1 - share) * np.exp(common) + share * np.exp(log_probs[t]))
        write_trace(run, t + 1, mixed, np.arange(N) % C, 3 * np.arange(N) + 1)
    data = embedding(run).data
    assert data["mean_distance"][0] > data["mean_distance"][3] > data["mean_distance"][6] == pytest.approx(0, abs=1e-6)
    assert data["mean_disagreement"][6] == 0
    last = np.array([data["x"][6:], data["y"][6:]])
    assert np.ptp(last, axis=1) == pytest.approx([0, 0], abs=1e-4)


def points_of(picture, group: str) -> np.ndarray:
    """The places of a run's members in the plane, evaluation by evaluation `[points, 2]`."""
    rows = [row for row in zip(*picture.data.values(), strict=True) if row[:2] == ("plane", group)]
    return np.array([[x, y] for _, _, member, step, x, y, _ in sorted(rows, key=lambda row: (row[3], row[2]))])


def test_runs_side_by_side_share_coordinates_and_samples(make):
    one, first = make("one", seed=1)
    other, second = make("other", members=2, steps=(7, 9), seed=2)
    picture = embedding_of_runs({"SAM": one, "DASH": other})
    looks_right(picture)
    data = picture.data
    planes = [group for panel, group in zip(data["panel"], data["group"], strict=True) if panel == "plane"]
    assert planes == ["SAM"] * 9 + ["DASH"] * 4
    everything = np.concatenate([first.reshape(9, N, C), second.reshape(4, N, C)]).astype(np.float32).astype(float)
    places, stress = in_the_plane(distances(everything))
    assert np.allclose(np.concatenate([points_of(picture, "SAM"), points_of(picture, "DASH")]), places)
    assert f"stress-1 {stress:.3f}" in picture.caption
    rows = list(zip(*data.values(), strict=True))
    apart = [
        (step, distance) for panel, group, _, step, _, _, distance in rows if (panel, group) == ("distance", "DASH")
    ]
    assert [step for step, _ in apart] == [7, 9]
    for (_, distance), log_probs in zip(apart, second, strict=True):
        assert distance == pytest.approx(distances(log_probs)[0, 1], rel=1e-5)
    assert {step for _, group, _, step, *_ in rows if group == "DASH"} == {7, 9}


def test_the_same_run_twice_lies_on_itself(make):
    run, _ = make()
    picture = embedding_of_runs({"a": run, "b": run})
    assert np.allclose(points_of(picture, "a"), points_of(picture, "b"), atol=1e-4)


def test_runs_on_other_samples_are_not_compared(make):
    one, log_probs = make("one")
    other, _ = make("other")
    for step in (5, 10, 20):
        write_trace(other, step, log_probs[0], (np.arange(N) + 1) % C, 3 * np.arange(N) + 1)
    with pytest.raises(NotHere, match="samples of other are others than those of one"):
        embedding_of_runs({"one": one, "other": other})
    for step in (5, 10, 20):
        write_trace(other, step, log_probs[0], np.arange(N) % C, 3 * np.arange(N) + 100_000)
    with pytest.raises(NotHere, match="same samples"):
        embedding_of_runs({"one": one, "other": other})


def test_long_runs_and_large_data_are_thinned_and_the_caption_says_so(make, monkeypatch):
    steps = tuple(range(1, 31))
    run, _ = make(members=2, steps=steps)
    assert len(embedding(run).data["x"]) == 60
    monkeypatch.setattr(module, "MOST_POINTS", 21)
    monkeypatch.setattr(module, "MOST_WORK", 1)
    data = embedding(run).data
    kept = list(dict.fromkeys(data["step"]))
    assert len(kept) == 10
    assert (kept[0], kept[-1]) == (1, 30)
    assert max(np.diff(kept)) - min(np.diff(kept)) <= 1
    monkeypatch.setattr(module, "LEAST_SAMPLES", 5)
    thinned = embedding(run)
    assert "over 5 of 12 samples" in thinned.caption
    assert f"of the share of {N} samples" in thinned.caption or f"mean of the share of {N} samples" in thinned.caption
