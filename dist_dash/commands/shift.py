"""`dist-dash shift`: a finished ensemble under corruption, and its detection of out-of-distribution samples."""

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

from dist_dash.analysis.shift.corruptions import CORRUPTIONS, SEVERITIES, applicable, chosen
from dist_dash.analysis.shift.measurement import Advance, Measurement, measure_shift
from dist_dash.analysis.shift.ood_sets import built_in, other
from dist_dash.analysis.shift.shift_tables import tables
from dist_dash.analysis.shift.values import values_of
from dist_dash.ensembles.finished import FinishedRun
from dist_dash.errors import BadInput, require
from dist_dash.files import write_atomically
from dist_dash.recipe.data_argument import without_fields
from dist_dash.runs.process import OneLine
from dist_dash.runs.record import say

_BATCH_VALUES = 2**22


def shift_parser() -> OneLine:
    """The parser of what is not the OOD source's."""
    corruptions = "".join(f"  {name:18} {corruption.text}\n" for name, corruption in CORRUPTIONS.items())
    parser = OneLine(
        prog="dist-dash shift",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Accuracy, calibration and diversity under corruptions of severity 1 to 5, and\n"
        "detection of out-of-distribution samples; written to RUN/shift.json.",
        epilog=f"corruptions, whose severities are not those of ImageNet-C:\n{corruptions}",
    )
    parser.add_argument("run", help="a finished run")
    parser.add_argument("--corruptions", default="all", metavar="NAME,NAME", help="which (default: all)")
    parser.add_argument("--severities", default="1,2,3,4,5", metavar="1,2", help="how strong (default: 1,2,3,4,5)")
    parser.add_argument("--samples", type=int, metavar="N", help="use N test samples, chosen at random (default: all)")
    parser.add_argument(
        "--ood",
        metavar="DATA",
        help="out-of-distribution samples: a data source as in recipes, with its fields as --ood.field value (its test "
        "split is used), or an .npz file with x (default: sets made of the test samples and of noise)",
    )
    parser.add_argument("--resize", action="store_true", help="make images of --ood fit: size and number of channels")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of samples and of corruptions (default: 0)")
    parser.add_argument("--json", action="store_true", help="print shift.json instead of the tables")
    return parser


def shift_command(arguments: Sequence[str]) -> int:
    """Measure, write `shift.json`, show it; returns the exit status 0.

    Raises:
        BadInput: nothing was written.
    """
    ours, fields = without_fields(arguments, "ood")
    options = shift_parser().parse_args(ours)
    severities = _severities(options.severities)
    asked = chosen(options.corruptions)
    require(options.samples is None or options.samples >= 1, "samples", options.samples, "a whole number ≥ 1")
    require(options.seed >= 0, "seed", options.seed, "a whole number ≥ 0")
    if options.ood is None and (fields or options.resize):
        raise BadInput(f"{'ood' if fields else 'resize'}: not allowed without --ood DATA")
    run = FinishedRun(options.run)
    ensemble, data = run.ensemble(), run.data()
    outside = None
    if options.ood is not None:
        outside = other(options.ood, fields, data, options.resize, options.samples, options.seed)
    corruptions = applicable(asked, data.shape)
    left_out = [corruption.name for corruption in asked if corruption not in corruptions]
    if left_out:
        say(f"shift: samples of shape {data.shape} are no images; left out: {', '.join(left_out)}")
    if not corruptions:
        raise BadInput(f"corruptions: {options.corruptions!r} is not allowed; these samples are no images")
    loader = run.command.recipe.loader
    size = max(loader.batch_size, min(512, _BATCH_VALUES // prod(data.shape)))
    values = values_of(data, options.seed)
    loader = replace(loader, batch_size=size)
    measurement = Measurement(ensemble, data, values, options.samples, options.seed, loader)
    sets = [outside] if outside else built_in(measurement.test, values, options.seed)
    with _progress(len(corruptions) * len(severities) + len(sets)) as advance:
        found = measure_shift(measurement, corruptions, severities, sets, advance)
    found["not_applicable"] = left_out
    text = json.dumps(found, indent=1)
    write_atomically(run.folder.shift, text)
    if options.json:
        print(text)
    else:
        Console().print(tables(found))
    return 0


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
