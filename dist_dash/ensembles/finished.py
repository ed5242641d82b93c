"""A finished run, read back: its choices, record, predictions, members and data. Nothing here writes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml

from dist_dash.data import Augment
from dist_dash.data.dataset import DataSet
from dist_dash.ensembles.ensemble import Ensemble, StoredEnsemble, load_ensemble, stored_ensemble
from dist_dash.errors import BadInput
from dist_dash.files import load_yaml, parse_object, read_json
from dist_dash.metrics.predictions import Predictions, load_predictions
from dist_dash.recipe.data_argument import source_of
from dist_dash.recipe.parsing import Command, parse_command
from dist_dash.recipe.recipe import Labels
from dist_dash.runs.folder import RunFolder

T = TypeVar("T")


class FinishedRun:
    """What a run left behind; each part is read when it is first asked for.

    Args:
        path: the run's folder.

    Raises:
        BadInput: it is no run folder, or the run is not finished.
    """

    def __init__(self, path: str | Path) -> None:
        self.folder = RunFolder(path)
        self.path = self.folder.path
        if not self.path.is_dir():
            raise BadInput(f"run: {self.path} is no folder; it must be a finished run")
        if not self.folder.recipe.is_file():
            raise BadInput(f"run: {self.path} has no recipe.yaml; it must be a run folder")
        if not (self.folder.ensemble / "ensemble.json").is_file():
            raise BadInput(f"run: {self.path} holds no exported ensemble (no ensemble.json); finish the run first")

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """Every choice as names and numbers: `recipe.yaml`."""
        try:
            found = load_yaml(self.folder.recipe.read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise BadInput(f"run: {self.folder.recipe} cannot be read ({type(error).__name__})") from error
        if not isinstance(found, dict):
            raise BadInput(f"run: {self.folder.recipe} holds no fields; it must be a recipe")
        return found

    @cached_property
    def command(self) -> Command:
        """The same as objects."""
        return parse_command(["--config", str(self.folder.recipe)])

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, devices, layout: `environment.json`."""
        found = read_json(self.folder.environment, "run")
        if not isinstance(found, dict):
            raise BadInput(f"run: {self.folder.environment} holds no fields")
        return found

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """The scores of the test split: `evaluation.json`."""
        found = read_json(self.folder.evaluation, "run")
        if not isinstance(found, dict) or "ensemble" not in found:
            raise BadInput(
                f"run: {self.folder.evaluation} holds no scores; `dist-dash evaluate {self.path}` makes them"
            )
        return found

    def predictions(self) -> Predictions:
        """The members' predictions of the test split, and the weights that they count with. Raises `BadInput`."""
        return load_predictions(self.folder.predictions, "run")

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """The lines of one kind in `metrics.jsonl`, in order; torn ones are passed over."""
        try:
            text = self.folder.metrics.read_text()
        except OSError as error:
            raise BadInput(f"run: {self.folder.metrics} cannot be read ({error.strerror})") from error
        return [line for line in map(parse_object, text.splitlines()) if line.get("kind") == kind]

    @cached_property
    def stored(self) -> StoredEnsemble:
        """The trained members, read one by one."""
        return stored_ensemble(self.path)

    def ensemble(self) -> Ensemble:
        """The trained members, on the host."""
        return load_ensemble(self.path)

    def data(self) -> DataSet:
        """The data as the run saw them: splits, noisy training labels.

        Raises:
            BadInput: they cannot be read, or the recipe's fields are not those of this version.
        """
        # Not from `command`: building optimizer and method takes seconds.
        labels, augment = self.group("labels", Labels), self.group("augment", Augment)
        splits, seed = source_of(self.recipe.get("data") or {}).load(), self.recipe.get("seed", 0)
        return DataSet(splits, augment, seed=seed, label_noise=labels.noise, validation=labels.validation)

    def group(self, name: str, kind: Callable[..., T]) -> T:
        """A group of fields of the recipe, such as `loader`, as the class that checks them. Raises `BadInput`."""
        try:
            return kind(**self.recipe.get(name) or {})
        except TypeError as error:
            raise BadInput(f"run: {self.folder.recipe}: {name} does not fit this version ({error})") from error
