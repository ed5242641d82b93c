"""Where the time of an update goes: computing, waiting for peers, transfer, data; per member."""

from __future__ import annotations

import numpy as np

from dist_dash.ensembles.finished import FinishedRun
from dist_dash.report.picture import COLOURS, Ledger, NotHere, Picture, new_figure, tidy
from dist_dash.report.readings import per_member

PARTS = (
    ("compute", "computing", COLOURS[0]),
    ("data", "waiting for data", COLOURS[5]),
    ("transfer", "transfer between members", COLOURS[2]),
    ("wait", "waiting for members", COLOURS[1]),
)


def step_time(run: FinishedRun) -> Picture:
    """Stacked bars, one per member: medians over the training lines, of which the first is left out as warm-up.

    Raises:
        NotHere: the record holds no timing.
    """
    lines = run.lines("train")
    found = {name: per_member(lines, "timing", name)[1] for name, *_ in PARTS}
    count = min(len(values) for values in found.values())
    if not count:
        raise NotHere("The record holds no timing of updates.")
    medians = {name: 1000 * np.nanmedian(values[len(values) > 2 :], axis=0) for name, values in found.items()}
    members = len(medians["compute"])
    ledger = Ledger("member", "part", "milliseconds")
    figure = new_figure(1.5 + 0.36 * members)
    axes = figure.subplots()
    start = np.zeros(members)
    for name, label, colour in PARTS:
        axes.barh(range(members), medians[name], left=start, color=colour, label=label, height=0.65)
        start = start + medians[name]
        for member, value in enumerate(medians[name].tolist()):
            ledger.add(member, name, value)
    tidy(axes, "median time of an update", "ms", "")
    axes.grid(visible=False, axis="y")
    axes.set_yticks(range(members), [f"member {member}" for member in range(members)])
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=4)
    caption = (
        f"Medians over {count - (count > 2)} lines of the record, each the mean over the updates since the line "
        f"before{', the first left out as warm-up' * (count > 2)}; the medians of the parts need not add up to the "
        "median of the whole. Computing: forward and backward passes and the optimizer, with the averaging of "
        "gradients over a member's replicas. Waiting for members: until the slowest has its predictions ready; "
        "transfer: moving them. Both are what training members together costs over training them apart."
    )
    total = start.max()
    return Picture(
        "step-time", "Time of an update", caption, figure, ledger.data, {"slowest member": f"{total:.1f} ms"}
    )
