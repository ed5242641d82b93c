"""The page of a folder of runs: its numbers are the comparison's, its pictures are of its groups."""

from __future__ import annotations

import json
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dist_dash.commands.report import report_command
from dist_dash.comparison.grouping import Comparison, load_comparison
from dist_dash.comparison.metric_names import percent
from dist_dash.comparison.section import Section
from dist_dash.comparison.verdict import verdict
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.errors import BadInput
from dist_dash.report import draw
from dist_dash.report.catalogue import FOLDER_PARTS
from dist_dash.report.coverage_curves import coverage_of_groups
from dist_dash.report.draw import letter_by_letter
from dist_dash.report.embedding import embedding_of_groups
from dist_dash.report.flatness_bars import flatness_bars, flatness_of_groups
from dist_dash.report.group_pictures import forest, members, quality
from dist_dash.report.picture import NotHere, Picture
from dist_dash.report.reliability_diagrams import reliability_of_groups
from dist_dash.report.size_curves import sizes_of_groups
from dist_dash.report.tables import at_a_glance, overview
from tests.support.reported import Page, columns_of, predicted, reported_run, with_groups

GROUPS = {"SGD ensemble": 1.0, "SAM <b>$x$</b>": 3.0, "DASH, separate": 1.05, "DASH, joint": 3.05}
SECTIONS = ("clean labels", "20 % <i>wrong</i> labels")
NAMES = ("differences", "quality", "members", "sizes", "coverage", "reliability", "embedding")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_groups(tmp_path_factory.mktemp("study") / "study", GROUPS, seeds=3, sections=SECTIONS)


@pytest.fixture(scope="module")
def comparison(folder: Path) -> Comparison:
    return load_comparison([folder], baselines=["SGD ensemble", "DASH, joint"])


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    before, draw.MOST_PROCESSES = draw.MOST_PROCESSES, 1
    assert report_command([str(folder)]) == 0
    draw.MOST_PROCESSES = before
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.setattr(draw, "MOST_PROCESSES", 1)


def rows(picture: Picture) -> list[tuple]:
    return list(zip(*picture.data.values(), strict=True))


# -- the page ----------------------------------------------------------------------------------------------------------


def test_every_section_has_its_pictures(folder, page):
    prefixes = ("s1-clean-labels", "s2-20-i-wrong-i-labels")
    files = {file.name for file in (folder / "report").iterdir()}
    kinds = ("png", "svg", "csv")
    expected = {f"{prefix}-{name}.{kind}" for prefix in prefixes for name in NAMES for kind in kinds}
    assert files == expected | {"comparison.csv", "comparison.json"}
    assert len(page.of("img")) == len(prefixes) * len(NAMES)
    for file in sorted(files):
        if file.endswith(".csv"):
            assert len(next(iter(columns_of(folder / "report" / file).values()))) >= 6, file
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {f"#{prefix}" for prefix in prefixes} <= {link["href"] for link in page.of("a")}


def test_verdicts_tables_and_notes_are_the_comparison_s(folder, page):
    comparison = load_comparison([folder])
    text = page.text
    for section in comparison.sections:
        for sentence in verdict(section):
            assert " ".join(sentence.split()) in text
        for note in section.notes:
            assert note in text
    assert "Tuned on nothing." in text
    assert "Each group has 3 seeds" in text
    assert "24 runs of 4 groups under 2 conditions, seeds 0, 1, 2, 10, 11, 12." in text
    assert page.texts["title"] == ["A study"]
    written = json.loads((folder / "report/comparison.json").read_text())
    assert [section["verdict"] for section in written["sections"]] == [verdict(s) for s in comparison.sections]


def test_markup_in_names_is_text(page):
    assert not {"b", "i", "script"} & {tag for tag, _ in page.tags}
    assert "SAM <b>$x$</b>" in page.text
    assert "20 % <i>wrong</i> labels" in page.texts["h2"]


def test_numbers_in_the_overview_are_means_over_seeds(folder, page):
    groups = json.loads((folder / "groups.json").read_text())["runs"]
    expected: dict[tuple[str, str], list[float]] = {}
    for name, told in groups.items():
        scores = json.loads((folder / name / "evaluation.json").read_text())
        expected.setdefault((told["section"], told["group"]), []).append(scores["ensemble"]["accuracy"])
    found = page.numbers["ensemble.accuracy"]
    in_order = [expected[section, group] for group in GROUPS for section in SECTIONS]
    assert found == pytest.approx([statistics.fmean(values) for values in in_order], abs=1e-12)


def test_a_folder_without_groups_is_compared_by_settings(tmp_path):
    for method in ("SGD", "DASH"):
        for seed in range(2):
            reported_run(tmp_path / f"{method}-{seed}", seed=seed, method=method)
    without = "--without=" + ",".join(part.name for part in FOLDER_PARTS if part.name != "quality")
    assert report_command([str(tmp_path), without]) == 0
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(page.of("img")) == 1
    assert "Overview" not in page.text
    assert f"Comparison of the runs in {tmp_path.name}" in page.text


def test_one_group_has_nothing_to_differ_from(tmp_path):
    folder = with_groups(tmp_path / "study", {"SGD": 1.0}, seeds=2)
    assert report_command([str(folder), "--without=coverage,reliability,sizes,embedding"]) == 0
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert "one group only, and nothing to compare it with" in page.text
    assert "At a glance" not in page.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"notes": "a text"}, "it must be a list of texts"),
        ({"notes": [1]}, "it must be a list of texts"),
        ({"baselines": ["nobody"]}, "nobody"),
        ({"runs": {"c0/none": {"group": "a"}}}, "c0.none is not finished"),
    ],
)
def test_bad_groups_are_refused_before_anything_is_written(folder, tmp_path, content, words):
    copied = tmp_path / "study"
    shutil.copytree(folder, copied, ignore=shutil.ignore_patterns("report*"))
    told = json.loads((copied / "groups.json").read_text())
    (copied / "groups.json").write_text(json.dumps({**told, **content}))
    with pytest.raises(BadInput, match=words):
        report_command([str(copied)])
    assert not (copied / "report").exists()


def test_unfinished_runs_are_left_out_on_request(folder, tmp_path):
    copied = tmp_path / "study"
    shutil.copytree(folder, copied, ignore=shutil.ignore_patterns("report*"))
    (copied / "c0/g0-s0/DONE").unlink()
    with pytest.raises(BadInput, match="--partial"):
        report_command([str(copied)])
    without = "--without=" + ",".join(part.name for part in FOLDER_PARTS)
    assert report_command([str(copied), "--partial", without]) == 0
    assert "Partial: " in Page((copied / "report.html").read_text(encoding="utf-8")).text


# -- tables ------------------------------------------------------------------------------------------------------------


def test_better_and_worse_are_said_only_where_the_interval_excludes_zero(comparison):
    for section in comparison.sections:
        table = at_a_glance(section)
        assert table is not None
        words = {cell.text for row in table.rows for cell in row.cells}
        assert {"?", "better", "worse"} <= words
        for row in table.rows:
            for cell in row.cells[:-1]:
                if cell.value is None:
                    continue
                metric, _, baseline = cell.key.partition(" − ")
                found = section.differences[row.name, baseline][metric]
                assert cell.value == found.mean
                if cell.text == "?":
                    assert found.low <= 0 <= found.high
                else:
                    higher = found.low > 0
                    assert higher or found.high < 0
                    good = {"ensemble.accuracy": "higher", "diversity.disagreement": None}.get(metric, "lower")
                    names = ("more", "less") if good is None else ("better", "worse")
                    assert cell.text == names[0 if higher == (good in ("higher", None)) else 1]


def test_the_overview_is_bold_where_the_comparison_is(comparison):
    table = overview(comparison)
    assert table is not None
    assert sum(count for _, count in table.spans) + 1 == len(table.headings)
    width = table.spans[0][1]
    for row in table.rows:
        for place, section in enumerate(comparison.sections):
            for cell in row.cells[place * width : (place + 1) * width - 1]:
                best = section.best.get(cell.key)
                assert cell.bold == (best is not None and best.bold and best.group == row.name)
                assert cell.value == section.group(row.name).metrics[cell.key].mean


def test_one_condition_has_no_overview(tmp_path):
    assert overview(load_comparison([with_groups(tmp_path / "s", {"A": 1.0, "B": 2.0})])) is None


# -- pictures ----------------------------------------------------------------------------------------------------------


def lopsided(section: Section) -> Section:
    """With intervals that reach further up than down, as those of five seeds and more may."""
    told = {
        pair: {name: replace(one, high=one.high + 0.3 * abs(one.mean)) for name, one in by_metric.items()}
        for pair, by_metric in section.differences.items()
    }
    return replace(section, differences=told)


def test_the_forest_is_that_of_the_differences(comparison):
    section = lopsided(comparison.sections[0])
    picture = forest(section)
    expected = set()
    for metric in ("ensemble.accuracy", "ensemble.cal_nll", "ensemble.cal_ece", "diversity.disagreement"):
        for group in section.groups:
            for baseline in section.baselines:
                if group.name != baseline:
                    d = section.differences[group.name, baseline][metric]
                    expected.add((metric, group.name, baseline, d.n, d.mean, d.low, d.high))
    assert set(rows(picture)) == expected
    accuracy = picture.figure.axes[0]
    drawn = sorted(float(container.lines[0].get_xdata()[0]) for container in accuracy.containers)
    assert drawn == pytest.approx(sorted(100 * row[4] for row in expected if row[0] == "ensemble.accuracy"))
    ends = sorted(tuple(container.lines[2][0].get_segments()[0][:, 0]) for container in accuracy.containers)
    assert ends == [
        pytest.approx(one) for one in sorted((100 * r[5], 100 * r[6]) for r in expected if r[0] == "ensemble.accuracy")
    ]
    filled = [container.lines[0].get_markerfacecolor() != "white" for container in accuracy.containers]
    assert sum(filled) == sum(r[5] > 0 or r[6] < 0 for r in expected if r[0] == "ensemble.accuracy")


def test_markers_are_means_and_deviations(comparison):
    section = comparison.sections[0]
    for picture in (quality(section), members(section)):
        for group, across, x, x_sd, up, y, y_sd, seeds in rows(picture):
            for metric, mean, sd in ((across, x, x_sd), (up, y, y_sd)):
                values = list(section.group(group).metrics[metric].values.values())
                assert mean == pytest.approx(statistics.fmean(values))
                assert sd == pytest.approx(statistics.stdev(values))
            assert seeds == 3
        drawn = {
            (line.get_xdata()[0], line.get_ydata()[0])
            for axes in picture.figure.axes
            for line in axes.lines
            if not line.get_label().startswith("_")
        }
        units = [[100 if percent(metric) else 1 for metric in (row[1], row[4])] for row in rows(picture)]
        assert drawn == {(x * row[2], y * row[5]) for (x, y), row in zip(units, rows(picture), strict=True)}


def test_curves_are_means_over_runs(comparison):
    section = comparison.sections[0]
    picture = coverage_of_groups(section)
    for group in section.groups:
        curves = []
        for run in group.runs:
            log_probs, labels, _ = FinishedRun(run.path).predictions()
            mean = np.exp(log_probs.astype(float)).mean(0)
            order = np.argsort(-mean.max(1))
            right = (mean.argmax(1) == labels)[order]
            curves.append([statistics.fmean(map(float, right[:k])) for k in range(1, 61)])
        found = [row[3] for row in rows(picture) if row[1] == group.name]
        np.testing.assert_allclose(found, np.mean(curves, axis=0))
    lines = [line.get_ydata().tolist() for line in picture.figure.axes[0].lines]
    assert lines == [[row[3] for row in rows(picture) if row[1] == group.name] for group in section.groups]


def test_reliability_pools_the_samples_of_a_group(comparison):
    section = comparison.sections[0]
    found = {row[:3]: row[3:] for row in rows(reliability_of_groups(section))}
    for group in section.groups:
        inside: dict[int, list[tuple[float, bool]]] = {}
        for run in group.runs:
            log_probs, labels, _ = FinishedRun(run.path).predictions()
            mean = np.exp(log_probs.astype(float)).mean(0)
            for probs, label in zip(mean, labels, strict=True):
                confidence = float(probs.max())
                place = next(b for b in range(15) if b / 15 < confidence <= (b + 1) / 15 + 1e-12)
                inside.setdefault(place, []).append((confidence, probs.argmax() == label))
        own = {low: row for (stage, of, low), row in found.items() if (stage, of) == ("before scaling", group.name)}
        assert sum(row[1] for row in own.values()) == 180
        for low, (_, count, confidence, gap) in own.items():
            there = inside.get(round(15 * low), [])
            assert count == len(there)
            if there:
                assert confidence == pytest.approx(statistics.fmean(c for c, _ in there))
                assert gap == pytest.approx(statistics.fmean(float(r) - c for c, r in there))
    assert {stage for stage, _, _ in found} == {"before scaling", "after scaling"}


def test_sizes_are_means_over_runs(comparison):
    section = comparison.sections[0]
    found = {row[:3]: row[3:] for row in rows(sizes_of_groups(section))}
    for group in section.groups:
        single = [run.metrics["member_mean.accuracy"] for run in group.runs]
        whole = [run.metrics["ensemble.nll"] for run in group.runs]
        mean, sd, runs = found["accuracy", group.name, 1]
        assert (mean, sd, runs) == (pytest.approx(statistics.fmean(single)), pytest.approx(statistics.stdev(single)), 3)
        assert found["nll", group.name, 3][0] == pytest.approx(statistics.fmean(whole))


def test_the_embedding_is_of_the_first_seed_and_its_distances_are_jensen_shannon(comparison):
    section = comparison.sections[0]
    picture = embedding_of_groups(section)
    told = [row for row in rows(picture) if row[0] == "distance"]
    assert {(row[1], row[3]) for row in told} == {(group.name, step) for group in section.groups for step in (40, 80)}
    first = section.groups[0].runs[0]
    probs = np.exp(predicted(3, 12, 6, first.seed + 40)[0].astype(float))

    def entropy(p: np.ndarray) -> float:
        return statistics.fmean(-sum(x * np.log(x) for x in row) for row in p)

    apart = [
        (entropy((probs[a] + probs[b]) / 2) - (entropy(probs[a]) + entropy(probs[b])) / 2) ** 0.5
        for a, b in ((0, 1), (0, 2), (1, 2))
    ]
    (found,) = (row[6] for row in told if row[1] == section.groups[0].name and row[3] == 40)
    assert found == pytest.approx(statistics.fmean(apart), abs=1e-6)
    points = [row for row in rows(picture) if row[0] == "plane"]
    assert len(points) == len(section.groups) * 3 * 2


def test_runs_of_other_samples_share_no_plane(tmp_path):
    folder = with_groups(tmp_path / "s", {"A": 1.0, "B": 2.0}, seeds=1)
    file = folder / "c0/g1-s0/trace/step_00000040.npz"
    arrays = dict(np.load(file))
    np.savez(file, **{**arrays, "ids": arrays["ids"] + 100})
    (folder / "c0/g1-s0/trace/step_00000080.npz").unlink()
    np.savez(file.with_name("step_00000080.npz"), **{**arrays, "ids": arrays["ids"] + 100})
    with pytest.raises(NotHere, match="same samples"):
        embedding_of_groups(load_comparison([folder]).sections[0])


def test_flatness_is_that_of_the_runs_that_were_measured(tmp_path):
    section = load_comparison([with_groups(tmp_path / "s", {"A $x$": 1.0, "B": 2.0}, seeds=2)]).sections[0]
    with pytest.raises(NotHere, match="dist-dash flatness"):
        flatness_of_groups(section)
    names = ("one_step_rise", "worst_rise", "eigenvalue", "trace", "trace_error")
    known = {"split": "train", "samples": 50, "rho": 0.05, "steps": 5, "seed": 0, "dtype": "float64"}
    measured = section.groups[0].runs[0].path
    (measured / "flatness.json").write_text(json.dumps({**known, "members": [dict.fromkeys(names, 2.0)] * 3}))
    picture = flatness_of_groups(section)
    assert set(picture.data["group"]) == {"A $x$"}
    assert picture.data == flatness_bars({"A $x$": [FinishedRun(measured)]}).data
    letter_by_letter(picture.figure)
    picture.figure.draw_without_rendering()
