"""The finished ensemble: names and numbers on disk, and `load_ensemble(folder).predict(x)`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from numpy.typing import ArrayLike
from safetensors import SafetensorError
from torch import Tensor, nn

from dist_dash.errors import BadInput, RunFailed
from dist_dash.files import read_json, replacing, write_atomically
from dist_dash.models import Architecture
from dist_dash.models.network import build_network
from dist_dash.recipe.classes import class_named

FORMAT = 1


class Prediction(NamedTuple):
    """What an ensemble says of `N` samples.

    Args:
        probs: mean of the members' softmaxes `[N, C]`.
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
        shape: of one sample.
        classes: how many.
        class_names: their names where the data had them.
    """

    def __init__(
        self, networks: Sequence[nn.Module], shape: tuple[int, ...], classes: int, class_names: list[str] | None = None
    ) -> None:
        self.networks = [network.eval() for network in networks]
        self.shape, self.classes, self.class_names = shape, classes, class_names

    def __len__(self) -> int:
        return len(self.networks)

    def to(self, device: str | torch.device) -> Ensemble:
        """Move the members to a device."""
        for network in self.networks:
            network.to(device)
        return self

    @torch.inference_mode()
    def predict(self, x: ArrayLike | Tensor, batch_size: int = 512) -> Prediction:
        """Predict samples `[N, *shape]` as they are stored in the training data: not normalised, uint8 or float.

        Raises:
            BadInput: the samples have another shape than the training data.
        """
        samples = x if isinstance(x, Tensor) else torch.from_numpy(np.asarray(x))
        if tuple(samples.shape[1:]) != self.shape or not len(samples):
            expected = ", ".join(map(str, self.shape))
            raise BadInput(f"x: shape {tuple(samples.shape)} is not allowed; it must be [N, {expected}] with N ≥ 1")
        device = next(self.networks[0].parameters()).device
        parts = [part.to(device) for part in samples.split(batch_size)]
        logits = [torch.cat([network(part).cpu() for part in parts]) for network in self.networks]
        log_probs = torch.log_softmax(torch.stack(logits).double(), -1)
        probs = log_probs.exp()
        return Prediction(probs.mean(0), probs, log_probs)


def load_ensemble(folder: str | Path, device: str | torch.device = "cpu") -> Ensemble:
    """Load an exported ensemble: a run folder, or its `ensemble` folder.

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
    if not isinstance(spec, dict) or spec.get("format") != FORMAT:
        raise BadInput(f"run: {path / 'ensemble.json'} is not an ensemble of format {FORMAT}, which this version reads")
    try:
        networks = [_load_member(path, member, spec).to(device) for member in spec["members"]]
        return Ensemble(networks, tuple(spec["shape"]), spec["classes"], spec["class_names"])
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"run: {path / 'ensemble.json'} is not complete ({type(error).__name__}: {error})") from error


def _load_member(path: Path, member: dict[str, Any], spec: dict[str, Any]) -> nn.Module:
    statistics = tuple(spec["mean"]), tuple(spec["std"]), spec["uint8"]
    architecture = architecture_from_spec(member["architecture"])
    network = build_network(architecture, tuple(spec["shape"]), spec["classes"], *statistics)
    try:
        network.load_state_dict(safetensors.torch.load_file(path / member["file"]))
    except (OSError, RuntimeError, SafetensorError) as error:
        problem = str(error).splitlines()[0]
        raise BadInput(f"run: {path / member['file']} does not hold the member's weights ({problem})") from error
    return network


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
    """Write `ensemble.json`, last: it says that the ensemble is complete."""
    write_atomically(path / "ensemble.json", json.dumps({"format": FORMAT, "members": members, **data}, indent=1))
