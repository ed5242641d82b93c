import pytest
import torch
from torch import Tensor

from dist_dash.member.losses import diversity
from dist_dash.ranks.clock import Clock
from dist_dash.ranks.peers import Peers, PendingPeers
from dist_dash.ranks.transport import Transfer

VIEWS = ("logits", "probs")
MODES = ("gather", "reduce")


class Group:
    """Members in one process: collective k joins what each member gave to its k-th call."""

    def __init__(self, members: int) -> None:
        self.given: list[list[Tensor]] = [[] for _ in range(members)]

    def transport(self, member: int) -> "FakeTransport":
        return FakeTransport(self.given, member)


class FakeTransport:
    def __init__(self, given: list[list[Tensor]], member: int) -> None:
        self.given, self.member, self.size = given, member, len(given)

    def all_gather(self, values: Tensor) -> Transfer:
        call = self._call(values)
        return Transfer(lambda: torch.stack([calls[call] for calls in self.given]))

    def all_reduce(self, values: Tensor) -> Transfer:
        call = self._call(values)
        return Transfer(lambda: torch.stack([calls[call] for calls in self.given]).sum(0))

    def _call(self, values: Tensor) -> int:
        self.given[self.member].append(values.clone())
        return len(self.given[self.member]) - 1


def everyones_peers(logits: list[Tensor], mode: str) -> list[Peers]:
    group = Group(len(logits))
    pending = [PendingPeers(group.transport(i), z, i, VIEWS, mode, Clock()) for i, z in enumerate(logits)]
    assert len({tuple(v.shape for v in calls) for calls in group.given}) == 1  # shapes never depend on the values
    return [p.wait() for p in pending]


def random_logits(members: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(5, 7, generator=generator, dtype=dtype) for _ in range(members)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("members", [2, 3, 8])
@pytest.mark.parametrize("mode", MODES)
def test_the_mean_is_over_the_others(mode, members, dtype):
    logits = random_logits(members, dtype)
    for own, peers in enumerate(everyones_peers(logits, mode)):
        others = [z for i, z in enumerate(logits) if i != own]
        assert torch.allclose(peers.mean_logits, sum(others) / len(others), rtol=0, atol=1e-5)
        assert torch.allclose(peers.mean_probs, sum(z.softmax(-1) for z in others) / len(others), rtol=0, atol=1e-6)
        assert peers.count == members - 1


@pytest.mark.parametrize("members", [2, 5, 16])
def test_both_modes_agree(members):
    logits = random_logits(members, torch.float32)
    for gathered, reduced in zip(everyones_peers(logits, "gather"), everyones_peers(logits, "reduce"), strict=True):
        assert torch.allclose(gathered.mean_logits, reduced.mean_logits, rtol=1e-6, atol=1e-5)
        assert torch.allclose(gathered.mean_probs, reduced.mean_probs, rtol=0, atol=1e-6)
        assert gathered.count == reduced.count


@pytest.mark.parametrize("view", [("logits",), ("probs",)])
@pytest.mark.parametrize("mode", MODES)
def test_one_view_is_computed_without_the_other(mode, view):
    logits = random_logits(3)
    group = Group(3)
    pending = [PendingPeers(group.transport(i), z, i, view, mode, Clock()) for i, z in enumerate(logits)]
    peers = pending[0].wait()
    found = peers.mean_logits if view == ("logits",) else peers.mean_probs
    expected = (logits[1] + logits[2]) / 2 if view == ("logits",) else sum(z.softmax(-1) for z in logits[1:]) / 2
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert pending[0].wait() is peers


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("mode", MODES)
def test_a_sick_peer_is_left_out(mode, bad):
    logits = random_logits(4)
    healthy = [z.clone() for z in logits]
    logits[2][3, 1] = bad  # a single number of a single sample
    for own, peers in enumerate(everyones_peers(logits, mode)):
        if own == 2:
            continue
        others = [healthy[i] for i in range(4) if i not in (own, 2)]
        assert peers.count == 2
        assert torch.allclose(peers.mean_logits, sum(others) / 2, rtol=0, atol=1e-12)
        assert torch.allclose(peers.mean_probs, sum(z.softmax(-1) for z in others) / 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_without_a_finite_peer_the_member_is_its_own(mode):
    logits = random_logits(3, torch.float32)
    logits[1].fill_(float("nan"))
    logits[2][0, 0] = float("inf")
    peers = everyones_peers(logits, mode)[0]
    assert peers.count == 0
    assert torch.equal(peers.mean_logits, logits[0])
    assert torch.equal(peers.mean_probs, logits[0].softmax(-1))
    own = logits[0].clone().requires_grad_()
    l_div = diversity(own, peers.mean_logits)
    (slope,) = torch.autograd.grad(l_div, own)
    assert l_div == 0
    assert torch.equal(slope, torch.zeros_like(slope))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("mode", MODES)
def test_a_sick_member_still_sees_its_healthy_peers(mode, bad):
    logits = random_logits(3)
    logits[0][2, 2] = bad
    peers = everyones_peers(logits, mode)[0]
    assert peers.count == 2
    assert torch.allclose(peers.mean_logits, (logits[1] + logits[2]) / 2, rtol=0, atol=1e-12)
    assert torch.allclose(peers.mean_probs, sum(z.softmax(-1) for z in logits[1:]) / 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("members", [2, 3, 4, 7])
def test_equal_members_give_exactly_the_own_prediction_back(members, dtype):
    for seed in range(20):
        shared = random_logits(1, dtype, seed)[0]
        for peers in everyones_peers([shared] * members, "gather"):
            assert torch.equal(peers.mean_logits, shared)
            assert torch.equal(peers.mean_probs, shared.softmax(-1))


@pytest.mark.parametrize("mode", MODES)
def test_peers_relabelled_results_relabelled(mode):
    logits, order = random_logits(4), [2, 0, 3, 1]
    found, relabelled = everyones_peers(logits, mode), everyones_peers([logits[i] for i in order], mode)
    for place, member in enumerate(order):
        assert torch.allclose(relabelled[place].mean_logits, found[member].mean_logits, rtol=0, atol=1e-12)
        assert torch.allclose(relabelled[place].mean_probs, found[member].mean_probs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_waiting_is_measured_apart_from_transfer(mode):
    clock, group = Clock(), Group(2)
    logits = [z.repeat(300, 1) for z in random_logits(2)]
    pending = PendingPeers(group.transport(0), logits[0], 0, VIEWS, mode, clock)
    PendingPeers(group.transport(1), logits[1], 1, VIEWS, mode, Clock())
    pending.wait()
    seconds = clock.read()
    assert set(seconds) == {"total", "wait", "transfer"}
    assert seconds["wait"] + seconds["transfer"] <= seconds["total"]


@pytest.mark.parametrize("mode", MODES)
def test_a_small_message_is_all_waiting(mode):
    clock, group = Clock(), Group(2)
    pending = [PendingPeers(group.transport(i), z, i, VIEWS, mode, clock) for i, z in enumerate(random_logits(2))]
    pending[0].wait()
    assert set(clock.read()) == {"total", "wait"}
    assert [len(calls) for calls in group.given] == [1, 1]
