"""The plain deep ensemble that is as good: against the definition on predictions made up here."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compared import loaded, run_at, study

from dist_dash.comparison import equivalent as module
from dist_dash.comparison.grouping import load_comparison
from dist_dash.comparison.machine_readable import as_csv, as_json
from dist_dash.comparison.markup import as_markdown
from dist_dash.comparison.section import Section
from dist_dash.errors import BadInput
from dist_dash.metrics.calibration import calibrated_halves

N, CLASSES, MEMBERS = 60, 4, 3


def predictions(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Members that are right on average and err each in its own way."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(CLASSES, size=N)
    logits = generator.normal(size=(MEMBERS, N, CLASSES)) + 1.5 * np.eye(CLASSES)[labels]
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return log_probs.astype(np.float32), labels


def nll_of(log_probs: np.ndarray, labels: np.ndarray, members: tuple[int, ...]) -> float:
    total = 0.0
    for sample, label in enumerate(labels):
        total -= np.log(np.mean([np.exp(float(log_probs[member, sample, label])) for member in members]))
    return total / len(labels)


def curve() -> list[float]:
    """Mean over subsets, then over the two seeds."""
    found = []
    for size in range(1, MEMBERS + 1):
        per_seed = []
        for seed in (0, 1):
            known = predictions(seed)
            per_seed.append(
                np.mean([nll_of(*known, chosen) for chosen in itertools.combinations(range(MEMBERS), size)])
            )
        found.append(float(np.mean(per_seed)))
    return found


def plain(folder: Path, method: str = "SGD") -> Path:
    """Two seeds of a plain deep ensemble with its predictions."""
    for seed in (0, 1):
        log_probs, labels = predictions(seed)
        own = nll_of(log_probs, labels, tuple(range(MEMBERS)))
        run = run_at(folder / f"{method}-s{seed}", method, seed, ensemble={"nll": own, "cal_nll": None})
        np.savez(run / "predictions.npz", log_probs=log_probs, labels=labels)
    return folder


def with_nll(folder: Path, method: str, nll: float | None) -> None:
    for seed in (0, 1):
        run_at(folder / f"{method}-s{seed}", method, seed, ensemble={"nll": nll, "cal_nll": None})


def equivalents(section: Section) -> dict[str, Any]:
    return {group.name: group.equivalent for group in section.groups}


def only(folder: Path, **options: Any) -> Section:
    (section,) = loaded(folder, **options).sections
    return section


def test_it_is_read_off_the_curve_over_subsets_and_seeds(tmp_path: Path) -> None:
    one, two, three = curve()
    assert one > two > three
    plain(tmp_path)
    with_nll(tmp_path, "SAM", two + 0.25 * (one - two))
    with_nll(tmp_path, "DASH", three - 0.01)
    with_nll(tmp_path, "Bad", one + 1)
    with_nll(tmp_path, "None", None)
    section = only(tmp_path)
    found = equivalents(section)
    assert section.largest_plain == MEMBERS
    assert found["SAM"] == pytest.approx(1.75, abs=1e-4)
    assert found["SGD"] == pytest.approx(3.0)
    assert found["Bad"] == 1.0
    assert found["DASH"] is None
    assert found["None"] is None
    comparison = loaded(tmp_path)
    rows = [line.split("|") for line in as_markdown(comparison).split("### Cost")[1].splitlines() if line[:1] == "|"]
    assert rows[0][-2].strip() == "equivalent"
    shown = {row[1].strip(): row[-2].strip() for row in rows[2:]}
    assert shown == {"Bad": "1.00", "DASH": "> 3", "None": "—", "SAM": "1.75", "SGD": "3.00"}
    assert [row for row in as_csv(comparison).splitlines() if ",SAM,equivalent.members," in row]
    (told,) = as_json(comparison)["sections"]
    assert told["largest_plain"] == 3
    assert {group["name"]: group["equivalent"] for group in told["groups"]} == found


def test_where_all_are_calibrated_the_calibrated_curve_decides(tmp_path: Path) -> None:
    """The headline rests on calibrated NLL: a group that leads there is not said to be worth fewer members."""

    def calibrated(seed: int, members: tuple[int, ...]) -> float:
        log_probs, labels = predictions(seed)
        mean = np.log(np.mean([np.exp(log_probs[member].astype(np.float64)) for member in members], axis=0))
        parts = calibrated_halves(mean, labels)
        return float(np.mean([-np.mean(part[np.arange(len(at)), labels[at]]) for _, part, at in parts]))

    one, two, three = (
        np.mean([calibrated(s, chosen) for s in (0, 1) for chosen in itertools.combinations(range(MEMBERS), size)])
        for size in (1, 2, 3)
    )
    assert one > two > three
    for seed in (0, 1):
        log_probs, labels = predictions(seed)
        scores = {"nll": 5.0, "cal_nll": calibrated(seed, (0, 1, 2))}
        run = run_at(tmp_path / f"SGD-s{seed}", "SGD", seed, ensemble=scores)
        np.savez(run / "predictions.npz", log_probs=log_probs, labels=labels)
        run_at(tmp_path / f"SAM-s{seed}", "SAM", seed, ensemble={"nll": 9.0, "cal_nll": two + 0.25 * (one - two)})
    found = equivalents(only(tmp_path))
    assert found["SAM"] == pytest.approx(1.75, abs=1e-4)
    assert found["SGD"] == pytest.approx(3.0)
    assert "the same NLL after temperature scaling" in as_markdown(loaded(tmp_path))


def test_the_first_baseline_that_is_plain_is_taken(tmp_path: Path) -> None:
    plain(tmp_path)
    with_nll(tmp_path, "SAM", 0.5)
    assert only(tmp_path, baselines=["SAM", "SGD"]).largest_plain == MEMBERS
    section = only(tmp_path, baselines=["SAM"])
    assert section.largest_plain is None
    assert section.notes == only(tmp_path, baselines=["SAM"], equivalents=False).notes
    assert "no baseline is a plain deep ensemble" in only(tmp_path, baselines=["SAM"], equivalents=True).notes[-1]


def test_it_can_be_left_out(tmp_path: Path) -> None:
    section = only(plain(tmp_path), equivalents=False)
    assert section.largest_plain is None
    assert "equivalent" not in as_markdown(loaded(tmp_path, equivalents=False))


def test_large_predictions_are_read_only_where_that_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", 1000)
    section = only(plain(tmp_path))
    assert section.largest_plain is None
    assert "the predictions of SGD are large; --equivalent takes the time" in section.notes[-1]
    assert only(tmp_path, equivalents=True).largest_plain == MEMBERS


def test_missing_predictions_matter_only_where_they_are_wanted(tmp_path: Path) -> None:
    study(tmp_path, {"SGD": 0.0, "SAM": 0.01}, seeds=2)
    section = only(tmp_path)
    assert section.largest_plain is None
    assert not any("plain deep" in note for note in section.notes)
    with pytest.raises(BadInput, match="predictions"):
        load_comparison([tmp_path], equivalents=True)


@pytest.mark.parametrize("kind", ["no archive", "other arrays", "shapes", "labels", "members", "nan"])
def test_wrong_predictions_are_said_or_refused(tmp_path: Path, kind: str) -> None:
    plain(tmp_path)
    log_probs, labels = predictions(1)
    file = tmp_path / "SGD-s1/predictions.npz"
    if kind == "no archive":
        file.write_text("x")
    elif kind == "other arrays":
        np.savez(file, x=labels)
    elif kind == "shapes":
        np.savez(file, log_probs=log_probs[:, :10], labels=labels)
    elif kind == "labels":
        np.savez(file, log_probs=log_probs, labels=labels + CLASSES)
    elif kind == "members":
        np.savez(file, log_probs=log_probs[:2], labels=labels)
    else:
        np.savez(file, log_probs=np.where(np.arange(CLASSES) == 1, np.nan, log_probs), labels=labels)
    section = only(tmp_path)
    assert section.largest_plain is None
    assert "were not worked out" in section.notes[-1]
    with pytest.raises(BadInput) as caught:
        load_comparison([tmp_path], equivalents=True)
    assert "\n" not in str(caught.value)
