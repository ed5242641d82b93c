"""A profile: what one rank needs for an update of a recipe, by every method, as measured once. Needs no torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from dist_dash.cluster.scaling.step_model import Count, MethodCost, Number, Rates, Straggling, fit_straggling
from dist_dash.errors import BadInput
from dist_dash.files import check_writable, read_json, read_object, write_atomically
from dist_dash.recipe.typed import Allowed, typed
from dist_dash.runs.choices import differing, flat, under
from dist_dash.runs.folder import RunFolder

# The fields of a recipe that decide what an update costs, whatever the method.
DECIDING = (
    *("data", "model", "models", "engine", "optimizer.class_path", "augment", "exchange", "sparsity"),
    *("parameter_groups", "loader.batch_size", "loader.accumulation", "labels.mixup", "deterministic"),
)
SEPARATE, JOINT = "DASH separate", "DASH joint"
ALONE = (SEPARATE, JOINT, "this recipe's DASH")  # which do SAM's update where there is one member


@dataclasses.dataclass(frozen=True)
class Profile:
    """What was measured.

    Args:
        format: of this file.
        made: when, and by which versions.
        recipe: those fields that decide what an update costs.
        device: its name.
        rates: of one micro-batch: seconds of a forward, of a backward, of averaging one peer's predictions, and of
            decoding one sample on one core.
        samples: of the training split.
        shape: of a sample.
        classes: of the data.
        uint8: whether samples are stored as bytes.
        parameter_bytes: of all trainable parameters, in the type of the master weights.
        process_bytes: of host memory that a rank's process takes before its network is built, data left out.
        data_bytes: of the data, where they lie in memory.
        jitter: standard deviation of the logarithm of an update's time, measured on one rank.
        steps: updates that were measured.
        methods: what an update costs.
    """

    format: Annotated[Literal[1], Allowed("1")]
    made: dict[str, str]
    recipe: dict[str, Any]
    device: str
    rates: Rates
    samples: Count
    shape: list[Count]
    classes: Count
    uint8: bool
    parameter_bytes: Number
    process_bytes: Number
    data_bytes: Number
    jitter: Number
    steps: Count
    methods: dict[str, MethodCost]

    def cost(self, name: str, members: int) -> MethodCost:
        """Of an update by a method; by DASH without peers, of the SAM update that it then does."""
        return self.methods.get("SAM", self.methods[name]) if members == 1 and name in ALONE else self.methods[name]

    def write(self, file: Path) -> None:
        """Keep it for later plans. Raises `BadInput`."""
        check_writable(file, "save-profile")
        write_atomically(file, json.dumps(dataclasses.asdict(self), indent=1))


def deciding(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a recipe that decide what an update costs."""
    return {field: value for field, value in flat(resolved).items() if under(field, DECIDING)}


def name_of(method: Mapping[str, Any]) -> str:
    """The name of a recipe's method in a profile: of DASH, with its ascent; with a mark where another option counts."""
    kind, options = method["class_path"].rpartition(".")[2], method.get("init_args") or {}
    if kind != "DASH":
        return str(kind)
    usual = options["diversity_in"] == "ascent" and options["direction"] == "diversity" and not options["gamma"]
    return f"DASH {options['ascent']}" if usual and options["ascent_sync"] == "local" else "this recipe's DASH"


def read_profile(file: Path, resolved: Mapping[str, Any], any_batch: bool = False) -> Profile:
    """The profile in a file, if it is one of this recipe.

    Args:
        file: that `dist-dash plan --save-profile` wrote.
        resolved: the recipe.
        any_batch: whether the size of a micro-batch may differ.

    Raises:
        BadInput: it is not; one line with what differs.
    """
    found = typed(read_json(file, "profile"), Profile, "profile")
    harmless = ("loader.batch_size",) if any_batch else ()
    # Fields that came later had no effect when it was measured.
    ours = {k: v for k, v in json.loads(json.dumps(deciding(resolved))).items() if k in found.recipe}
    what = [f"{field} {a!r} there, {b!r} here" for field, (a, b) in differing([found.recipe, ours], harmless).items()]
    if what:
        more = "; …" if len(what) > 4 else ""
        how = "measure again, without --profile"
        raise BadInput(f"profile: {file} is of another recipe ({'; '.join(what[:4])}{more}); {how}")
    if (name := name_of(resolved["method"])) not in found.methods:
        raise BadInput(f"profile: {file} has no {name}, only {', '.join(found.methods)}; measure again")
    return found


def straggling_of(run: Path) -> Straggling:
    """σ of the ranks of a run, from what its record says of their own work.

    Raises:
        BadInput: there is no such record, or a member had several ranks, whose waits for each other it does not tell.
    """
    folder = RunFolder(run)
    lines = [line for line in folder.lines() if line["kind"] == "train"][1:]  # the first is warm-up
    replicas = read_object(folder.environment).get("layout", {}).get("replicas")
    if replicas != 1:
        raise BadInput(f"waits: {run} had {replicas} replicas per member; it must be a run with one rank per member")
    try:
        steps = [line["step"] for line in lines]
        compute = np.array([line["timing"]["compute"] for line in lines], dtype=np.float64).reshape(len(lines), -1)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"waits: {folder.metrics} has no times of every member ({type(error).__name__})") from error
    return fit_straggling(compute, steps[1] - steps[0] if len(steps) > 1 else 1)
