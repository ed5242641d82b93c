"""Runs and comparisons in words: what was trained or compared, what came of it, what it cannot show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dist_dash.comparison.grouping import Comparison
from dist_dash.comparison.metric_names import finite, number
from dist_dash.comparison.section import Section
from dist_dash.comparison.settings import text, texts
from dist_dash.comparison.verdict import verdict
from dist_dash.ensembles.finished import FinishedRun

MEANINGS = {
    "accuracy": "share of samples whose most probable class is the label",
    "top5": "share of samples whose label is among the five most probable classes",
    "aac": "accuracy on the most confident samples, averaged over all coverages",
    "nll": "negative log-likelihood of the labels, nats per sample; a probability of 0 counts as the smallest number",
    "brier": "squared distance between probabilities and the label, 0 to 2",
    "ece": "expected calibration error, 15 bins of equal width",
    "ece_mass": "expected calibration error, 15 bins of equally many samples",
    "temperature": "mean of the fitted temperatures; above 1: the predictions were overconfident",
    "clipped": "samples whose label got a probability of exactly 0",
}
DIFFERENCES = {
    "disagreement": "share of samples on which two members choose different classes",
    "kl": "KL divergence between two members' predictions, nats",
    "error_correlation": "correlation of two members' errors; 1: they err on the same samples",
    "weight_cosine": "cosine between two members' weights; 1: the same direction",
    "ambiguity": "mean NLL of the members − NLL of the ensemble: what averaging gains, nats",
    "ambiguity_brier": "mean Brier score of the members − that of the ensemble",
    "mutual_information": "what the members know about the class beyond their mean (epistemic uncertainty), nats",
}
CALIBRATED = (
    "the same after temperature scaling, the temperature fitted on one random half of the samples and the score taken "
    "on the other, both ways, averaged over 5 random splits"
)
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
MOST_GROUPS = 3  # with more, the sentences about baselines are folded: the table above them says the same


# -- a run -------------------------------------------------------------------------------------------------------------


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
    words = [
        f"{100 * noise:g} % of the training labels were replaced by wrong ones; labels that scores are taken on are "
        "clean"
        if noise
        else "No label noise was added"
    ]
    held_out = finite(labels.get("validation")) or 0.0
    words += [f"{100 * held_out:g} % of the training split was held out for validation"] if held_out else []
    words += [f"{name} {labels[name]}" for name in ("smoothing", "mixup") if finite(labels.get(name))]
    return "; ".join(words) + "."


def _made_with(environment: Mapping[str, Any]) -> str:
    layout, packages = environment.get("layout") or {}, environment.get("packages") or {}
    commit = environment.get("commit") or {}
    processes = layout.get("world")
    where = f"Trained on {environment.get('device') or 'an unknown device'}"
    if processes:
        threads = environment.get("threads")
        each = f" of {threads} thread{'s' * (threads != 1)}" if threads else ""
        several = f" with {per_rank} members each" if (per_rank := layout.get("members_per_rank") or 1) != 1 else ""
        where += f", {processes} process{'es' * (processes != 1)}{each}{several}, {layout.get('backend')}"
    versions = [
        f"{name} {packages[name]}" for name in ("dist-dash", "torch", "deepspeed", "numpy") if packages.get(name)
    ]
    versions += [f"Python {environment['python']}"] if environment.get("python") else []
    versions += [f"CUDA {environment['cuda']}"] if environment.get("cuda") else []
    changed = " with uncommitted changes" if commit.get("changed") else ""
    source = f", commit {str(commit.get('hash'))[:12]}{changed}" if commit.get("hash") else ", commit unknown"
    return f"{where}; {', '.join(versions)}{source}."


def component(given: Any, zeros: bool = True) -> str:
    """A class and its choices: `DASH (rho_loss 0.1, rho_div 0.3)`; null, false and (unless `zeros`) 0 are left out."""
    if not isinstance(given, Mapping):
        return text(given)
    path = str(given.get("class_path", ""))
    unsaid = {"null", "false", "{}", *([] if zeros else ["0"])}
    chosen = {name: value for name, value in texts(given).items() if name != "class_path" and value not in unsaid}
    words = ", ".join(f"{name} {value}" for name, value in chosen.items())
    return path.rpartition(".")[2] + (f" ({words})" if words else "")


def what_came_of_it(run: FinishedRun) -> list[str]:
    """The figures that matter most, in sentences that claim no more than one run shows."""
    evaluation = run.evaluation
    ensemble, mean, members = evaluation["ensemble"], evaluation["member_mean"], evaluation["members"]
    found = [_accuracy(ensemble, mean, members), _nll(ensemble, mean, len(members)), _calibration(ensemble)]
    if len(members) > 1:
        found.append(_difference(evaluation.get("diversity") or {}))
    seed = "This is one run with one seed: it cannot show how far its scores are due to chance. "
    found.append(seed + "`dist-dash compare` and `dist-dash report FOLDER` compare runs of several seeds and methods.")
    return [sentence for sentence in found if sentence]


def _accuracy(ensemble: Mapping[str, Any], mean: Mapping[str, Any], members: Sequence[Mapping[str, Any]]) -> str:
    words = _value("accuracy", ensemble)
    if len(members) == 1 or not words:
        return f"Accuracy {words} %." if words else ""
    own = [value for member in members if (value := finite(member.get("accuracy"))) is not None]
    ends = f", {number('ensemble.accuracy', min(own))} to {number('ensemble.accuracy', max(own))} %" if own else ""
    return f"Accuracy of the ensemble {words} %; its members reach {_value('accuracy', mean)} % on average{ends}."


def _nll(ensemble: Mapping[str, Any], mean: Mapping[str, Any], members: int) -> str:
    words = _value("nll", ensemble)
    if not words:
        return ""
    of = "NLL of the ensemble" if members > 1 else "NLL"
    beside = f"; members on average {_value('nll', mean)}" if members > 1 else ""
    scaled, temperature = _value("cal_nll", ensemble), finite(ensemble.get("temperature"))
    after = f", after temperature scaling {scaled}" if scaled else ""
    after += f" (temperature {temperature:.2f})" if scaled and temperature is not None else ""
    return f"{of} {words}{after}{beside}."


def _calibration(ensemble: Mapping[str, Any]) -> str:
    before, after = _value("ece", ensemble), _value("cal_ece", ensemble)
    if not before:
        return ""
    return f"Expected calibration error {before}" + (f", after temperature scaling {after}." if after else ".")


def _difference(diversity: Mapping[str, Any]) -> str:
    share, gain = finite(diversity.get("disagreement")), finite(diversity.get("ambiguity"))
    correlation = finite(diversity.get("error_correlation"))
    if share is None:
        return ""
    words = f"Two members choose different classes on {100 * share:.2f} % of the samples, mean over pairs"
    words += f"; their errors correlate by {correlation:.2f}" if correlation is not None else ""
    words += (
        f"; averaging lowers the NLL by {gain:.4f} against the members' mean" if gain is not None and gain > 0 else ""
    )
    return words + "."


def _value(name: str, scores: Mapping[str, Any]) -> str:
    value = finite(scores.get(name))
    return "" if value is None else number(f"ensemble.{name}", value)


# -- a comparison ------------------------------------------------------------------------------------------------------


def about(comparison: Comparison) -> str:
    """What was compared, in a few sentences."""
    sections = comparison.sections
    runs = [run for section in sections for group in section.groups for run in group.runs]
    names = dict.fromkeys(group.name for section in sections for group in section.groups)
    seeds = sorted({run.seed for run in runs})
    conditions = f" under {len(sections)} conditions" if len(sections) > 1 else ""
    samples = f", {runs[0].samples} samples" if runs[0].samples else ""
    return (
        f"{_count(len(runs), 'run')} of {_count(len(names), 'group')}{conditions}, seed{'s' * (len(seeds) != 1)} "
        f"{', '.join(map(str, seeds))}. All scores are of the {runs[0].split} split{samples}. Better and worse are "
        "said only where the 95 % interval of the differences, paired by seed, excludes 0."
    )


def sentences(section: Section) -> tuple[list[str], list[str]]:
    """The verdict in two parts: what is shown, and what is folded (many groups against each baseline)."""
    found = verdict(section)
    if len(section.groups) <= MOST_GROUPS:
        return found, []
    folded = [one for one in found if any(f" against {baseline}: " in one for baseline in section.baselines)]
    return [one for one in found if one not in folded], folded


def glossary(comparison: Comparison) -> dict[str, str]:
    """What the names of the columns mean, of those that there are."""
    metrics = {metric for section in comparison.sections for metric in section.metrics}
    figures = {metric.partition(".")[2] for metric in metrics}
    found = {name: meaning for name, meaning in {**MEANINGS, **DIFFERENCES}.items() if name in figures}
    if any(figure.startswith("cal_") for figure in figures):
        found["cal_…"] = CALIBRATED
    found["equivalent"] = "members that a plain deep ensemble needs for the same NLL (after scaling where it is known)"
    return found


def limits(comparison: Comparison) -> list[str]:
    """Limits that hold for every comparison."""
    counts = sorted({len(group.runs) for section in comparison.sections for group in section.groups})
    seeds = f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else _count(counts[0], "seed")
    return [
        f"Each group has {seeds}: intervals over so few are wide and rest on assumptions.",
        "Seeds change the training (initial weights, order, augmentation, label noise where there is some), not the "
        "samples that scores are taken on: the intervals tell nothing about other data.",
        "Every interval holds for itself: of twenty comparisons that differ in nothing, one will look like a "
        "difference.",
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
