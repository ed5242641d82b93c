from pathlib import Path

import pytest
import torch
from complaints import complaint, names

from dist_dash.errors import BadInput
from dist_dash.member.optimizer import try_optimizer
from dist_dash.recipe.classes import known

SAMPLE = Path(__file__).parents[1] / "sample.yaml"
METHODS = ("DASH", "SAM", "SGD")

UNKNOWN = [
    ("epohcs", "3", "epochs"),
    ("nonsense", "3", "--print_config"),
    ("batch_size", "3", "loader.batch_size"),
    ("loader.batch_sizes", "3", "loader.batch_size"),
    ("loader.nonsense", "3", "accumulation"),
    ("method.rho_dv", "3", "method.rho_div"),
    ("method.nonsense", "3", "temperature"),
    ("optimizer.momntum", "3", "optimizer.momentum"),
    ("optimizer.nonsense", "3", "weight_decay"),
    ("model.widht", "3", "model.width"),
    ("data.nonsense", "3", "test_fraction"),
    ("engine.nonsense", "3", "precision"),
    ("engine.scaling.nonsense", "3", "hysteresis"),
    ("schedule.nonsense", "3", "floor"),
]


@pytest.mark.parametrize(("field", "value", "hint"), UNKNOWN)
def test_an_unknown_field_is_named_with_those_that_exist(field, value, hint):
    names(complaint(["--config", str(SAMPLE), f"--{field}", value]), field, "no such field", hint)


WRONG = [
    # types
    ("epochs", "three", "a whole number"),
    ("epochs", "1.5", "a whole number"),
    ("members", "x", "a whole number or null"),
    ("method.rho_div", "big", "a number"),
    ("method.rho_warmup", "x", "a whole number"),
    ("optimizer.lr", "x", "a number"),
    ("checkpoints.at_start", "maybe", "true or false"),
    ("deterministic", "3", "true or false"),
    ("models", "MLP", "a list or null"),
    ("labels", "3", "a group of fields"),
    ("replicas", "x", "a whole number"),
    # ranges
    ("epochs", "0", "≥ 1"),
    ("seed", "-1", "≥ 0"),
    ("members", "0", "null or a whole number ≥ 1"),
    ("max_steps", "0", "null or a whole number ≥ 1"),
    ("replicas", "0", "≥ 1"),
    ("loader.batch_size", "0", "≥ 1"),
    ("loader.workers", "-1", "≥ 0"),
    ("labels.noise", "1.0", "[0, 1)"),
    ("labels.mixup", "-1", "≥ 0"),
    ("method.rho_div", "-1", "≥ 0"),
    ("method.rho_div", ".nan", "finite"),
    ("method.gamma", "1.5", "[0, 1]"),
    ("method.temperature", "0", "> 0"),
    ("model.width", "0", "≥ 1"),
    ("schedule.floor", "2", "[0, 1]"),
    ("augment.pad_crop", "-1", "≥ 0"),
    ("checkpoints.keep", "0", "≥ 1"),
    ("record.every", "0", "≥ 1"),
    ("checks.deadline", "0", "> 0"),
    ("engine.clip", "-1", "≥ 0"),
    ("engine.bucket_mb", "0", "> 0"),
    ("epochs", "1" + "0" * 22, "of at most 64 bits"),
    ("epochs", "5000000000", "≤ 1000000000"),
    ("seed", "9" * 30, "of at most 64 bits"),
    ("loader.workers", "5000", "≤ 1000"),
    ("checks.deadline", "1e+300", "≤ 1000000000"),
    ("optimizer.lr", ".nan", "a finite number"),
    ("optimizer.momentum", ".inf", "a finite number"),
    # choices
    ("method.peers", "mean", "mean_logits, mean_probs"),
    ("loader.order", "sideways", "shared, own"),
    ("exchange", "scatter", "gather, reduce"),
    ("model.norm", "layer", "batch, group, none"),
    ("engine.precision", "fp4", "fp32, fp64, bf16, fp16"),
    ("engine.reduce_in", "fp16", "master, compute"),
    ("engine.scaling.initial", "1000", "a power of two"),
    ("engine.scaling.interval", "0", "≥ 1"),
    ("engine.offload", "everything", "none, optimizer"),
    ("engine.offload", "optimizer", "none unless engine.zero is 1"),
    ("engine.zero", "7", "0, 1, 2"),
    ("init", "random", "own, shared, a .safetensors file or a list of one per member"),
    # what is there, and refused with its reason
    ("engine.zero", "3", "0, 1 or 2"),
    ("engine.precision", "fp8", "use bf16 or fp16"),
    ("engine.precision", "fp64", "engine Torch"),
    ("loader.order", "own", "method DASH"),
]


@pytest.mark.parametrize(("field", "value", "allowed"), WRONG)
def test_a_wrong_value_is_named_with_what_is_allowed(field, value, allowed):
    names(complaint(["--config", str(SAMPLE), f"--{field}", value]), field, value.lstrip("."), allowed)


@pytest.mark.parametrize(
    "value", ["Nope", "os.path", "torch.nn.Linear", "no.such.module.Class", "dist_dash.methods.Nope"]
)
@pytest.mark.parametrize(
    ("field", "known"),
    [
        ("method", METHODS),
        ("engine", ("DeepSpeed", "Torch")),
        ("schedule", ("Constant", "Cosine", "Step")),
        ("model", ("MLP", "SmallCNN", "ResNet")),
        ("data", ("Digits", "ImageFolder", "Synthetic")),
        ("optimizer", ("SGD", "AdamW")),
    ],
)
def test_an_unknown_class_is_named_with_those_that_exist(field, known, value):
    names(complaint(["--config", str(SAMPLE), f"--{field}", value]), field, value, *known)


@pytest.mark.parametrize(
    ("arguments", "field", "value", "other"),
    [
        (["--exchange", "reduce", "--init", "shared"], "exchange", "reduce", "gather"),
        (["--method.ascent", "joint", "--method.direction", "random"], "method.direction", "random", "separate"),
        (["--method.ascent", "joint", "--method.diversity_in", "descent"], "method.ascent", "joint", "separate"),
        (["--method", "SAM", "--method.p", "1"], "method.p", "1.0", "above 1"),
        (["--schedule", "Step", "--schedule.milestones", "[3, 1]"], "schedule.milestones", "[3.0, 1.0]", "ascend"),
        (["--models", "[MLP, {class_path: MLP, init_args: {hidden: x}}]"], "models.hidden", "'x'", "a whole number"),
        (
            ["--models", "[MLP, {class_path: MLP, init_args: {nonsense: 3}}]"],
            "models.nonsense",
            "no such field",
            "hidden",
        ),
        (["--models", "[MLP, Nope]"], "models", "Nope", "SmallCNN"),
        (["--data.mean", "[0.5, x]"], "data.mean", "'x'", "a number"),
    ],
)
def test_choices_that_do_not_go_together_are_named(arguments, field, value, other):
    names(complaint(["--config", str(SAMPLE), *arguments]), field, value, other)


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ([], "data, model, optimizer"),
        (["--config", str(SAMPLE), "--data", "ImageFolder"], "data.root"),
        (["--config", str(SAMPLE), "--schedule", "Step"], "schedule.milestones"),
    ],
)
def test_what_is_missing_is_named(arguments, missing):
    assert complaint(arguments).startswith(f"{missing}: missing; ")


def test_an_argument_that_belongs_nowhere_is_named():
    assert "'stray'" in complaint(["--config", str(SAMPLE), "stray"])


def test_an_optimizer_refuses_its_values_before_the_run():
    names(complaint(["--config", str(SAMPLE), "--optimizer.lr", "-1"]), "optimizer", "-1")


def test_a_shortened_field_is_unknown():
    names(complaint(["--config", str(SAMPLE), "--loader.batch", "3"]), "loader.batch", "loader.batch_size")


@pytest.mark.parametrize("broken", ["{workers: 1, workers: 2}", "&a {workers: *a}", "{workers: [}"])
def test_a_value_that_is_no_yaml_is_named(broken):
    names(complaint(["--config", str(SAMPLE), f"--loader={broken}"]), "loader", repr(broken), "batch_size")


CANNOT_WORK = {
    "SparseAdam": "does not support dense gradients",
    "LBFGS": "first-order",
    "Muon": "2D parameters",
    "AdamW --optimizer.differentiable=true": "in-place",
    "SGD --optimizer.momentum=-1": "momentum",
}


@pytest.mark.parametrize("optimizer", CANNOT_WORK)
def test_an_optimizer_that_cannot_work_is_refused(optimizer):
    name, *settings = optimizer.split()
    given = [f"--optimizer=torch.optim.{name}", "--optimizer.lr=0.1", *settings]
    names(complaint(["--config", str(SAMPLE), *given]), "optimizer", CANNOT_WORK[optimizer])


@pytest.mark.parametrize(
    "name", [name for name in known(torch.optim.Optimizer) if name not in {*CANNOT_WORK, "Optimizer"}]
)
def test_every_other_optimizer_can_step_on_this_device(name):
    make = getattr(torch.optim, name)
    optimizer = try_optimizer(lambda parameters: make(parameters, lr=0.1), [(3, 4), (5,), ()], torch.device("cpu"))
    stepped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert [list(parameter.shape) for parameter in stepped] == [[2, 2], [2], []]
    assert all(bool((parameter != 1).all()) for parameter in stepped)


def test_what_needs_an_accelerator_is_refused_where_there_is_none():
    def make(parameters):
        return torch.optim.AdamW(parameters, capturable=True)

    try_optimizer(make, [(3,)])  # before the device is known
    with pytest.raises(BadInput, match=r"^optimizer: If capturable=True, .*; the optimizer refuses it$"):
        try_optimizer(make, [(3,)], torch.device("cpu"))
