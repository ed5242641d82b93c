"""A network that cannot be trained is refused before anything starts, in one line; the trial changes nothing."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dist_dash.errors import BadInput
from dist_dash.models.network import try_network


class Net(nn.Module):
    """One hidden layer; `how` says what it does wrong."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.first, self.last = how, nn.Linear(64, 6), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> object:
        x = x.flatten(1)
        if self.how == "checkpointed first layer":
            return self.last(checkpoint(self.first, x.requires_grad_(), use_reentrant=True))
        hidden = self.first(x)
        if self.how == "checkpointed last layer":
            return checkpoint(self.last, hidden, use_reentrant=True)
        if self.how == "checkpointed without re-entrance":
            return checkpoint(self.last, hidden, use_reentrant=False)
        logits = self.last(hidden)
        if not self.training:
            return logits
        wrong = {
            "a tuple": (logits, hidden),
            "a dict": {"out": logits},
            "too many": torch.cat([logits, logits], 1),
            "detached": logits.detach(),
        }
        if self.how == "a bug":
            raise RuntimeError("of the user's own")
        if self.how == "an unknown name":
            return undefined  # type: ignore[name-defined]  # noqa: F821
        if self.how == "a product":
            return hidden @ self.last.weight
        if self.how == "squeezed":
            return logits.squeeze()
        return wrong.get(self.how, logits)


REFUSED = {
    "a tuple": "model: gives a tuple in training mode; it must give a tensor of logits (2, 10)",
    "a dict": "model: gives a dict in training mode; it must give",
    "too many": "model: gives logits of shape (2, 20) for 2 samples in training mode; it must be (2, 10)",
    "detached": "model: has no trainable weights that its logits depend on",
    "a product": f"model: cannot be trained on a batch of 2 ({__file__}:",
    "checkpointed last layer": "model: a method that perturbs cannot train it; checkpoint with use_reentrant=False (",
    "checkpointed first layer": "model: a method that perturbs cannot train it; checkpoint with use_reentrant=False (",
}


def refusal(network: nn.Module, **how: object) -> str:
    with pytest.raises(BadInput) as caught:
        try_network(network, (1, 8, 8), (10,), **how)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_trainable(network: nn.Module, **how: object) -> None:
    """It passes, is left as it was, and then gives a gradient to every parameter as a step of training takes it."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    try_network(network, (1, 8, 8), (10,), **how)  # type: ignore[arg-type]
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    network(torch.ones(2, 1, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.filterwarnings("ignore:None of the inputs")
@pytest.mark.parametrize("how", REFUSED)
def test_what_fails_in_training_is_refused_before(how: str) -> None:
    said = refusal(Net(how), by_grad=True)
    assert said.startswith(REFUSED[how]), said


@pytest.mark.filterwarnings("ignore:None of the inputs")
@pytest.mark.parametrize("how", ["checkpointed first layer", "checkpointed last layer"])
def test_reentrant_checkpoints_are_fine_where_nothing_perturbs(how: str) -> None:
    assert_trainable(Net(how), by_grad=False)


def test_checkpoints_without_reentrance_are_fine() -> None:
    assert_trainable(Net("checkpointed without re-entrance"), by_grad=True)


@pytest.mark.parametrize(("how", "kind"), [("a bug", RuntimeError), ("an unknown name", NameError)])
def test_an_error_of_the_users_own_passes(how: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        try_network(Net(how), (1, 8, 8), (10,))


def normed() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 10))


@pytest.mark.parametrize("network", [normed(), Net("squeezed")])
def test_a_batch_of_one_is_refused_where_two_would_do(network: nn.Module) -> None:
    said = refusal(network, batch_size=1)
    assert said.startswith("loader.batch_size: 1 is not allowed with this network; it must be 2 or more: model: ")
    try_network(network, (1, 8, 8), (10,), batch_size=2)


def test_a_batch_of_one_is_fine_without_batch_norm() -> None:
    assert_trainable(Net(""), batch_size=1, by_grad=True)


def test_statistics_over_all_ranks_are_refused_by_name() -> None:
    said = refusal(nn.SyncBatchNorm.convert_sync_batchnorm(normed()))
    assert said.startswith("model: 2 is a SyncBatchNorm, which is not allowed; use BatchNorm")


def test_a_network_that_cannot_learn_is_refused() -> None:
    assert refusal(normed().requires_grad_(False)).startswith("model: has no trainable weights")


def test_the_trial_changes_nothing() -> None:
    network = normed()
    network(torch.ones(3, 64))
    before, random = {name: tensor.clone() for name, tensor in network.state_dict().items()}, torch.get_rng_state()
    try_network(network, (1, 8, 8), (10,), by_grad=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
