"""A run in words: what was trained, how, on what; and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dist_dash.comparison.metrics import finite, number
from dist_dash.comparison.settings import text, texts
from dist_dash.ensembles.finished import FinishedRun

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def what_was_trained(run: FinishedRun) -> list[str]:
    """The summary, in sentences."""
    recipe, environment = run.recipe, run.environment
    return [
        sentence for sentence in (_trained(recipe, environment), _labels(recipe), _made_with(environment)) if sentence
    ]


def _trained(recipe: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    members = recipe.get("members") or (environment.get("layout") or {}).get("members") or 1
    counted = NUMBERS[members] if isinstance(members, int) and members < len(NUMBERS) else text(members)
    models = recipe.get("models")
    nets = "; ".join(map(component, models)) if isinstance(models, list) and models else component(recipe.get("model"))
    steps, loader = environment.get("total_steps"), recipe.get("loader") or {}
    replicas = (environment.get("layout") or {}).get("replicas") or 1
    batch = f"{text(loader.get('batch_size'))} samples"
    batch += f" × {text(loader['accumulation'])} micro-batches" if loader.get("accumulation", 1) != 1 else ""
    batch += f" on each of {replicas} replicas" if replicas != 1 else ""
    updates = f", {steps} updates of {batch} a member" if steps else ""
    return (
        f"An ensemble of {counted} member{'s' * (members != 1)}, {nets}, trained by {component(recipe.get('method'))} "
        f"with the optimizer {component(recipe.get('optimizer'), zeros=False)} on the data "
        f"{component(recipe.get('data'))} for {text(recipe.get('epochs'))} epochs{updates}; seed "
        f"{text(recipe.get('seed'))}."
    )


def _labels(recipe: Mapping[str, Any]) -> str:
    labels = recipe.get("labels") or {}
    noise = finite(labels.get("noise")) or 0.0
    told = [
        f"{100 * noise:g} % of the training labels were replaced by wrong ones; labels that scores are taken on are "
        "clean"
        if noise
        else "No label noise was added"
    ]
    held_out = finite(labels.get("validation")) or 0.0
    told += [f"{100 * held_out:g} % of the training split was held out for validation"] if held_out else []
    told += [f"{name} {labels[name]}" for name in ("smoothing", "mixup") if finite(labels.get(name))]
    return "; ".join(told) + "."


def _made_with(environment: Mapping[str, Any]) -> str:
    layout, packages = environment.get("layout") or {}, environment.get("packages") or {}
    commit = environment.get("commit") or {}
    processes = layout.get("world")
    where = f"Trained on {environment.get('device') or 'an unknown device'}"
    if processes:
        threads = environment.get("threads")
        each = f" of {threads} thread{'s' * (threads != 1)}" if threads else ""
        where += f", {processes} process{'es' * (processes != 1)}{each}, {layout.get('backend')}"
    versions = [
        f"{name} {packages[name]}" for name in ("dist-dash", "torch", "deepspeed", "numpy") if packages.get(name)
    ]
    versions += [f"Python {environment['python']}"] if environment.get("python") else []
    versions += [f"CUDA {environment['cuda']}"] if environment.get("cuda") else []
    changed = " with uncommitted changes" if commit.get("changed") else ""
    source = f", commit {str(commit.get('hash'))[:12]}{changed}" if commit.get("hash") else ", commit unknown"
    return f"{where}; {', '.join(versions)}{source}."


def component(given: Any, zeros: bool = True) -> str:
    """A class and its choices: `DASH (rho_loss 0.1, rho_div 0.3)`; null, false and (unless `zeros`) 0 are unsaid."""
    if not isinstance(given, Mapping):
        return text(given)
    path = str(given.get("class_path", ""))
    unsaid = {"null", "false", "{}", *([] if zeros else ["0"])}
    chosen = {name: value for name, value in texts(given).items() if name != "class_path" and value not in unsaid}
    told = ", ".join(f"{name} {value}" for name, value in chosen.items())
    return path.rpartition(".")[2] + (f" ({told})" if told else "")


def what_came_of_it(run: FinishedRun) -> list[str]:
    """The figures that matter most, in sentences that claim no more than one run shows."""
    evaluation = run.evaluation
    ensemble, mean, members = evaluation["ensemble"], evaluation["member_mean"], evaluation["members"]
    found = [_accuracy(ensemble, mean, members), _nll(ensemble, mean, len(members)), _calibration(ensemble)]
    if len(members) > 1:
        found.append(_difference(evaluation.get("diversity") or {}))
    seed = "This is one run with one seed: how far its scores are due to chance cannot be told from it. "
    found.append(seed + "`dist-dash compare` and `dist-dash report FOLDER` compare runs of several seeds and methods.")
    return [sentence for sentence in found if sentence]


def _accuracy(ensemble: Mapping[str, Any], mean: Mapping[str, Any], members: Sequence[Mapping[str, Any]]) -> str:
    told = _told("accuracy", ensemble)
    if len(members) == 1 or not told:
        return f"Accuracy {told} %." if told else ""
    own = [value for member in members if (value := finite(member.get("accuracy"))) is not None]
    ends = f", {number('ensemble.accuracy', min(own))} to {number('ensemble.accuracy', max(own))} %" if own else ""
    return f"Accuracy of the ensemble {told} %; its members reach {_told('accuracy', mean)} % on average{ends}."


def _nll(ensemble: Mapping[str, Any], mean: Mapping[str, Any], members: int) -> str:
    told = _told("nll", ensemble)
    if not told:
        return ""
    of = "NLL of the ensemble" if members > 1 else "NLL"
    beside = f"; members on average {_told('nll', mean)}" if members > 1 else ""
    scaled, temperature = _told("cal_nll", ensemble), finite(ensemble.get("temperature"))
    after = f", after temperature scaling {scaled}" if scaled else ""
    after += f" (temperature {temperature:.2f})" if scaled and temperature is not None else ""
    return f"{of} {told}{after}{beside}."


def _calibration(ensemble: Mapping[str, Any]) -> str:
    before, after = _told("ece", ensemble), _told("cal_ece", ensemble)
    if not before:
        return ""
    return f"Expected calibration error {before}" + (f", after temperature scaling {after}." if after else ".")


def _difference(diversity: Mapping[str, Any]) -> str:
    share, gain = finite(diversity.get("disagreement")), finite(diversity.get("ambiguity"))
    correlation = finite(diversity.get("error_correlation"))
    if share is None:
        return ""
    told = f"Two members choose different classes on {100 * share:.2f} % of the samples, mean over pairs"
    told += f"; their errors correlate by {correlation:.2f}" if correlation is not None else ""
    told += (
        f"; averaging lowers the NLL by {gain:.4f} against the members' mean" if gain is not None and gain > 0 else ""
    )
    return told + "."


def _told(name: str, scores: Mapping[str, Any]) -> str:
    value = finite(scores.get(name))
    return "" if value is None else number(f"ensemble.{name}", value)
