"""A run's ensemble, or given predictions, scored; the tables, `evaluation.json`."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from dist_dash.analysis.evaluate import evaluated
from dist_dash.data.source import Split
from dist_dash.ensembles.evaluation import Evaluated
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.ensembles.predictor import agreeing
from dist_dash.ensembles.trained_data import Tell
from dist_dash.errors import BadInput, require
from dist_dash.files import check_writable
from dist_dash.metrics.mixture import members_in_words
from dist_dash.metrics.predictions import load_predictions
from dist_dash.metrics.summary import evaluate, table
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.launched import Launcher
from dist_dash.ranks.layout import layout_from_environment
from dist_dash.recipe.data_argument import other_split
from dist_dash.runs.folder import RunFolder
from dist_dash.runs.process import FINISHED
from dist_dash.runs.record import say


def evaluate_run(options: argparse.Namespace, fields: Sequence[str]) -> int:
    """Evaluate, write, show.

    Args:
        options: of the command line.
        fields: of the data source, `--data.field=value`.

    Returns:
        The exit status, 0.

    Raises:
        BadInput: nothing was written.
    """
    _check(options, fields)
    launcher = Launcher()
    if options.predictions:
        if launcher.rank == 0:
            _show(_of_predictions(Path(options.predictions), options.strict), options.json)
        return FINISHED
    with contextlib.ExitStack() as stack:
        exchange = None
        if launcher.started_ranks:
            exchange = stack.enter_context(Exchange(layout_from_environment(None)))
        with agreeing(exchange, "run"):
            run = FinishedRun(options.run, options.allow_code)
            if launcher.rank == 0:
                _check_target(run, options)
            split, name = _samples(options, fields, run, say if launcher.rank == 0 else None)
        found = evaluated(run, split, name, strict=options.strict, exchange=exchange)
        with agreeing(exchange, "results"):
            if found is not None:
                _keep_and_show(found, run, options)
    return FINISHED


def _check(options: argparse.Namespace, fields: Sequence[str]) -> None:
    if (options.run is None) == (options.predictions is None):
        raise BadInput("evaluate: give either a RUN or --predictions P.npz")
    if options.data is None and fields:
        raise BadInput(f"{fields[0].lstrip('-').partition('=')[0]}: not allowed without --data DATA")
    if options.predictions:
        for name in ("split", "data", "output"):
            if getattr(options, name) is not None:
                raise BadInput(f"{name}: not allowed with --predictions, which are evaluated as they are")
    if options.output is not None:
        output = Path(options.output)
        require(not output.exists() or output.is_dir(), "output", options.output, "a folder, or a new one")
        require(not RunFolder(output).recipe.exists(), "output", options.output, "another folder than a run's")


def _check_target(run: FinishedRun, options: argparse.Namespace) -> None:
    if options.output is not None:
        output = Path(options.output)
        there = next(parent for parent in [output, *output.absolute().parents] if parent.exists())
        require(there.is_dir(), "output", options.output, "a folder, or a new one")
        check_writable(there / ".evaluation", "output")
        for file in (RunFolder(output).evaluation, RunFolder(output).predictions):
            require(not file.is_dir(), "output", str(file), "a file")
    elif options.data is None:
        split = options.split or "test"
        for file in (run.folder.evaluation_of(split), run.folder.predictions_of(split)):
            check_writable(file, "run")


def _samples(
    options: argparse.Namespace, fields: Sequence[str], run: FinishedRun, tell: Tell | None
) -> tuple[Split, str]:
    """The samples to predict, and the name of their split."""
    if options.data is None:
        name = options.split or "test"
        return run.data(tell).evaluation_split(name), name
    name = "given" if options.data.endswith(".npz") else options.split or "test"
    stored = run.stored
    return other_split(options.data, fields, options.split, stored.outline, stored.class_names, tell), name


def _keep_and_show(found: Evaluated, run: FinishedRun, options: argparse.Namespace) -> None:
    for name in found.unreadable:
        say(f"unreadable sample left out: {name}")
    split = found.result["split"]
    if options.data is not None:
        found.result["data"] = options.data
    if options.output is not None:
        target = RunFolder(options.output)
        target.path.mkdir(parents=True, exist_ok=True)
        found.save(target.evaluation, target.predictions)
    elif options.data is None:
        found.save(run.folder.evaluation_of(split), run.folder.predictions_of(split))
    _show(found.result, options.json)


def _show(result: dict[str, Any], as_json: bool) -> None:
    if result["left_out"]:
        say(f"left out, because predictions are not finite: {members_in_words(result['left_out'])}")
    if as_json:
        print(json.dumps(result, allow_nan=False))
    else:
        Console().print(table(result))


def _of_predictions(path: Path, strict: bool) -> dict[str, Any]:
    log_probs, labels, weights = load_predictions(path, "predictions")
    return evaluate(log_probs, labels, "given", None, strict=strict, weights=weights)
