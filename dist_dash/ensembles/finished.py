"""A finished run, read back: its choices, record, predictions, members and data. Nothing here writes."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from dist_dash.data import Augment, Source
from dist_dash.data.dataset import DataSet
from dist_dash.ensembles.ensemble import Ensemble, StoredEnsemble, load_ensemble, stored_ensemble, trained_on
from dist_dash.ensembles.trained_data import Tell, as_trained
from dist_dash.errors import BadInput
from dist_dash.files import read_json, read_object
from dist_dash.metrics.predictions import Predictions, load_predictions
from dist_dash.recipe.components import Component, check_code, made
from dist_dash.recipe.recipe import Labels
from dist_dash.recipe.recipe_of_run import recipe_of
from dist_dash.recipe.typed import typed
from dist_dash.runs.folder import RunFolder

T = TypeVar("T")


class FinishedRun:
    """What a run left behind; each part is read when it is first asked for.

    The folder may be somebody else's. Of what it names, only data and networks are made again, and code outside this
    project is imported for them only where it is allowed; nothing imports the recipe's method, optimizer or engine.

    Args:
        path: the run's folder.
        allow_code: classes and callables outside this project, as the folder's files name them.

    Raises:
        BadInput: it is no run folder, or the run is not finished.
    """

    def __init__(self, path: str | Path, allow_code: Collection[str] = ()) -> None:
        self.folder, self.allow_code = RunFolder(path), allow_code
        self.path = self.folder.path
        self._data: DataSet | None = None
        if not self.path.is_dir():
            raise BadInput(f"run: {self.path} is no folder; it must be a finished run")
        if not self.folder.recipe.is_file():
            raise BadInput(f"run: {self.path} has no recipe.yaml; it must be a run folder")
        if not (self.folder.ensemble / "ensemble.json").is_file():
            raise BadInput(f"run: {self.path} holds no exported ensemble (no ensemble.json); finish the run first")

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """Every choice as names and numbers: `recipe.yaml`."""
        return recipe_of(self.folder)

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
        """The lines of one kind in `metrics.jsonl`, in order. Raises `BadInput`."""
        return [line for line in self.folder.lines() if line["kind"] == kind]

    @cached_property
    def stored(self) -> StoredEnsemble:
        """The trained members, read one by one."""
        return stored_ensemble(self.path, self.allow_code)

    @cached_property
    def trained_on(self) -> dict[str, Any] | None:
        """What is known of the training data, see `DataFacts.as_json`; None in runs of versions that kept nothing."""
        return trained_on(read_object(self.folder.ensemble / "ensemble.json"))

    def ensemble(self) -> Ensemble:
        """The trained members, on the host."""
        return load_ensemble(self.path, allow_code=self.allow_code)

    def data(self, tell: Tell | None = None) -> DataSet:
        """The data as the run saw them: splits, noisy training labels.

        Args:
            tell: takes, at the first reading, what cannot be compared with the data trained on, and what is left out.

        Raises:
            BadInput: they cannot be read, are other data than the run was trained on, or the recipe's fields are not
                those of this version.
        """
        if self._data is None:
            labels, augment = self.group("labels", Labels), self.group("augment", Augment)
            source, seed = self.group("data", Component), self._read("seed", int, 0)
            check_code([source.code(Source)], self.allow_code, self.folder.recipe)
            try:
                made_of = made(source, Source)
            except BadInput as error:
                raise BadInput(f"run: {self.folder.recipe}: data: {error}") from error
            splits = as_trained(made_of.load(), self.stored, tell)
            self._data = DataSet(splits, augment, seed=seed, label_noise=labels.noise, validation=labels.validation)
        return self._data

    def group(self, name: str, kind: type[T]) -> T:
        """A group of fields of the recipe, such as `loader`, as the class that checks them. Raises `BadInput`."""
        return self._read(name, kind, {})

    def _read(self, name: str, kind: type[T], default: Any) -> T:
        try:
            return typed(self.recipe.get(name, default), kind, name)
        except BadInput as error:
            raise BadInput(f"run: {self.folder.recipe}: {name}: {str(error).removeprefix(f'{name}: ')}") from error
