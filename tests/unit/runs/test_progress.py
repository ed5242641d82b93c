"""One line that fits, on any terminal from 60 columns on."""

import io
import re

import pytest
from rich.console import Console
from rich.progress import Progress

from dist_dash.runs import progress
from dist_dash.runs.progress import TrainingLine, tracked, training_line

LOSS, ACCURACY = [0.412, 0.38, 0.5, 0.1, 0.2, 0.3, 0.4, 0.5], [0.87, 0.9, 0.91, 0.8, 0.7, 0.6, 0.5, 0.4]


@pytest.mark.parametrize("members", [1, 3, 8])
@pytest.mark.parametrize("width", [60, 61, 72, 80, 100, 120, 200])
@pytest.mark.parametrize(("step", "total"), [(3, 30), (12_345, 90_000), (1_234_567, 9_999_999)])
def test_a_line_of_training_fits_and_is_complete(width, members, step, total):
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None, legacy_windows=False)
    with Progress(TrainingLine(console), console=console, auto_refresh=False) as bar:
        task = bar.add_task("", total=total)
        bar.update(task, completed=step, loss=LOSS[:members], accuracy=ACCURACY[:members], refresh=True)
    text = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", file.getvalue()).replace("\r", "\n")
    last = [line.rstrip() for line in text.splitlines() if line.strip()][-1]
    assert len(last) <= width
    assert "…" not in last
    mean = sum(LOSS[:members]) / members
    assert f"step {step}/{total}" in last
    assert f"loss {mean:.3f}" in last
    assert re.search(r"acc(uracy)? 0\.\d{3}", last)
    assert "-:--:--" in last
    assert ("±" in last) == (members > 1 and (width > 61 or total < 10**6))
    assert "━" in last or "╌" in last or width < 100


def test_the_time_that_is_left_and_the_spread():
    figures = {"loss": [1.0, 2.0, 3.0], "accuracy": [0.5, 0.5, 0.5]}
    found = training_line(70, 10, 100, 3725.9, figures)
    assert found == "step 10/100  loss 2.000 ± 1.000  accuracy 0.500 ± 0.000  1:02:05 left"
    assert training_line(60, 0, 100, None, {}).endswith("-:--:-- left")
    assert training_line(80, 50, 100, 0, {"loss": [123456.0]}).count("━") == 19
    assert len(training_line(20, 10, 100, 5, figures)) == 20


def test_rounds_are_shown_on_a_terminal_alone(capsys, monkeypatch):
    assert list(tracked(range(3), "evaluating test")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
    file = io.StringIO()
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=file, width=70, force_terminal=True))
    assert list(tracked(range(3), "evaluating test")) == [0, 1, 2]
    assert "evaluating test" in file.getvalue()
    assert "3/3" in file.getvalue()
