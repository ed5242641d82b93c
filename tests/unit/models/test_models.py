"""The models: published sizes, shapes, what they refuse and how, normalisation and pretrained weights."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from safetensors.torch import save_file
from torch import nn

from dist_dash.errors import BadInput
from dist_dash.models import (
    MLP,
    Architecture,
    Custom,
    Normalise,
    ResNet,
    SmallCNN,
    Timm,
    Torchvision,
    WideResNet,
    load_pretrained,
)
from dist_dash.models.layers import default_groups
from dist_dash.models.network import try_network


def refused(build: Any) -> str:
    """The one line with which `build()` is refused."""
    with pytest.raises(BadInput) as caught:
        build()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def parameters(model: Architecture, shape: tuple[int, ...], classes: int) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in model.build(shape, classes).parameters())


@pytest.mark.parametrize(
    ("model", "shape", "classes", "published"),
    [
        (ResNet(18, stem="imagenet"), (3, 224, 224), 1000, 11_689_512),
        (ResNet(34, stem="imagenet"), (3, 224, 224), 1000, 21_797_672),
        (ResNet(50, stem="imagenet"), (3, 224, 224), 1000, 25_557_032),
        (ResNet(18, stem="cifar"), (3, 32, 32), 10, 11_173_962),
        (ResNet(50, stem="imagenet", norm="group"), (3, 224, 224), 1000, 25_557_032),
        (WideResNet(28, 10), (3, 32, 32), 10, 36_479_194),
        (WideResNet(16, 4), (3, 32, 32), 10, 2_748_890),
        (MLP(hidden=128, depth=2), (1, 8, 8), 10, 64 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10),
        (MLP(depth=0), (5,), 3, 5 * 3 + 3),
    ],
)
def test_parameter_counts_are_the_published_ones(
    model: Architecture, shape: tuple[int, ...], classes: int, published: int
) -> None:
    assert parameters(model, shape, classes) == published


def test_resnet_has_torchvision_names() -> None:
    with torch.device("meta"):
        names = set(ResNet(18, stem="imagenet").build((3, 224, 224), 1000).state_dict())
    assert len(names) == 122
    assert {"conv1.weight", "bn1.running_var", "layer1.0.bn2.bias", "layer2.0.downsample.1.weight", "fc.bias"} <= names


SMALL = [
    (MLP(hidden=8), (5,)),
    (MLP(hidden=8, depth=1, norm="batch", dropout=0.5), (2, 4, 4)),
    (SmallCNN(width=4), (1, 8, 8)),
    (SmallCNN(width=3, norm="group"), (3, 9, 7)),
    (SmallCNN(width=4, norm="none"), (1, 8, 8)),
    (ResNet(18, norm="group", zero_init_residual=True), (1, 8, 8)),
    (ResNet(18, stem="imagenet"), (3, 16, 16)),
    (ResNet(50), (3, 8, 8)),
    (WideResNet(10, 1, dropout=0.3), (3, 8, 8)),
    (WideResNet(16, 2, norm="group"), (1, 9, 8)),
]


@pytest.mark.parametrize(("model", "shape"), SMALL)
def test_logits_and_gradients_are_finite_and_every_parameter_has_one(
    model: Architecture, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    net = model.build(shape, 7)
    logits = net(torch.randn(3, *shape))
    assert logits.shape == (3, 7)
    assert logits.isfinite().all()
    nn.functional.cross_entropy(logits, torch.tensor([0, 3, 6])).backward()
    gradients = {name: p.grad for name, p in net.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    # The head's bias gradient is softmax minus one-hot: a net that ignores its input or its target fails here.
    head = [g for n, g in gradients.items() if n.endswith("bias") and g is not None][-1]
    expected = (logits.softmax(1) - nn.functional.one_hot(torch.tensor([0, 3, 6]), 7)).mean(0)
    torch.testing.assert_close(head, expected.detach())


def test_equal_seeds_give_equal_networks_and_other_seeds_do_not() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.detach().flatten() for p in SmallCNN(4).build((1, 8, 8), 3).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("model", [SmallCNN(norm="group"), ResNet(norm="group"), WideResNet(10, 2, norm="group")])
def test_group_norm_keeps_no_statistics(model: Architecture) -> None:
    with torch.device("meta"):
        net = model.build((3, 8, 8), 4)
    assert list(net.buffers()) == []
    assert any(isinstance(m, nn.GroupNorm) for m in net.modules())


def test_group_norm_sees_one_sample_at_a_time() -> None:
    net = WideResNet(10, 1, norm="group").build((3, 8, 8), 4)
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(net(x)[:1], net(x[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "groups"), [(3, 1), (6, 1), (16, 4), (64, 16), (128, 32), (160, 32), (640, 32)])
def test_default_groups(channels: int, groups: int) -> None:
    assert default_groups(channels) == groups


def test_resnet_groups_are_as_asked() -> None:
    with torch.device("meta"):
        net = ResNet(norm="group", groups=16).build((3, 8, 8), 4)
    assert {m.num_groups for m in net.modules() if isinstance(m, nn.GroupNorm)} == {16}


@pytest.mark.parametrize("depth", [18, 50])
def test_zero_init_residual_starts_every_block_as_its_shortcut(depth: Any) -> None:
    net = ResNet(depth, zero_init_residual=True).build((3, 8, 8), 4)
    plain = ResNet(depth).build((3, 8, 8), 4)
    x = torch.rand(2, 256 if depth == 50 else 64, 4, 4)  # not negative, as after a ReLU
    torch.testing.assert_close(net.get_submodule("layer1.1")(x), x)
    assert not torch.allclose(plain.get_submodule("layer1.1")(x), x)
    # Zero in the last norm alone: in an earlier one it would also cut the gradient off.
    zero = {n for n, p in net.get_submodule("layer1.1").named_parameters() if not p.any() and n.endswith("weight")}
    assert zero == {"bn3.weight" if depth == 50 else "bn2.weight"}


def test_dropout_acts_in_training_only() -> None:
    for model in (MLP(dropout=0.5), WideResNet(10, 1, dropout=0.5)):
        net = model.build((3, 8, 8), 4)
        x = torch.randn(4, 3, 8, 8)
        assert not torch.equal(net(x), net(x))
        net.eval()
        assert torch.equal(net(x), net(x))


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: MLP(hidden=0), "model.hidden: 0"),
        (lambda: MLP(depth=-1), "model.depth: -1"),
        (lambda: MLP(norm="group"), "model.norm: 'group'"),  # type: ignore[arg-type]
        (lambda: MLP(dropout=1.0), "model.dropout: 1.0"),
        (lambda: SmallCNN(width=0), "model.width: 0"),
        (lambda: SmallCNN(norm="layer"), "model.norm: 'layer'"),  # type: ignore[arg-type]
        (lambda: ResNet(depth=20), "model.depth: 20"),  # type: ignore[arg-type]
        (lambda: ResNet(stem="mnist"), "model.stem: 'mnist'"),  # type: ignore[arg-type]
        (lambda: ResNet(norm="none"), "model.norm: 'none'"),  # type: ignore[arg-type]
        (lambda: ResNet(groups=24), "model.groups: 24"),
        (lambda: ResNet(groups=0), "model.groups: 0"),
        (lambda: WideResNet(depth=27), "model.depth: 27"),
        (lambda: WideResNet(depth=4), "model.depth: 4"),
        (lambda: WideResNet(width=0), "model.width: 0"),
        (lambda: WideResNet(dropout=-0.1), "model.dropout: -0.1"),
        (lambda: Custom("mymodule"), "model.target: 'mymodule'"),
        (lambda: Custom("my module:net"), "model.target: 'my module:net'"),
        (lambda: Custom("m:f", {"classes": 3}), "model.kwargs: {'classes': 3}"),
        (lambda: Torchvision("resnet18", {"num_classes": 3}), "model.kwargs: {'num_classes': 3}"),
        (lambda: Torchvision("resnet18", {"weights": "DEFAULT"}), "model.kwargs: {'weights': 'DEFAULT'}"),
        (lambda: Timm("resnet18", {"in_chans": 3}), "model.kwargs: {'in_chans': 3}"),
        (lambda: Timm("resnet18", {"pretrained": True}), "model.kwargs: {'pretrained': True}"),
    ],
)
def test_arguments_out_of_range_are_refused_with_field_and_value(make: Any, field: str) -> None:
    assert refused(make).startswith(field)


@pytest.mark.parametrize("model", [SmallCNN(), ResNet(), WideResNet(), Torchvision("resnet18"), Timm("resnet18")])
def test_image_models_refuse_vectors(model: Architecture) -> None:
    expected = f"model {type(model).__name__} needs images [C, H, W], the data has shape [64]; use MLP"
    assert refused(lambda: model.build((64,), 10)) == expected


def test_recipe_and_command_line_reach_the_constructor() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Architecture, "model")
    parser.add_argument("--config", action="config")
    model = parser.instantiate(parser.parse_args(["--model", "ResNet", "--model.depth", "50"])).model
    assert (type(model), model.depth, model.stem) == (ResNet, 50, "cifar")
    recipe = parser.parse_object(
        {"model": {"class_path": "Custom", "init_args": {"target": "a:b", "kwargs": {"n": 3}}}}
    )
    model = parser.instantiate(recipe).model
    assert (type(model), model.target, model.kwargs) == (Custom, "a:b", {"n": 3})


# Custom ---------------------------------------------------------------------------------------------------------------

USER_CODE = """
import torch
class Net(torch.nn.Linear):
    def __init__(self, shape, classes, bias=True):
        super().__init__(shape[0], classes, bias=bias)
def number(shape, classes): return 3
def broken(shape, classes): raise ZeroDivisionError("mine")
constant = 3
"""


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a user's code, which is not on the path of imports."""
    (tmp_path / "user_nets.py").write_text(USER_CODE)
    (tmp_path / "user_syntax.py").write_text("def f(:\n")
    (tmp_path / "user_import.py").write_text("import no_such_package_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    for name in ("user_nets", "user_syntax", "user_import"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.usefixtures("user_folder")
def test_custom_builds_from_the_current_folder() -> None:
    net = Custom("user_nets:Net", {"bias": False}).build((6,), 4)
    assert net(torch.zeros(2, 6)).shape == (2, 4)
    assert [n for n, _ in net.named_parameters()] == ["weight"]


@pytest.mark.usefixtures("user_folder")
@pytest.mark.parametrize(
    ("target", "kwargs", "says"),
    [
        (
            "user_net:Net",
            {},
            "'user_net' cannot be imported (ModuleNotFoundError: No module named 'user_net'; start in the ",
        ),
        ("user_import:Net", {}, "No module named 'no_such_package_at_all'"),
        ("user_syntax:f", {}, "user_syntax.py, line 1"),
        ("user_nets:Nett", {}, "'user_nets' has no 'Nett'; did you mean 'Net'?"),
        ("user_nets:Net.absent", {}, "'user_nets' has no 'Net.absent'"),
        ("user_nets:constant", {}, "user_nets:constant is a int, not something to call"),
        ("user_nets:number", {}, "must return a torch.nn.Module, it returned int"),
        ("user_nets:Net", {"depth": 3}, "unexpected keyword argument 'depth'"),
        ("torch.nn:Linear", {}, "missing a required argument: 'in_features'"),
    ],
)
def test_custom_says_in_one_line_what_is_wrong(target: str, kwargs: dict[str, Any], says: str) -> None:
    message = refused(lambda: Custom(target, kwargs).build((6,), 4))
    assert message.startswith("model.target: ")
    assert says in message


@pytest.mark.usefixtures("user_folder")
def test_an_error_inside_the_users_code_is_the_users_to_see() -> None:
    with pytest.raises(ZeroDivisionError, match="mine"):
        Custom("user_nets:broken").build((6,), 4)


# torchvision and timm -------------------------------------------------------------------------------------------------


def test_importing_the_models_imports_no_zoo() -> None:
    code = "import sys, dist_dash.models; print({'torchvision', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(("model", "package"), [(Torchvision("resnet18"), "torchvision"), (Timm("resnet18"), "timm")])
@pytest.mark.parametrize("body", [None, "raise RuntimeError('operator torchvision::nms\\n does not exist')"])
def test_a_missing_or_broken_zoo_is_one_line(
    model: Architecture, package: str, body: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    if body is None:
        monkeypatch.setitem(sys.modules, package, None)  # how Python marks what cannot be imported
    else:
        (tmp_path / f"{package}.py").write_text(body)
        monkeypatch.syspath_prepend(tmp_path)
    message = refused(lambda: model.build((3, 32, 32), 10))
    assert f"needs the package {package}" in message
    assert "pip install dist-dash[models]" in message
    assert ("operator torchvision::nms does not exist" in message) == (body is not None)


class ZooNet(nn.Linear):
    """Stands in for a network of a zoo."""

    def __init__(self, num_classes: int, in_chans: int = 3, aux_logits: bool = False, weights: None = None) -> None:
        super().__init__(in_chans, num_classes)
        self.aux_logits = aux_logits


@pytest.fixture
def zoos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both packages with one network each, behind the few functions that are called (checked against the real ones)."""
    torchvision, models, timm = ModuleType("torchvision"), ModuleType("torchvision.models"), ModuleType("timm")
    models.list_models = lambda module: ["tinynet"] if module is models else []  # type: ignore[attr-defined]
    models.get_model = lambda name, **kwargs: ZooNet(**kwargs)  # type: ignore[attr-defined]
    torchvision.models = models  # type: ignore[attr-defined]
    timm.is_model = lambda name: name.partition(".")[0] == "tinynet"  # type: ignore[attr-defined]
    timm.list_models = lambda: ["tinynet"]  # type: ignore[attr-defined]
    timm.create_model = lambda name, **kwargs: ZooNet(**kwargs)  # type: ignore[attr-defined]
    for module in (torchvision, models, timm):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("zoos")
def test_zoo_networks_take_classes_and_channels_from_the_data() -> None:
    assert Torchvision("tinynet").build((3, 8, 8), 7).weight.shape == (7, 3)
    assert Timm("tinynet.tag").build((2, 8, 8), 7).weight.shape == (7, 2)


@pytest.mark.usefixtures("zoos")
@pytest.mark.parametrize("zoo", [Torchvision, Timm])
def test_zoo_mistakes_are_one_line(zoo: type[Torchvision] | type[Timm]) -> None:
    assert "did you mean tinynet?" in refused(lambda: zoo("tinynett").build((3, 8, 8), 7))
    assert "unexpected keyword argument 'x'" in refused(lambda: zoo("tinynet", {"x": 1}).build((3, 8, 8), 7))


@pytest.mark.usefixtures("zoos")
def test_torchvision_refuses_grey_images_and_auxiliary_outputs() -> None:
    assert "3 channels, the data has shape [1, 8, 8]" in refused(lambda: Torchvision("tinynet").build((1, 8, 8), 7))
    with_aux = Torchvision("tinynet", {"aux_logits": True})
    assert "set model.kwargs.aux_logits to false" in refused(lambda: with_aux.build((3, 8, 8), 7))


# Normalise ------------------------------------------------------------------------------------------------------------

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


@pytest.fixture
def float64_by_default() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64_by_default")
@pytest.mark.parametrize("uint8", [True, False])
def test_normalise_equals_its_definition(uint8: bool) -> None:
    x = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 6)).astype(np.uint8 if uint8 else np.float64)
    scaled = x.astype(np.float64) * (1 / 255 if uint8 else 1.0)
    expected = np.empty_like(scaled)
    for channel in range(3):
        expected[:, channel] = (scaled[:, channel] - MEAN[channel]) / STD[channel]
    out = Normalise(MEAN, STD, uint8)(torch.from_numpy(x))
    assert out.dtype == torch.float64
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-14, atol=1e-14)


def test_normalise_follows_the_dtype_of_its_buffers() -> None:
    x = torch.arange(48, dtype=torch.uint8).view(1, 3, 4, 4)
    normalise = Normalise(MEAN, STD, uint8=True)
    single = normalise(x)
    double = normalise.double()(x)
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-6)
    assert list(normalise.state_dict()) == ["mean", "std", "scale"]


def test_normalise_scales_by_the_stored_kind_not_the_input() -> None:
    x = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    normalise = Normalise(MEAN, STD, uint8=True)
    assert torch.equal(normalise(x), normalise(x.float()))  # mixup's pixels are floats in 0…255
    plain = Normalise(MEAN, STD, uint8=False)
    assert torch.equal(plain(x), plain(x.float()))
    assert plain(x).max() > 100 > normalise(x).max()


def test_normalise_vectors() -> None:
    x = torch.tensor([[1.0, 2.0, 5.0], [3.0, 4.0, 6.0]])
    torch.testing.assert_close(Normalise((2.0,), (4.0,), uint8=False)(x), (x - 2) / 4)


@pytest.mark.parametrize(
    ("mean", "std", "field"),
    [
        ((), (), "mean"),
        ((float("nan"),), (1.0,), "mean"),
        ((0.0, 0.0), (1.0,), "std"),
        ((0.0,), (0.0,), "std"),
        ((0.0,), (float("inf"),), "std"),
    ],
)
def test_normalise_refuses(mean: tuple[float, ...], std: tuple[float, ...], field: str) -> None:
    assert refused(lambda: Normalise(mean, std, uint8=True)).startswith(field)


def test_normalise_does_not_make_three_channels_of_one() -> None:
    message = refused(lambda: Normalise(MEAN, STD, uint8=True)(torch.zeros(2, 1, 4, 4)))
    assert message == "samples of shape [1, 4, 4] do not fit a network of 3 channels"


# Pretrained weights ---------------------------------------------------------------------------------------------------


def network(seed: int, classes: int = 5, width: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    net = SmallCNN(width).build((1, 8, 8), classes)
    net(torch.randn(4, 1, 8, 8))  # moves the running statistics
    return net


def wrapped(net: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict(normalise=Normalise((0.5,), (0.25,), uint8=True), net=net))


def saved(tmp_path: Path, state: dict[str, torch.Tensor]) -> str:
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    return str(path)


def copy_of(net: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in net.state_dict().items()}


def assert_equal_states(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [n for n in one if not torch.equal(one[n], other[n])] == []


@pytest.mark.parametrize("wrap", [False, True])
def test_pretrained_round_trip(tmp_path: Path, wrap: bool) -> None:
    source, net = network(1), network(2)
    path = saved(tmp_path, (wrapped(source) if wrap else source).state_dict())
    assert load_pretrained(net, path) == []
    assert_equal_states(net.state_dict(), source.state_dict())


@pytest.mark.parametrize("wrap", [False, True])
def test_a_users_part_called_net_is_not_mistaken_for_the_wrapping(tmp_path: Path, wrap: bool) -> None:
    source, net = nn.Sequential(OrderedDict(net=network(1))), nn.Sequential(OrderedDict(net=network(2)))
    assert load_pretrained(net, saved(tmp_path, (wrapped(source) if wrap else source).state_dict())) == []
    assert_equal_states(net.state_dict(), source.state_dict())


@pytest.mark.parametrize("wrap", [False, True])
def test_the_head_stays_fresh_when_the_classes_differ(tmp_path: Path, wrap: bool) -> None:
    source, net = network(1, classes=5), network(2, classes=9)
    fresh = copy_of(net)
    path = saved(tmp_path, (wrapped(source) if wrap else source).state_dict())
    assert sorted(load_pretrained(net, path)) == ["fc.bias", "fc.weight"]
    head = {n: fresh[n] for n in ("fc.weight", "fc.bias")}
    assert_equal_states(net.state_dict(), {**copy_of(source), **head})


def test_a_batch_norm_counter_may_be_absent(tmp_path: Path) -> None:
    source, net = network(1), network(2)
    state = {n: t for n, t in source.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert load_pretrained(net, saved(tmp_path, state)) == []
    assert torch.equal(net.get_buffer("stage1.1.running_mean"), source.get_buffer("stage1.1.running_mean"))


@pytest.mark.parametrize("case", ["missing", "unexpected", "shape", "inner linear", "head's width", "headless"])
def test_other_mismatches_are_refused_and_change_nothing(tmp_path: Path, case: str) -> None:
    net: nn.Module = network(2)
    state = copy_of(network(1))
    if case == "missing":
        del state["stage1.0.weight"]
        says = "1 missing: stage1.0.weight"
    elif case == "unexpected":
        state |= {f"extra{i}": torch.zeros(1) for i in range(5)}
        says = "5 unexpected: extra0, extra1, extra2, …"
    elif case == "shape":
        state["stage1.0.weight"] = torch.zeros(4, 3, 3, 3)
        says = "1 of another shape: stage1.0.weight [4, 3, 3, 3] for [4, 1, 3, 3]"
    elif case == "inner linear":  # differs in its first size alone, but is not the last one
        net = MLP(hidden=6, depth=1).build((4,), 3)
        state = copy_of(net) | {"1.weight": torch.zeros(8, 4)}
        says = "1 of another shape: 1.weight [8, 4] for [6, 4]"
    elif case == "head's width":
        state["fc.weight"] = torch.zeros(9, 99)
        says = "1 of another shape: fc.weight [9, 99] for [5, 16]"
    else:
        del state["fc.weight"], state["fc.bias"]
        says = "2 missing: fc.weight, fc.bias"
    before = copy_of(net)
    path = saved(tmp_path, state)
    assert refused(lambda: load_pretrained(net, path)) == f"init: {path!r} does not fit the network; {says}"
    assert_equal_states(net.state_dict(), before)


@pytest.mark.parametrize("case", ["absent", "garbage", "torn", "folder"])
def test_an_unreadable_file_is_named(tmp_path: Path, case: str) -> None:
    path = tmp_path / "weights.safetensors"
    if case == "garbage":
        path.write_bytes(b"this is no safetensors file, but long enough to have a header")
    elif case == "torn":
        saved(tmp_path, network(1).state_dict())
        path.write_bytes(path.read_bytes()[:-100])
    elif case == "folder":
        path.mkdir()
    assert refused(lambda: load_pretrained(network(2), str(path))).startswith(f"init: {str(path)!r} cannot be read")


@pytest.mark.parametrize(("heads", "logits"), [((10,), 10), ((4, 6), 10), ((2, 3, 5), 10)])
def test_logits_are_those_of_all_heads(heads: tuple[int, ...], logits: int) -> None:
    network = MLP().build((1, 4, 4), logits)
    try_network(network, (1, 4, 4), heads)
    assert network.training
    expected = rf"^model: gives logits of shape \(2, 9\) for 2 samples; it must be \(2, {logits}\)"
    with pytest.raises(BadInput, match=expected):
        try_network(MLP().build((1, 4, 4), 9), (1, 4, 4), heads)
