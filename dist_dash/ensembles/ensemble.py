"""The finished ensemble: names and numbers on disk, and `load_ensemble(folder).predict(x)`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from torch import Tensor, nn

from dist_dash.data.data_facts import Outline
from dist_dash.data.fitting import fitting_samples
from dist_dash.errors import BadInput, RunFailed, first_line
from dist_dash.files import read_json, replacing, write_atomically
from dist_dash.metrics.mixture import mean_over_members, normalised
from dist_dash.models import Architecture
from dist_dash.models.network import build_network
from dist_dash.recipe.classes import class_named

FORMAT = 2
READABLE = (1, 2)
"""Formats of `ensemble.json` that this version reads; in format 1 all members count equally."""


FIELDS = {"members": list, "shape": list, "classes": int, "mean": list, "std": list, "uint8": bool}
"""Fields of `ensemble.json` that must be there; `class_names` and `data` may be missing."""


class Prediction(NamedTuple):
    """What an ensemble predicts for `N` samples.

    Args:
        probs: mean of the members' softmaxes `[N, C]`, weighted where members count unequally.
        member_probs: each member's softmax `[members, N, C]`.
        member_log_probs: its logarithm, computed from the logits.
    """

    probs: Tensor
    member_probs: Tensor
    member_log_probs: Tensor


class Ensemble:
    """Trained members, ready to predict.

    Args:
        networks: stored samples `[n, *shape]` → logits `[n, classes]`, one per member.
        outline: of the training data.
        class_names: their names where the data had them.
        weights: how much each member counts, positive numbers; None: all count equally.

    Raises:
        BadInput: the weights are not one positive, finite number per member.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        outline: Outline,
        class_names: list[str] | None = None,
        weights: ArrayLike | None = None,
    ) -> None:
        self.networks = [network.eval() for network in networks]
        self.outline, self.class_names = outline, class_names
        self.weights = normalised(weights, len(self.networks))

    def __len__(self) -> int:
        return len(self.networks)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return self.outline.shape

    @property
    def classes(self) -> int:
        """Of the training data."""
        return self.outline.classes

    def to(self, device: str | torch.device) -> Ensemble:
        """Move the members to a device."""
        for network in self.networks:
            network.to(device)
        return self

    def forward_of(self, member: int, device: torch.device) -> nn.Module:
        return self.networks[member].to(device)

    @torch.inference_mode()
    def predict(self, x: ArrayLike | Tensor, batch_size: int = 512) -> Prediction:
        """Predict samples `[N, *shape]` as they are stored in the training data: not normalised, uint8 or float.

        Raises:
            BadInput: the samples have another shape or unit than the training data, or are not finite.
        """
        if isinstance(x, Tensor):
            x = (x.float() if x.is_floating_point() else x).detach().cpu()
        samples = torch.from_numpy(fitting_samples(np.asarray(x), self.outline, "x"))
        device = next(self.networks[0].parameters()).device
        parts = [part.to(device) for part in samples.split(batch_size)]
        logits = [torch.cat([network(part).cpu() for part in parts]).double() for network in self.networks]
        log_probs = torch.log_softmax(torch.stack(logits), -1)
        probs = log_probs.exp()
        return Prediction(torch.from_numpy(mean_over_members(probs.numpy(), self.weights)), probs, log_probs)


@dataclass(frozen=True)
class StoredEnsemble:
    """An ensemble on disk, whose members are read one by one.

    Args:
        folder: holds `ensemble.json` and the members' weights.
        spec: the content of `ensemble.json`.
    """

    folder: Path
    spec: dict[str, Any]

    def __len__(self) -> int:
        return len(self.spec["members"])

    @property
    def classes(self) -> int:
        """Of the training data."""
        return self.outline.classes

    @property
    def outline(self) -> Outline:
        """Of the training data."""
        return Outline(tuple(self.spec["shape"]), int(self.spec["classes"]), self.spec["uint8"])

    @property
    def weights(self) -> NDArray[np.float64] | None:
        """How much each member counts `[members]`, adding up to 1; None where all count equally. Raises `BadInput`."""
        given = [member.get("weight", 1.0) for member in self.spec["members"]]
        return normalised(given, len(given), f"run: {self.folder / 'ensemble.json'}: weight")

    def network(self, member: int) -> nn.Module:
        """A member on the host, evaluating, in the type that its weights are stored in. Raises `BadInput`."""
        spec, entry = self.spec, self.spec["members"][member]
        statistics = tuple(spec["mean"]), tuple(spec["std"]), spec["uint8"]
        try:
            with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and replaced
                architecture = architecture_from_spec(entry["architecture"])
                network = build_network(architecture, tuple(spec["shape"]), spec["classes"], *statistics)
        except (KeyError, TypeError, AttributeError) as error:  # arguments that the architecture does not take
            what = f"{entry['file']}: {type(error).__name__}: {first_line(error)}"
            raise BadInput(f"run: {self.folder / 'ensemble.json'} describes no network ({what})") from error
        path = self.folder / entry["file"]
        try:
            state = safetensors.torch.load_file(path)
            network.to(state["normalise.mean"].dtype).load_state_dict(state)
        except (OSError, RuntimeError, KeyError, SafetensorError) as error:
            raise BadInput(f"run: {path} does not hold the member's weights ({first_line(error)})") from error
        return network.eval()

    def check(self) -> None:
        """Raise `BadInput` where fields are missing, or are of another kind than they must be."""
        wrong = [name for name, kind in FIELDS.items() if not isinstance(self.spec.get(name), kind)]
        if not wrong:
            wrong = [f"members.{number}" for number, entry in enumerate(self.spec["members"]) if not _is_entry(entry)]
        if wrong or not self.spec["members"]:
            what = ", ".join(wrong or ["members"])
            raise BadInput(f"run: {self.folder / 'ensemble.json'} is not complete: {what} missing or of another kind")
        _ = self.weights  # checked when they are read

    def networks(self) -> Iterator[nn.Module]:
        """All members, in order."""
        return map(self.network, range(len(self)))

    def forward_of(self, member: int, device: torch.device) -> nn.Module:
        return self.network(member).to(device)

    def write(self) -> None:
        """Write `ensemble.json`; do it last, for it says that the ensemble is complete."""
        write_atomically(self.folder / "ensemble.json", json.dumps(self.spec, indent=1))


def stored_ensemble(folder: str | Path) -> StoredEnsemble:
    """An exported ensemble: of a run folder, or of its `ensemble` folder.

    Raises:
        BadInput: the folder holds no complete ensemble.
    """
    path = Path(folder)
    path = path / "ensemble" if (path / "ensemble").is_dir() else path
    if not path.is_dir():
        raise BadInput(f"run: {folder} is no folder; it must be a finished run, or its ensemble folder")
    if not (path / "ensemble.json").is_file():
        raise BadInput(f"run: {folder} holds no exported ensemble (no ensemble.json); finish the run first")
    spec = read_json(path / "ensemble.json", "run")
    if not isinstance(spec, dict) or spec.get("format") not in READABLE:
        known = " or ".join(map(str, READABLE))
        raise BadInput(f"run: {path / 'ensemble.json'} is not an ensemble of format {known}, which this version reads")
    stored = StoredEnsemble(path, spec)
    stored.check()
    return stored


def load_ensemble(folder: str | Path, device: str | torch.device = "cpu") -> Ensemble:
    """Load an exported ensemble: a run folder, or its `ensemble` folder.

    Raises:
        BadInput: the folder holds no complete ensemble.
    """
    stored = stored_ensemble(folder)
    networks = [network.to(device) for network in stored.networks()]
    return Ensemble(networks, stored.outline, stored.spec.get("class_names"), stored.weights)


def _is_entry(entry: Any) -> bool:
    """Whether it describes a member: its file, and the class of its architecture."""
    if not isinstance(entry, dict) or not isinstance(entry.get("architecture"), dict):
        return False
    return isinstance(entry.get("file"), str) and isinstance(entry["architecture"].get("class_path"), str)


def architecture_from_spec(spec: dict[str, Any]) -> Architecture:
    """Rebuild an architecture from its class path and arguments.

    Raises:
        BadInput: the class cannot be found here, or is none.
    """
    try:
        found = class_named(Architecture, spec["class_path"])
    except LookupError as error:
        raise BadInput(f"model: {spec['class_path']} {error}") from error
    return found(**spec.get("init_args", {}))


def save_member(path: Path, network: nn.Module) -> None:
    """Write one member's weights (fp32 or fp64, batch-norm statistics included) as safetensors."""
    # Parameters that DeepSpeed has flattened share one storage, which the format refuses: hence the copies.
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(path) as temporary:
        try:
            safetensors.torch.save_file(state, temporary)
        except SafetensorError as error:
            raise RunFailed(f"{path} cannot be written: {error}") from error


def save_spec(path: Path, members: list[dict[str, Any]], **data: Any) -> None:
    """Write `ensemble.json`, last: it says that the ensemble is complete.

    Args:
        path: the folder of the members' weights.
        members: for each its `file`, its `architecture` and, if you like, its `weight`: a number > 0, 1 by default.
        data: what they were trained on: `shape classes class_names mean std uint8`; `data`, see `DataFacts.as_json`.
    """
    StoredEnsemble(path, {"format": FORMAT, "members": members, **data}).write()
