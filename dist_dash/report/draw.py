"""Draw pictures in processes beside one another and put each on disk: as PNG, SVG, and its numbers as CSV."""

from __future__ import annotations

import base64
import csv
import functools
import io
import math
import multiprocessing
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_dash.errors import BadInput, RunFailed
from dist_dash.files import replacing
from dist_dash.metrics.blocks import cores
from dist_dash.report.picture import STYLE, NotHere, Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VECTORS_UP_TO = 200_000  # bytes: a larger SVG goes into the page as PNG, where that is smaller
LARGE = 200_000_000  # bytes of a run's predictions: from there on one picture is drawn at a time, for the memory's sake
KINDS = ("png", "svg", "csv")
MOST_PROCESSES = 4


@dataclass(frozen=True)
class PictureJob:
    """A picture to be drawn.

    Args:
        title: shown where it cannot be drawn.
        draw: called with `of`; both must be picklable.
        of: run, runs or figures that it is drawn of.
        prefix: of the names of its files, where several pictures have the same.
    """

    title: str
    draw: Callable[..., Picture]
    of: tuple[Any, ...]
    prefix: str = ""


@dataclass(frozen=True)
class DrawnPicture:
    """A picture as the page shows it.

    Args:
        title: heading.
        name: of its files.
        caption: text below.
        findings: beside it.
        uri: the picture itself, as `data:` URI.
        width: in the page, CSS pixels.
        height: likewise.
        columns: of its CSV.
        kinds: of its files.
        why_not: empty; or why there is no picture, and all but the title is empty.
    """

    title: str
    name: str = ""
    caption: str = ""
    findings: dict[str, str] | None = None
    uri: str = ""
    width: int = 0
    height: int = 0
    columns: tuple[str, ...] = ()
    kinds: Sequence[str] = ()
    why_not: str = ""

    @property
    def files(self) -> list[str]:
        """Names of its files."""
        return [f"{self.name}.{kind}" for kind in self.kinds]

    @property
    def id(self) -> str:
        """The id of its element in the page."""
        return f"picture-{self.name}"

    @property
    def alt(self) -> str:
        """The alternative text of the picture; its numbers are in its CSV."""
        found = "; ".join(f"{name}: {value}" for name, value in (self.findings or {}).items())
        return f"{self.title}{'. ' * bool(found)}{found}. Described below; its numbers are in {self.name}.csv."


def draw_all(
    jobs: Sequence[PictureJob], folder: Path, processes: int | None = None, kinds: Sequence[str] = KINDS
) -> list[DrawnPicture]:
    """Draw every job; the pictures come in the order of the jobs.

    Args:
        jobs: no two of whose pictures have the same name.
        folder: for the files; made where it is missing.
        kinds: of the files; some of `KINDS`.
        processes: to draw in; None: as many as there are cores, at most `MOST_PROCESSES`.

    Raises:
        OSError: a file cannot be written.
        RunFailed: a process was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = min(len(jobs), processes or min(MOST_PROCESSES, cores()))
    drawing = functools.partial(_draw, folder=folder, kinds=kinds)
    if wanted <= 1:
        return [drawing(job) for job in jobs]
    # Spawned: neither threads nor locks of this process are copied, and no fork server stays behind.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(wanted, context, _use_threads, (max(1, cores() // wanted),)) as pool:
            return list(pool.map(drawing, jobs))
    except BrokenProcessPool as error:
        raise RunFailed("report: a process that draws was killed, perhaps for want of memory") from error


def processes_for(predictions: Iterable[Path]) -> int | None:
    """How many processes `draw_all` may use: one where files of predictions are so large that memory is short."""
    sizes = [path.stat().st_size for path in predictions if path.is_file()]
    return 1 if max(sizes, default=0) > LARGE else None


def remove_others(folder: Path, kept: Collection[str]) -> None:
    """Remove files that an earlier report left in its folder and this one does not have."""
    for kind in KINDS:
        for path in folder.glob(f"*.{kind}"):
            if path.name not in kept:
                path.unlink()


def _use_threads(most: int) -> None:
    """Limit the threads of a process that draws, so that each process has cores of its own."""
    import torch

    torch.set_num_threads(min(most, torch.get_num_threads()))


def _draw(job: PictureJob, folder: Path, kinds: Sequence[str]) -> DrawnPicture:
    import matplotlib

    try:
        with matplotlib.rc_context(STYLE), warnings.catch_warnings():
            # Names in scripts that the font lacks are drawn as boxes; the page itself has them right.
            warnings.filterwarnings("ignore", message="Glyph")
            picture = job.draw(*job.of)
            letter_by_letter(picture.figure)
            if job.prefix:
                picture = replace(picture, name=f"{job.prefix}-{picture.name}")
            return _shown(picture, folder, kinds)
    except NotHere as reason:
        return DrawnPicture(job.title, why_not=str(reason))
    except BadInput as error:  # data that were moved, a truncated file: the rest of the report is still made
        return DrawnPicture(job.title, why_not=f"This could not be drawn: {' '.join(str(error).split())}.")


def _shown(picture: Picture, folder: Path, kinds: Sequence[str]) -> DrawnPicture:
    png = saved(picture.figure, "png")
    picture.figure.set_layout_engine("none")  # what took long to lay out stays where it is
    svg = saved(picture.figure, "svg")
    contents = {"png": png, "svg": svg, "csv": as_csv(picture).encode()}
    for kind, content in ((kind, contents[kind]) for kind in kinds):
        with replacing(folder / f"{picture.name}.{kind}") as path:
            path.write_bytes(content)
    vectors = len(svg) <= max(VECTORS_UP_TO, len(png))
    kind, content = ("svg+xml", svg) if vectors else ("png", png)
    width, height = (round(96 * inches) for inches in picture.figure.get_size_inches())
    return DrawnPicture(
        title=picture.title,
        name=picture.name,
        caption=picture.caption,
        findings=dict(picture.findings),
        uri=f"data:image/{kind};base64,{base64.b64encode(content).decode()}",
        width=width,
        height=height,
        columns=tuple(picture.data),
        kinds=kinds,
    )


def letter_by_letter(figure: Figure) -> None:
    """Draw every text literally: a `$` in a name begins no formula. Only ticks of logarithmic axes are formulas."""
    from matplotlib.text import Text

    formulas = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        if axis.get_scale() != "linear"
        for label in (*axis.get_ticklabels(which="major"), *axis.get_ticklabels(which="minor"))
    }
    for text in figure.findobj(Text):
        if text not in formulas:
            text.set_parse_math(False)


def saved(figure: Figure, kind: str) -> bytes:
    """The content of the file, without date and version, so that equal runs give equal bytes."""
    content = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    figure.savefig(content, format=kind, metadata=metadata)
    return content.getvalue()


def as_csv(picture: Picture) -> str:
    """The picture's data, a column each; numbers in full, what is not finite left empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(picture.data)
    writer.writerows([_plain(value) for value in row] for row in zip(*picture.data.values(), strict=True))
    return text.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    number = value.item() if hasattr(value, "item") else value  # NumPy's write themselves as np.float64(…)
    return "" if number is None or (isinstance(number, float) and not math.isfinite(number)) else number
