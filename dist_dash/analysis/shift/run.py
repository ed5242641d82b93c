"""A finished ensemble under corruption, and its detection of out-of-distribution samples."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dist_dash.analysis.shift.corruption_error import baseline_of, relative_to
from dist_dash.analysis.shift.corruptions import SEVERITIES, applicable, chosen, counted
from dist_dash.analysis.shift.measurement import Advance, Measurement, as_shift_json
from dist_dash.analysis.shift.ood_sets import built_in, other
from dist_dash.analysis.shift.published import published as published_samples
from dist_dash.analysis.shift.published import severities_from
from dist_dash.analysis.shift.samples import made_to_fit
from dist_dash.analysis.shift.shift_tables import tables
from dist_dash.analysis.shift.values import values_of
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.errors import BadInput, require, require_count
from dist_dash.files import check_writable, write_json
from dist_dash.recipe.recipe import Loader
from dist_dash.runs.process import FINISHED
from dist_dash.runs.record import say

_BATCH_VALUES = 2**22


def measure_shift(options: argparse.Namespace, fields: Sequence[str]) -> int:
    """Measure, write `shift.json`, show it.

    Args:
        options: of the command line.
        fields: of the out-of-distribution source, `--ood.field=value`.

    Returns:
        The exit status, 0.

    Raises:
        BadInput: nothing was written.
    """
    severities = _severities(options.severities)
    asked = chosen(options.corruptions)
    require_count("samples", options.samples)
    require_count("seed", options.seed, 0, 2**63 - 1)
    if options.ood is None and fields:
        raise BadInput("ood: not allowed without --ood DATA")
    if options.ood is None and options.published is None and options.resize:
        raise BadInput("resize: not allowed without --ood DATA or --published FOLDER")
    run = FinishedRun(options.run, options.allow_code)
    check_writable(run.folder.shift, "run")
    ensemble, data = run.ensemble(), run.data(say)
    outside = None
    if options.ood is not None:
        outside = other(options.ood, fields, data, options.resize, options.samples, options.seed)
    corruptions = applicable(asked, data.shape)
    left_out = [corruption.name for corruption in asked if corruption not in corruptions]
    if left_out:
        what = "no images" if len(data.shape) != 3 else "not of three channels"
        say(f"shift: samples of shape {data.shape} are {what}; left out: {', '.join(left_out)}")
    if not corruptions:
        raise BadInput(f"corruptions: {options.corruptions!r} is not allowed; these samples are {what}")
    published, baseline = None, None
    if options.published is not None:
        published = published_samples(options.published, [one.name for one in corruptions], severities, data)
        first = published.split(corruptions[0].name, severities[0])
        made_to_fit(first, data.shape, options.resize, f"published: samples of {options.published}")
    if options.baseline is not None:
        names = counted([one.name for one in corruptions])
        baseline = baseline_of(options.baseline, names, severities, severities_from(published, data.shape))
    loader = run.group("loader", Loader)
    size = max(loader.batch_size, min(512, _BATCH_VALUES // prod(data.shape)))
    values = values_of(data, options.seed)
    loader = replace(loader, batch_size=size)
    measurement = Measurement(ensemble, data, values, options.samples, options.seed, loader, published, options.resize)
    if not measurement.paired and data.validation is None:
        say("shift: no temperature is fitted, for the published samples may be copies of any test sample")
    sets = [outside] if outside else built_in(measurement.test, values, options.seed)
    with _progress(len(corruptions) * len(severities) + len(sets)) as advance:
        found = as_shift_json(measurement, corruptions, severities, sets, advance)
    found["not_applicable"] = left_out
    if baseline is not None:
        found["baseline"] = relative_to(baseline, found)
    write_json(run.folder.shift, found)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        Console().print(tables(found))
    return FINISHED


def _severities(given: str) -> list[int]:
    allowed = f"numbers from {SEVERITIES[0]} to {SEVERITIES[-1]}, separated by commas"
    found = set[int]()
    for part in given.split(","):
        number = int(part) if part.strip().isdecimal() else 0
        require(number in SEVERITIES, "severities", part, allowed)
        found.add(number)
    return sorted(found)


@contextlib.contextmanager
def _progress(steps: int) -> Iterator[Advance]:
    """On a terminal: a bar on stderr."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    columns = [MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}")]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=steps, completed=-1)
        yield lambda text: bar.update(task, advance=1, description=text)
