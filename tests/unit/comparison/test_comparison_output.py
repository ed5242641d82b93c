"""A comparison as it is shown and written: terminal, Markdown, LaTeX, CSV, JSON; the command and what it refuses."""

import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from compared import SCORES, loaded, run_at, study
from rich.cells import cell_len
from rich.console import Console

from dist_dash.commands.compare import compare_command
from dist_dash.comparison.grouping import Comparison
from dist_dash.comparison.machine_readable import as_csv, as_json
from dist_dash.comparison.markup import as_latex, as_markdown, in_latex, in_markdown
from dist_dash.comparison.show import FORMATS
from dist_dash.comparison.terminal import as_renderable
from dist_dash.comparison.verdict import verdict
from dist_dash.runs.process import guarded

TITLES = ("Quality of the ensemble", "Difference to SGD", "Difference to SAM", "Members and how they differ", "Cost")
TORN = "\\begin{tabular}{lr}\na & b & c \\\\\nd & e \\\\\n\\end{tabular}"
EVIL = "[bold red]A|B[/] <script>alert(1)</script> $x^2_i$ \\input{x} 50 % & #1 ~*_`\n\x1b[31m”"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study(tmp_path_factory.mktemp("study"), {"SGD": 0.0, "SAM": 0.02, "DASH": 0.0205})


@pytest.fixture(scope="module")
def comparison(folder: Path) -> Comparison:
    return loaded(folder, baselines=["SGD", "SAM"])


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Every name that comes from outside is hostile."""
    folder, runs = tmp_path_factory.mktemp("evil"), {}
    for method in ("SGD", "SAM"):
        for seed in range(5):
            gain = 0.05 * (method == "SAM") + 0.001 * seed
            run_at(folder / f"{method}{seed}", method, seed, ensemble=dict.fromkeys(SCORES, 0.5 + gain))
            runs[f"{method}{seed}"] = {"group": f"{EVIL} {method}", "section": EVIL}
    groups = {"title": EVIL, "baselines": [f"{EVIL} SGD"], "runs": runs}
    (folder / "groups.json").write_text(json.dumps(groups))
    return loaded(folder)


def shown(comparison: Comparison, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(as_renderable(comparison, width))
    return console.file.getvalue()  # type: ignore[attr-defined]


# -- the terminal ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_no_figure_is_cut(comparison: Comparison, width: int) -> None:
    text = shown(comparison, width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    (section,) = comparison.sections
    for group in section.groups:
        for metric in ("ensemble.nll", "ensemble.cal_ece_mass", "diversity.weight_cosine", "member_mean.cal_nll"):
            assert f"{group.metrics[metric].mean:.4f}" in text
            assert f"±{group.metrics[metric].sd:.4f}" in text
        assert f"{100 * group.metrics['ensemble.accuracy'].mean:.2f}" in text


def test_long_names_are_folded_and_not_cut(tmp_path: Path) -> None:
    for rho in (0.123456, 0.234567):
        run_at(tmp_path / f"{rho}", "SAM", method__rho=rho, model__class_path="a" * 50 + f".N{rho}".replace(".", "x"))
    text = shown(loaded(tmp_path), 100)
    assert max(cell_len(line) for line in text.splitlines()) <= 100
    table = re.sub(r"[\s│]+", "", "".join(line[:40] for line in text.splitlines()))
    assert "rho=0.123456" in table
    assert "rho=0.234567" in table


def test_each_section_has_its_tables(comparison: Comparison) -> None:
    text = shown(comparison)
    titles = [
        "Quality of the ensemble",
        "Difference to SGD",
        "Difference to SAM",
        "Members and how they differ",
        "Cost",
    ]
    places = [text.index(f"\n{title}") for title in titles]
    assert places == sorted(places)
    assert "no label noise" in text
    for sentence in verdict(comparison.sections[0]):
        assert re.sub(r"\s", "", sentence) in re.sub(r"\s", "", text)


def test_a_difference_is_shown_with_both_ends_of_its_interval(comparison: Comparison) -> None:
    (section,) = comparison.sections
    found = section.differences["SAM", "SGD"]["ensemble.cal_nll"]
    text = shown(comparison)
    assert f"{found.mean:+.4f}*" in text
    assert f"{found.low:+.4f}" in text
    assert f"{found.high:+.4f}" in text


def test_only_differences_that_are_told_apart_are_marked(comparison: Comparison) -> None:
    (section,) = comparison.sections
    found = section.differences["DASH", "SAM"]["ensemble.accuracy"]
    assert found.low is not None
    assert not found.excludes_zero
    mean, low, high = (f"{100 * value:+.2f}" for value in (found.mean, found.low, found.high))
    assert f"{mean} [{low}, {high}]" in as_markdown(comparison)
    assert f"{mean}*" not in shown(comparison)


def test_names_are_no_markup_on_the_terminal(evil: Comparison) -> None:
    text = shown(evil, 400)
    assert "[bold red]A|B[/] <script>" in text
    assert "\x1b[31m" not in text


# -- Markdown ----------------------------------------------------------------------------------------------------------


def tables_in(markdown: str) -> dict[str, list[list[str]]]:
    """The tables by their headings, each row as cells."""
    found: dict[str, list[list[str]]] = {}
    title = ""
    for line in markdown.splitlines():
        if line.startswith("### "):
            title = line[4:]
        if line.startswith("|"):
            found.setdefault(title, []).append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def test_markdown_tables_are_aligned_and_complete(comparison: Comparison) -> None:
    markdown = as_markdown(comparison)
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    found = tables_in(markdown)
    assert tuple(found) == TITLES
    for rows in found.values():
        assert len({len(row) for row in rows}) == 1
    blocks = "\n".join(line if line.startswith("|") else "" for line in markdown.splitlines()).split("\n\n")
    for block in (block.strip().splitlines() for block in blocks):
        assert len({cell_len(line) for line in block}) <= 1
    assert lines
    assert markdown.startswith("# Comparison\n\n## no label noise\n\n- accuracy: ")


def test_markdown_shows_figures_and_bold(comparison: Comparison) -> None:
    (section,) = comparison.sections
    rows = tables_in(as_markdown(comparison))["Quality of the ensemble"]
    columns = [cell.split(" ")[0] for cell in rows[0]]
    bold = 0
    for row in rows[2:]:
        group = section.group(row[0])
        assert row[1] == "5"
        for name, cell in list(zip(columns, row, strict=True))[2:]:
            summary, best = group.metrics[f"ensemble.{name}"], section.best[f"ensemble.{name}"]
            unit, digits = (100, 2) if name in ("accuracy", "top5", "aac", "cal_aac") else (1, 4)
            mean, sd = f"{unit * summary.mean:.{digits}f}", f"{unit * summary.sd:.{digits}f}"
            is_bold = best.bold and best.group == group.name
            assert cell == (f"**{mean}** ± {sd}" if is_bold else f"{mean} ± {sd}")
            bold += is_bold
    rows = tables_in(as_markdown(comparison))["Difference to SGD"]
    assert [row[0] for row in rows[2:]] == ["DASH", "SAM"]
    found = section.differences["SAM", "SGD"]["ensemble.accuracy"]
    mean, low, high = (f"{100 * value:+.2f}" for value in (found.mean, found.low, found.high))
    assert rows[3][1:3] == ["5", f"{mean}\\* [{low}, {high}]"]


def test_the_best_is_bold_in_every_format(tmp_path: Path) -> None:
    comparison = loaded(study(tmp_path, {"SGD": 0.0, "SAM": 0.03}))
    (section,) = comparison.sections
    value = f"{section.group('SAM').metrics['ensemble.cal_nll'].mean:.4f}"
    assert section.best["ensemble.cal_nll"].bold
    assert f"**{value}** ±" in as_markdown(comparison)
    assert f"$\\mathbf{{{value}}}$ $\\pm$" in as_latex(comparison)
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system="standard")
    console.print(as_renderable(comparison, 120))
    assert f"\x1b[1m{value}\x1b[0m" in console.file.getvalue()  # type: ignore[attr-defined]
    other = f"{section.group('SGD').metrics['ensemble.cal_nll'].mean:.4f}"
    assert f"**{other}**" not in as_markdown(comparison)


def test_names_are_text_in_markdown(evil: Comparison) -> None:
    markdown = as_markdown(evil)
    assert "<script" not in markdown.replace("\\<script", "")
    assert "\x1b" not in markdown
    assert all(len({len(row) for row in rows}) == 1 for rows in tables_in(markdown).values())
    assert len([line for line in markdown.splitlines() if line.startswith("# ")]) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("DASH rho_loss=0.1", "DASH rho_loss=0.1"),
        ("_x_ a|b", "\\_x\\_ a\\|b"),
        ("# no", "\\# no"),
        ("1. no", "1\\. no"),
        ("- no", "\\- no"),
        ("-0.5 yes", "-0.5 yes"),
        ("a\nb", "a�b"),
        ("**x** `y` [z](u) <b>", "\\*\\*x\\*\\* \\`y\\` \\[z\\](u) \\<b\\>"),
    ],
)
def test_words_in_markdown(words: str, expected: str) -> None:
    assert in_markdown(words) == expected


# -- LaTeX -------------------------------------------------------------------------------------------------------------


def assert_well_formed(latex: str) -> None:
    """Balanced braces, dollars and environments; rows of equal length; nothing special left bare."""
    text = "\n".join(line for line in latex.splitlines() if not line.startswith("%"))
    text = text.replace("{%\n", "{\n").replace(r"\ifdim\width>", r"\ifdim\width ")
    bare = re.sub(r"\\[\\{}$&#%_]", lambda m: "\n" if m[0] == "\\\\" else "", text)
    assert bare.count("{") == bare.count("}")
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert bare.count("$") % 2 == 0
    assert not re.search(r"[%#~]", bare)
    outside = re.sub(r"\$[^$]*\$", "", bare)
    assert not re.search(r"[_^<>|\"*]", outside.replace("{*}", ""))
    begun, stack = re.findall(r"\\(begin|end)\{(\w+)\}", text), list[str]()
    for word, name in begun:
        if word == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert stack == []
    for spec, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        rows = [row for row in body.splitlines() if row.endswith("\\\\")]
        assert len(rows) >= 2
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(spec)}


def test_latex_is_well_formed(comparison: Comparison, evil: Comparison) -> None:
    for one in (comparison, evil):
        latex = as_latex(one)
        assert_well_formed(latex)
        assert latex.count("\\toprule") == latex.count("\\midrule") == latex.count("\\bottomrule")
        assert latex.count("\\begin{tabular}") == (5 if one is comparison else 4)


@pytest.mark.parametrize("wrong", ["{", "}{", "$", "50 %", "a_b", "a~b", r"\begin{table}", TORN])
def test_the_check_of_latex_sees_what_is_wrong(wrong: str) -> None:
    with pytest.raises(AssertionError):
        assert_well_formed(wrong)


def test_names_are_text_in_latex(evil: Comparison) -> None:
    latex = as_latex(evil)
    assert r"\textbackslash{}input\{x\}" in latex
    assert r"\$x\textasciicircum{}2\_i\$" in latex
    assert "\\input" not in latex.replace(r"\textbackslash{}input", "") or "% " in latex
    assert not [line for line in latex.splitlines() if line.startswith("\\input")]
    assert all("\x1b" not in line for line in latex.splitlines())


def test_words_in_latex() -> None:
    assert in_latex("a_b & 50 % [x] ↑") == r"a\_b \& 50 \% {[}x{]} $\uparrow$"


# -- CSV and JSON ------------------------------------------------------------------------------------------------------


def test_csv_has_a_row_per_metric_and_baseline_and_the_numbers_of_json(comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(comparison))))
    (section,) = as_json(comparison)["sections"]
    groups = {group["name"]: group for group in section["groups"]}
    figures = [row for row in rows if not row["metric"].startswith(("cost.", "equivalent."))]
    assert len(figures) == 3 * 2 * len(section["metrics"])
    for row in figures:
        known = groups[row["group"]]["metrics"][row["metric"]]
        assert (int(row["n"]), float(row["mean"]), float(row["sd"])) == (known["n"], known["mean"], known["sd"])
        assert row["section"] == "no label noise"
        if row["group"] == row["baseline"]:
            assert (row["difference"], row["low"], row["pairs"], row["excludes_zero"]) == ("", "", "", "")
            continue
        found = section["differences"][row["group"]][row["baseline"]][row["metric"]]
        assert [float(row[name]) for name in ("difference", "low", "high")] == [
            found[n] for n in ("mean", "low", "high")
        ]
        assert row["excludes_zero"] == str(found["excludes_zero"])
        assert (int(row["pairs"]), row["interval"]) == (found["n"], found["method"])
    (time,) = [r for r in rows if r["metric"] == "cost.relative_step_time" and r["group"] == "SAM"]
    assert float(time["median"]) == groups["SAM"]["cost"]["relative_step_time"] == 1.0
    (steps,) = [r for r in rows if r["metric"] == "cost.step_seconds" and r["group"] == "DASH"]
    assert float(steps["median"]) == groups["DASH"]["cost"]["step_seconds"] == pytest.approx(0.015)


def test_json_holds_everything(comparison: Comparison, folder: Path) -> None:
    content = json.loads(json.dumps(as_json(comparison), allow_nan=False))
    (section,) = content["sections"]
    assert set(section["differences"]) == {"SGD", "SAM", "DASH"}
    assert {one: set(others) for one, others in section["differences"].items()} == {
        one: {"SGD", "SAM", "DASH"} - {one} for one in ("SGD", "SAM", "DASH")
    }
    for group in section["groups"]:
        assert group["seeds"] == [0, 1, 2, 3, 4]
        assert [run["path"] for run in group["runs"]] == [str(folder / f"{group['name']}-s{s}") for s in range(5)]
        values = group["metrics"]["ensemble.nll"]["values"]
        for seed, value in values.items():
            file = json.loads((folder / f"{group['name']}-s{seed}/evaluation.json").read_text())
            assert value == file["ensemble"]["nll"]
    assert section["metrics"]["ensemble.nll"] == {"better": "lower"}
    assert section["metrics"]["diversity.kl"] == {"better": None}
    assert section["verdict"] == verdict(comparison.sections[0])
    assert section["best"]["ensemble.accuracy"]["group"] == comparison.sections[0].best["ensemble.accuracy"].group


# -- the command -------------------------------------------------------------------------------------------------------


def command(*arguments: Any) -> int:
    return guarded(lambda: compare_command([str(a) for a in arguments]))


@pytest.mark.parametrize("form", ["terminal", "markdown", "latex", "csv", "json"])
def test_every_format_goes_to_stdout(folder: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(folder, "--format", form) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    comparison = loaded(folder)
    expected = {"markdown": as_markdown, "latex": as_latex, "csv": as_csv}.get(form)
    if expected:
        assert captured.out == expected(comparison)
    elif form == "json":
        assert json.loads(captured.out) == json.loads(json.dumps(as_json(comparison)))
    else:
        assert max(cell_len(line) for line in captured.out.splitlines()) <= 120


def test_files_are_written_by_their_suffix(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outputs = ["a.md", "a.tex", "a.csv", "a.json"]
    assert command(folder, "--json", *(f"--output={name}" for name in outputs)) == 0
    captured = capsys.readouterr()
    assert (tmp_path / "a.json").read_text() == captured.out
    comparison = loaded(folder)
    assert (tmp_path / "a.md").read_text() == as_markdown(comparison)
    assert (tmp_path / "a.tex").read_text() == as_latex(comparison)
    assert (tmp_path / "a.csv").read_text() == as_csv(comparison)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(outputs)
    assert captured.err == "".join(f"compare: wrote {name}\n" for name in outputs)


def test_bad_arguments_are_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.md").mkdir()
    good = f"--output={tmp_path / 'good.md'}"
    for arguments, words in [
        ([folder, good, f"--output={tmp_path / 'a.txt'}"], ["output: ", "a.txt", ".md, .tex, .csv, .json"]),
        ([folder, good, f"--output={tmp_path / 'none/a.md'}"], ["output: ", "none/a.md"]),
        ([folder, good, f"--output={tmp_path / 'folder.md'}"], ["output: ", "is a folder"]),
        ([folder, good, "--output=/proc/a.md"], ["output: ", "/proc/a.md"]),
        ([folder, good, "--baseline", "none"], ["baseline: 'none'", "'DASH', 'SAM', 'SGD'"]),
        ([folder, good, "--format", "html"], ["--format", "html"]),
        ([folder, good, "--bold"], ["--bold"]),
        ([tmp_path, good], ["holds no finished run"]),
        ([good], ["RUN"]),
    ]:
        assert command(*arguments) == 2, arguments
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert [word for word in words if word not in captured.err] == [], captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["folder.md"]


def test_all_files_are_written_or_none(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second file meets a full disk."""

    def full(comparison: Comparison) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(FORMATS, "latex", full)
    (tmp_path / "a.md").write_text("of yesterday")
    assert command(folder, f"--output={tmp_path / 'a.md'}", f"--output={tmp_path / 'a.tex'}") == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert "No space left" in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["a.md"]
    assert (tmp_path / "a.md").read_text() == "of yesterday"


def test_partial_is_said_in_every_text(tmp_path: Path) -> None:
    study(tmp_path, {"SGD": 0.0, "SAM": 0.01}, seeds=2)
    runs = {path.name: {"group": path.name[:3]} for path in sorted(tmp_path.iterdir())}
    (tmp_path / "groups.json").write_text(json.dumps({"runs": runs}))
    (tmp_path / "SAM-s1/DONE").unlink()
    comparison = loaded(tmp_path, partial=True)
    said = f"Partial: {tmp_path / 'SAM-s1'} is not finished, and left out."
    assert re.sub(r"\s", "", said) in re.sub(r"\s", "", shown(comparison))
    assert said in as_markdown(comparison)
    assert f"% {said}" in as_latex(comparison)
    assert as_json(comparison)["notes"] == [said]
    assert as_json(comparison)["partial"]


def test_a_pipe_gets_120_columns_and_a_terminal_its_own(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    assert command(folder) == 0
    assert 100 < max(cell_len(line) for line in capsys.readouterr().out.splitlines()) <= 120
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert command(folder) == 0
    assert max(cell_len(re.sub(r"\x1b\[[0-9;]*m", "", x)) for x in capsys.readouterr().out.splitlines()) <= 70
