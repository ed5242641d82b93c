"""The finished ensemble: names and numbers on disk, and `load_ensemble(folder).predict(x)`."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dist_dash.data.data_facts import Outline
from dist_dash.data.fitting import fitting_samples
from dist_dash.ensembles.described import DescribedEnsemble
from dist_dash.errors import BadInput, RunFailed, first_line
from dist_dash.files import SEAL, digest_of, read_json, read_sealed, replacing, write_json
from dist_dash.metrics.mixture import mean_over_members, normalised
from dist_dash.models import Architecture
from dist_dash.models.network import build_network
from dist_dash.models.weights import uncompiled
from dist_dash.recipe.components import check_code, made
from dist_dash.recipe.typed import typed

FORMAT = 2
READABLE = (1, 2)
"""Formats of `ensemble.json` that this version reads; in format 1 all members count equally."""
SPARE = 1 << 24
"""Numbers that a network may make besides those that are loaded, such as tables that are thrown away."""


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
        allow_code: classes and callables outside this project that its networks may be made of.
    """

    folder: Path
    spec: dict[str, Any]
    allow_code: Collection[str] = ()

    def __len__(self) -> int:
        return len(self.spec["members"])

    @property
    def classes(self) -> int:
        """Of the training data."""
        return self.outline.classes

    @property
    def outline(self) -> Outline:
        """Of the training data."""
        values = self.spec.get("values")
        known = None if values is None else (values[0], values[1])
        return Outline(tuple(self.spec["shape"]), int(self.spec["classes"]), self.spec["uint8"], known)

    @property
    def class_names(self) -> list[str] | None:
        """Of the training data, where these have them."""
        names = self.spec.get("class_names")
        return names if isinstance(names, list) else None

    @property
    def data(self) -> dict[str, Any] | None:
        """What is kept of the training data, see `DataFacts.as_json`; None in ensembles of versions without."""
        return trained_on(self.spec)

    @property
    def weights(self) -> NDArray[np.float64] | None:
        """How much each member counts `[members]`, adding up to 1; None where all count equally. Raises `BadInput`."""
        given = [member.get("weight", 1.0) for member in self.spec["members"]]
        return normalised(given, len(given), f"run: {self.folder / 'ensemble.json'}: weight")

    @cached_property
    def described(self) -> DescribedEnsemble:
        """The same, its types and ranges checked. Raises `BadInput`."""
        path = self.folder / "ensemble.json"
        try:
            found = typed(self.spec, DescribedEnsemble, "its content")
        except BadInput as error:
            raise BadInput(f"run: {path}: {error}") from error
        return found

    @property
    def code(self) -> list[str]:
        """What its networks need of others' code. Raises `BadInput` where that is not allowed."""
        named = [member.architecture.code(Architecture) for member in self.described.members]
        check_code(named, self.allow_code, self.folder / "ensemble.json")
        return [code for code in named if code is not None]

    def network(self, member: int) -> nn.Module:
        """A member on the host, evaluating, in the type that its weights are stored in. Raises `BadInput`."""
        described, foreign = self.described, self.code
        entry = described.members[member]
        path = self.folder / entry.file
        try:
            if path.resolve().parent != self.folder.resolve() or not path.is_file():
                raise BadInput(f"run: {path} does not hold the member's weights (no file of this folder)")
            if entry.blake2b and digest_of(path) != entry.blake2b:
                raise BadInput(f"run: {path} has changed since it was written; its checksum is another one")
            state = safetensors.torch.load_file(path)
        except BadInput:
            raise
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise BadInput(f"run: {path} does not hold the member's weights ({first_line(error)})") from error
        statistics = described.mean, described.std, described.uint8
        numbers = sum(tensor.numel() for tensor in state.values())
        try:
            # Initial weights are drawn, and replaced.
            with torch.random.fork_rng(devices=[]), Bounded(SPARE + 16 * numbers):
                architecture = made(entry.architecture, Architecture)
                network = build_network(architecture, described.shape, described.classes, *statistics)
        except Exception as error:  # arguments that the architecture does not take, or code of the user's own
            if not isinstance(error, BadInput) and foreign:
                raise  # its traceback is what the user needs
            what = f"members[{member}].architecture: {first_line(error)}"
            raise BadInput(f"run: {self.folder / 'ensemble.json'} describes no network ({what})") from error
        try:
            named = {uncompiled(name): name for name in network.state_dict()}
            state = {named.get(uncompiled(name), name): tensor for name, tensor in state.items()}
            network.to(_type_of(state, network)).load_state_dict(state)
        except (RuntimeError, KeyError, TypeError) as error:
            raise BadInput(f"run: {path} does not hold the member's weights ({first_line(error)})") from error
        return network.eval()

    def networks(self) -> Iterator[nn.Module]:
        """All members, in order."""
        return map(self.network, range(len(self)))

    def forward_of(self, member: int, device: torch.device) -> nn.Module:
        return self.network(member).to(device)

    def write(self) -> None:
        """Write `ensemble.json`; do it last, for it says that the ensemble is complete."""
        write_json(self.folder / "ensemble.json", self.spec)


def trained_on(spec: dict[str, Any]) -> dict[str, Any] | None:
    """What the content of an `ensemble.json` says of the training data; None where it does not have their digest."""
    known = spec.get("data")
    return known if isinstance(known, dict) and "digest" in known else None


class Bounded(TorchDispatchMode):
    """New tensors may not have more than so many numbers, all together: a network is hardly larger than its weights."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.left = numbers

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Before they are made: memory that is written to, as zeros are, cannot be had back in time.
        if args and isinstance(args[0], list | tuple) and all(isinstance(size, int) for size in args[0]):
            self.left -= max(4096, math.prod(args[0]))  # nor may there be any number of small ones
            if self.left < 0:
                raise BadInput("it is much larger than the member's weights")
        return func(*args, **(kwargs or {}))


def _type_of(state: dict[str, Tensor], network: nn.Module) -> torch.dtype:
    """The type of all that is no whole number in a member's weights."""
    kinds = {state[name].dtype for name, own in network.state_dict().items() if own.is_floating_point()}
    if len(kinds) != 1 or not kinds <= {torch.float32, torch.float64}:
        raise TypeError(f"float32 or float64 throughout, not {', '.join(sorted(map(str, kinds)))}")
    return kinds.pop()


def stored_ensemble(folder: str | Path, allow_code: Collection[str] = ()) -> StoredEnsemble:
    """An exported ensemble: of a run folder, or of its `ensemble` folder.

    Args:
        folder: of the run, or the one with `ensemble.json`.
        allow_code: see `load_ensemble`.

    Raises:
        BadInput: the folder holds no complete ensemble.
    """
    path = Path(folder)
    path = path / "ensemble" if (path / "ensemble").is_dir() else path
    if not path.is_dir():
        raise BadInput(f"run: {folder} is no folder; it must be a finished run, or its ensemble folder")
    if not (path / "ensemble.json").is_file():
        raise BadInput(f"run: {folder} holds no exported ensemble (no ensemble.json); finish the run first")
    spec, _ = read_sealed(path / "ensemble.json", "run")
    if not isinstance(spec, dict) or spec.get("format") not in READABLE:
        known = " or ".join(map(str, READABLE))
        raise BadInput(f"run: {path / 'ensemble.json'} is not an ensemble of format {known}, which this version reads")
    stored = StoredEnsemble(path, spec, allow_code)
    if not stored.code:  # whoever allows code vouches for the file that names it
        read_json(path / "ensemble.json", "run")
    return stored


def load_ensemble(folder: str | Path, device: str | torch.device = "cpu", allow_code: Collection[str] = ()) -> Ensemble:
    """Load an exported ensemble: a run folder, or its `ensemble` folder.

    Args:
        folder: of the run, or the one with `ensemble.json`.
        device: where the members are put.
        allow_code: classes and callables outside this project that may be imported, as `ensemble.json` names them:
            `module.Class` or `module:callable`. Nothing else of what it names is run.

    Raises:
        BadInput: the folder holds no complete ensemble, or names code that is not allowed.
    """
    stored = stored_ensemble(folder, allow_code)
    networks = [network.to(device) for network in stored.networks()]
    return Ensemble(networks, stored.outline, stored.spec.get("class_names"), stored.weights)


def save_member(path: Path, network: nn.Module) -> str:
    """Write one member's weights (fp32 or fp64, batch-norm statistics included) as safetensors; gives the checksum."""
    # Parameters that DeepSpeed has flattened share one storage, which the format refuses: hence the copies.
    named = {uncompiled(name): tensor for name, tensor in network.state_dict().items()}
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in named.items()}
    with replacing(path) as temporary:
        try:
            safetensors.torch.save_file(state, temporary)
        except SafetensorError as error:
            raise RunFailed(f"{path} cannot be written: {error}") from error
        return digest_of(temporary)


def save_spec(path: Path, members: list[dict[str, Any]], **data: Any) -> None:
    """Write `ensemble.json`, last: it says that the ensemble is complete.

    Args:
        path: the folder of the members' weights.
        members: for each its `file`, its `architecture` and, if you like, its `weight`, a number > 0, 1 by default; the
            checksums of the files are added.
        data: what they were trained on: `shape classes class_names mean std uint8`; their range, `values`; `data`, see
                `DataFacts.as_json`.
    """
    sealed = [{**member, SEAL: digest_of(path / member["file"])} for member in members]
    StoredEnsemble(path, {"format": FORMAT, "members": sealed, **data}).write()
