"""One HTML file about a run, or about a folder of runs that are compared."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from dist_dash.errors import BadInput, require
from dist_dash.files import check_writable
from dist_dash.report.catalogue import FOLDER_PARTS, PARTS
from dist_dash.report.folder_page import report_of_folder
from dist_dash.report.run_page import report_of_run
from dist_dash.runs.folder import PAGE, PICTURES, RunFolder
from dist_dash.runs.process import FINISHED
from dist_dash.runs.record import say


def report(
    run: str,
    output: str | None,
    without: str,
    partial: bool,
    baselines: Sequence[str],
    allow_code: Collection[str] = (),
) -> int:
    """Write the page and its pictures; prints where the page is.

    Args:
        run: a finished run, or a folder of them.
        output: the page; None: in the folder.
        without: names of parts that are left out, separated by commas.
        partial: of a folder: whether runs that are not finished are left out; they are refused otherwise.
        baselines: of a folder: names of groups that the others are compared with.
        allow_code: of one run: see `load_ensemble`.

    Returns:
        The exit status, 0.

    Raises:
        BadInput: there is no finished run, its files hold something else than they should, or an option is wrong.
    """
    path = Path(run)
    require(path.is_dir(), "run", run, "a finished run, or a folder of them")
    page = _checked(Path(output) if output is not None else path / PAGE)
    pictures = path / PICTURES
    require(pictures.is_dir() or not pictures.exists(), "run", str(pictures), "a folder, or a new one")
    check_writable(pictures / "summary.csv" if pictures.exists() else path / f".{PICTURES}", "run")
    left_out = [name for name in without.split(",") if name]
    if RunFolder(path).is_one_run():
        if partial or baselines:
            raise BadInput(f"run: {path} is one run; --partial and --baseline are for folders of runs")
        _check_parts(left_out, [part.name for part in PARTS])
        report_of_run(path, page, left_out, allow_code)
    else:
        _check_parts(left_out, [part.name for part in FOLDER_PARTS])
        report_of_folder(path, page, left_out, partial, baselines)
    say(f"report: pictures and their data are in {path / PICTURES}")
    print(page)
    return FINISHED


def _checked(output: Path) -> Path:
    """Refuse before the work what could not be written after it."""
    require(output.suffix in (".html", ".htm"), "output", str(output), "a file that ends in .html")
    check_writable(output, "output")
    return output


def _check_parts(given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        require(name in known, "without", name, f"one of {', '.join(known)}")
