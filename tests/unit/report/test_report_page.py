"""The page of a run: its numbers, its files, what it does with markup, and what it refuses."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from dist_dash.commands.report import report_command
from dist_dash.errors import BadInput
from dist_dash.report import draw
from dist_dash.report.catalogue import PARTS
from dist_dash.report.draw import PictureJob, draw_all, letter_by_letter
from dist_dash.report.html import with_code, write_page
from dist_dash.report.picture import NotHere, Picture
from tests.support.reported import Page, columns_of, reported_run

DRAWN = {
    "ascent-directions",
    "coverage",
    "embedding",
    "learning-curves",
    "pairwise-matrices",
    "reliability",
    "sizes",
    "step-time",
}
FEW = "--without=" + ",".join(part.name for part in PARTS if part.name != "timing")
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }} $x^2$ $ & \\"


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.setattr(draw, "MOST_PROCESSES", 1)


def reported(path: Path, *options: str) -> Page:
    assert report_command([str(path), *options]) == 0
    return Page((path / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = reported_run(tmp_path_factory.mktemp("page") / "run")
    (path / "report").mkdir()
    (path / "report/of-an-earlier-report.png").touch()
    (path / "report/mine.txt").touch()
    before = draw.MOST_PROCESSES
    draw.MOST_PROCESSES = 1
    reported(path)
    draw.MOST_PROCESSES = before
    return path


@pytest.fixture(scope="module")
def page(path: Path) -> Page:
    return Page((path / "report.html").read_text(encoding="utf-8"))


def leaves(scores: dict, above: str) -> Iterator[tuple[str, float]]:
    for name, value in scores.items():
        if isinstance(value, int | float):
            yield f"{above}.{name}", value


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_numbers_are_those_of_the_evaluation(path, page):
    evaluation = json.loads((path / "evaluation.json").read_text())
    expected = dict(leaves(evaluation["ensemble"], "ensemble"))
    expected |= dict(leaves(evaluation["member_mean"], "member_mean"))
    expected |= dict(leaves(evaluation["diversity"], "diversity"))
    for index, scores in enumerate(evaluation["members"]):
        expected |= dict(leaves(scores, f"members.{index}"))
    found = {key: values for key, values in page.numbers.items() if not key.startswith("cost.")}
    assert found == {key: [value] for key, value in expected.items()}
    assert {"ensemble.cal_nll", "ensemble.aac", "members.2.ece_mass", "diversity.ambiguity"} <= set(found)


def test_cost_is_that_of_the_record(page):
    assert page.numbers["cost.forwards"] == [2]
    assert page.numbers["cost.backwards"] == [3]
    assert 0.02 <= page.numbers["cost.step_seconds"][0] <= 0.03
    assert page.numbers["cost.waiting"][0] == pytest.approx(0.2)
    assert page.numbers["cost.transfer"][0] == pytest.approx(0.1)


def test_the_summary_says_what_was_trained(page):
    for told in (
        "three members, SmallCNN (width 16, norm batch)",
        "DASH (rho_loss 0.1, rho_div 0.3)",
        "SGD (lr 0.1)",
        "Digits (test_fraction 0.25, seed 0)",
        "2 epochs, 80 updates of 32 samples a member",
        "40 % of the training labels",
        "seed 0",
        "cpu, 3 processes of 1 thread, gloo",
        "torch 2.13.0",
        "commit 0123456789ab with uncommitted changes",
    ):
        assert told in page.text, told


def test_percentages_are_shares_times_a_hundred(path, page):
    accuracy = json.loads((path / "evaluation.json").read_text())["ensemble"]["accuracy"]
    assert f"Accuracy of the ensemble {100 * accuracy:.2f} %" in page.text


# -- the page ----------------------------------------------------------------------------------------------------------


def test_every_picture_is_in_the_page_and_on_disk(path, page):
    files = {file.name for file in (path / "report").iterdir()}
    assert files == {f"{name}.{kind}" for name in DRAWN for kind in ("png", "svg", "csv")} | {"mine.txt"}
    images = page.of("img")
    assert len(images) == len(DRAWN)
    for image in images:
        assert image["src"].startswith("data:image/")
        assert len(image["alt"]) > 10
        assert int(image["width"]) > 300
    for name in DRAWN:
        assert Image.open(path / f"report/{name}.png").size[0] > 500
        pixels = np.asarray(Image.open(path / f"report/{name}.png").convert("L"), dtype=float)
        assert pixels.std() > 10, name
        assert "<svg" in (path / f"report/{name}.svg").read_text()
        columns = columns_of(path / f"report/{name}.csv")
        assert len(columns) >= 3
        assert len(next(iter(columns.values()))) >= 6
    assert len(page.raw) < 5_000_000


def test_what_cannot_be_drawn_is_said(page):
    assert "dist-dash flatness" in page.text
    assert "dist-dash shift" in page.text
    assert page.text.count("dist-dash shift RUN") == 1


def test_the_page_is_a_document(page):
    assert page.raw.startswith("<!doctype html>")
    assert page.of("html") == [{"lang": "en"}]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    inside = [link["href"][1:] for link in page.of("a") if link["href"].startswith("#")]
    assert len(inside) >= 10
    assert set(inside) <= set(ids)
    assert all("id" in attributes for name, attributes in page.tags if name == "h2")
    assert len(page.of("h1")) == 1
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.of("meta")


def test_nothing_is_asked_of_a_network(path, page):
    policy = next(meta["content"] for meta in page.of("meta") if "http-equiv" in meta)
    assert "default-src 'none'" in policy
    assert "script" not in {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            if name in attributes:
                address = attributes[name]
                assert address.startswith(("data:", "#")) or (path / address).is_file(), address
    assert "url(" not in page.raw
    assert "@import" not in page.raw


def test_every_choice_is_there(path, page):
    assert (path / "recipe.yaml").read_text() in "".join(page.texts["code"])
    environment = "".join(page.texts["code"])
    assert json.loads(environment[environment.index("{") :]) == json.loads((path / "environment.json").read_text())


def test_equal_runs_give_equal_bytes(tmp_path):
    runs = [reported_run(tmp_path / place / "run") for place in ("a", "b")]
    one, other = (reported(run, FEW) for run in runs)
    assert one.raw == other.raw
    for kind in ("png", "svg", "csv"):
        first, second = ((run / f"report/step-time.{kind}").read_bytes() for run in runs)
        assert first == second


# -- markup ------------------------------------------------------------------------------------------------------------


def test_names_are_text(tmp_path):
    # A folder's name holds no slash: the name is that of the inner folder.
    folder = tmp_path / "<script>alert(1)<" / "script>{{ 7 * 7 }} <b>$x$"
    run = reported_run(folder, recipe={"data": {"class_path": EVIL, "init_args": {EVIL: EVIL}}})
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps({**environment, "device": EVIL, "python": EVIL}))
    page = reported(run, FEW)
    assert {tag for tag, _ in page.tags} <= {
        *("html", "head", "meta", "link", "title", "style", "body", "main", "header", "h1", "h2", "h3", "p", "nav"),
        *("ol", "ul", "li", "a", "section", "div", "table", "caption", "thead", "tbody", "tr", "th", "td", "span"),
        *("small", "strong", "figure", "img", "figcaption", "dl", "dt", "dd", "pre", "code", "details", "summary"),
        "wbr",
    }
    assert all(image["src"].startswith("data:") for image in page.of("img"))
    assert "Report of the run script>{{ 7 * 7 }} <b>$x$" in page.text
    assert " ".join(EVIL.split()) in page.text
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_names_that_are_no_unicode_do_not_stop_the_report(tmp_path):
    raw = os.fsdecode(os.fsencode(str(tmp_path)) + b"/r\xff\x01n")
    run = reported_run(Path(raw))
    assert report_command([str(run), FEW, f"--output={tmp_path / 'page.html'}"]) == 0
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "\N{REPLACEMENT CHARACTER}" in page.text
    links = [link["href"] for link in page.of("a") if "step-time.csv" in link["href"]]
    assert links == ["r%FF%01n/report/step-time.csv"]


def drawn(figure: Figure, folder: Path, **more: object) -> str:
    def picture() -> Picture:
        data = {"x": [1.0, np.float64(0.1), None, float("nan"), np.int64(3), "a,b\n"]}
        return Picture("a-picture", "A picture", "About it.", figure, data, **more)  # type: ignore[arg-type]

    (shown,) = draw_all([PictureJob("A picture", picture, ())], folder)
    assert not shown.why_not, shown.why_not
    return shown.uri


@pytest.mark.parametrize("name", [EVIL, "$", "$$", r"\frac{1}{0} $\frac{$", "a$b$c", "x_1^2", "--><!-- ]]>", "日本"])
def test_names_are_drawn_letter_by_letter(tmp_path, name):
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 1000], [1, 1000], label=name)
    axes.set(title=name, xlabel=name, xscale="log")
    axes.set_yticks([1, 1000], [name, name])
    axes.legend()
    letter_by_letter(figure)
    assert not axes.title.get_parse_math()
    assert drawn(figure, tmp_path).startswith("data:image/svg")
    ElementTree.parse(tmp_path / "a-picture.svg")


def test_powers_of_a_logarithmic_axis_stay_formulas(tmp_path):
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 1e6], [1, 2])
    axes.set_xscale("log")
    letter_by_letter(figure)
    figure.draw_without_rendering()
    assert all(label.get_parse_math() for label in axes.get_xticklabels() if label.get_text())
    assert not any(label.get_parse_math() for label in axes.get_yticklabels())


@pytest.mark.parametrize(
    ("sentence", "html"),
    [
        ("a `b` c", "a <code>b</code> c"),
        ("`<b>` & `c`", "<code>&lt;b&gt;</code> &amp; <code>c</code>"),
        ("one ` only <i>", "one ` only &lt;i&gt;"),
        ("", ""),
    ],
)
def test_code_in_sentences_is_escaped(sentence, html):
    assert with_code(sentence) == html


# -- drawing -----------------------------------------------------------------------------------------------------------


def test_csv_has_every_number_in_full(tmp_path):
    figure = Figure()
    figure.subplots().plot([1, 2])
    drawn(figure, tmp_path)
    assert columns_of(tmp_path / "a-picture.csv") == {"x": ["1.0", "0.1", "", "", "3", "a,b\n"]}


def test_a_large_picture_goes_into_the_page_as_pixels(tmp_path):
    figure = Figure()
    figure.subplots().plot(*np.random.default_rng(0).random((2, 20_000)), ".")
    assert drawn(figure, tmp_path).startswith("data:image/png")


def of_number(number: int) -> Picture:
    if number == 1:
        raise NotHere("Not this one.")
    if number == 2:
        raise BadInput("data: gone")
    figure = Figure()
    figure.subplots().plot([0, number])
    return Picture("picture", "A picture", "About it.", figure, {"x": [0, number]})


def test_several_processes_draw_what_one_does(tmp_path):
    jobs = [PictureJob("A picture", of_number, (number,), f"p{number}") for number in range(4)]
    alone = draw_all(jobs, tmp_path / "alone", processes=1)
    assert draw_all(jobs, tmp_path / "together", processes=2) == alone
    assert [shown.name for shown in alone] == ["p0-picture", "", "", "p3-picture"]
    assert alone[1].why_not == "Not this one."
    assert alone[2].why_not == "This could not be drawn: data: gone."
    for file in (tmp_path / "alone").iterdir():
        assert file.read_bytes() == (tmp_path / "together" / file.name).read_bytes()


def test_large_predictions_are_held_by_one_process_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(draw, "LARGE", 10)
    for name, size in (("small", 10), ("large", 11)):
        (tmp_path / name).write_bytes(b"." * size)
    assert draw.processes_for([tmp_path / "small", tmp_path / "none"]) is None
    assert draw.processes_for([tmp_path / "small", tmp_path / "large"]) == 1
    assert draw.processes_for([]) is None


# -- runs that lack something ------------------------------------------------------------------------------------------


def test_a_run_of_one_member(tmp_path):
    page = reported(reported_run(tmp_path / "run", members=1, method="SAM"), "--without=landscape")
    assert "one member, so nothing can differ" in page.text
    assert "one member, so there is no pair" in page.text
    assert "Two members choose" not in page.text
    assert page.numbers["ensemble.nll"] == page.numbers["members.0.nll"]


def test_a_run_that_recorded_little(tmp_path):
    run = reported_run(tmp_path / "run", kinds=())
    (run / "predictions.npz").unlink()
    page = reported(run, "--without=landscape")
    assert page.text.count("This could not be drawn: run: ") == 3
    assert "no learning curves" in page.text
    assert page.numbers["ensemble.nll"]
    assert len(page.of("img")) == 2  # matrices, members over training


def test_one_sample_and_two_classes(tmp_path):
    page = reported(reported_run(tmp_path / "run", samples=1, classes=2), "--without=landscape,embedding")
    assert "too few samples to fit a temperature" in page.text
    assert "ensemble.cal_nll" not in page.numbers
    assert "ensemble.top5" not in page.numbers


def test_members_left_out_are_named(tmp_path):
    run = reported_run(tmp_path / "run")
    log_probs = np.load(run / "predictions.npz")["log_probs"]
    log_probs[0] = np.nan
    page = reported(reported_run(tmp_path / "sick", log_probs=log_probs), FEW)
    assert "not finite: members 0." in page.text
    rows = [text for text in page.texts["th"] if text.startswith("member ")]
    assert rows[:3] == ["member 1", "member 2", "member mean"]


# -- the command -------------------------------------------------------------------------------------------------------


def test_parts_are_left_out_and_the_page_goes_where_it_is_wanted(path, tmp_path, capsys):
    output = tmp_path / "elsewhere.html"
    run = reported_run(tmp_path / "run")
    assert report_command([str(run), FEW, "--output", str(output)]) == 0
    page = Page(output.read_text(encoding="utf-8"))
    assert [link["href"] for link in page.of("a") if link["href"].endswith("png")] == ["run/report/step-time.png"]
    assert len(page.of("img")) == 1
    assert not (run / "report.html").exists()
    assert capsys.readouterr().out == f"{output}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{run}", "--without=nothing"], "without: 'nothing' is not allowed; it must be one of learning, "),
        (["{run}", "--output={folder}/page.txt"], "a file that ends in .html"),
        (["{run}", "--output={folder}/none/page.html"], "its folder must be writable"),
        (["{run}", "--output={folder}/a.html"], "is a folder"),
        (["{run}", "--partial"], "is one run"),
        (["{folder}/none"], "a finished run, or a folder of them"),
        (["{folder}/empty"], "no finished run"),
        ([], "required"),
        (["{run}", "--with=x"], "unrecognized"),
    ],
)
def test_bad_options_are_refused_in_one_line(path, tmp_path, arguments, words):
    (tmp_path / "a.html").mkdir()
    (tmp_path / "empty").mkdir()
    places = {"run": path, "folder": tmp_path}
    with pytest.raises(BadInput, match=re.escape(words)) as caught:
        report_command([argument.format(**places) for argument in arguments])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("evaluation.json", '{"ensemble": [], "members": [], "member_mean": {}}'),
        ("evaluation.json", '{"ensemble": {}, "members": [1], "member_mean": {}}'),
        ("evaluation.json", '{"ensemble": {}}'),
        ("evaluation.json", "{"),
        ("environment.json", "[]"),
        ("recipe.yaml", "- 1"),
    ],
)
def test_damaged_runs_are_refused_and_nothing_is_written(tmp_path, file, content):
    run = reported_run(tmp_path / "run")
    (run / file).write_text(content)
    with pytest.raises(BadInput, match=re.escape(str(run / file))):
        report_command([str(run)])
    assert not (run / "report.html").exists()
    assert not (run / "report").exists()


def test_an_unfinished_run_is_refused(tmp_path):
    run = reported_run(tmp_path / "run")
    (run / "ensemble/ensemble.json").unlink()
    with pytest.raises(BadInput, match="finish the run first"):
        report_command([str(run)])


def failing(call: Callable[..., object]) -> Callable[..., object]:
    def fail(path: Path, *arguments: object) -> object:
        call(path, *arguments)
        raise OSError(28, "No space left on device", str(path))

    return fail


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    run = reported_run(tmp_path / "run")
    (run / "report.html").write_text("old")
    monkeypatch.setattr(Path, "write_bytes", failing(Path.write_bytes))
    with pytest.raises(OSError, match="No space"):
        report_command([str(run), FEW])
    assert (run / "report.html").read_text() == "old"
    assert not list(run.rglob("*.partial"))
    assert not list((run / "report").iterdir())
    with pytest.raises(OSError, match="No space"):
        write_page(run / "report.html", "new")
    assert (run / "report.html").read_text() == "old"


def test_a_page_is_written_in_utf_8_whatever_is_in_it(tmp_path):
    write_page(tmp_path / "page.html", "ρ \ud800")
    assert (tmp_path / "page.html").read_bytes() == "ρ ?".encode()
