"""What a rank says when an exchange fails: who is missing, or what another rank has ended with; never nothing."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from dist_dash.errors import BadInput, RunFailed
from dist_dash.files import sync_folder
from dist_dash.ranks import store
from dist_dash.ranks.exchange import Exchange
from dist_dash.ranks.layout import Layout, layout_from_environment
from tests.support.ranks import Ranks, on_ranks


class Deaf:
    """A store whose host hangs: it takes what it is told, and never answers."""

    def set(self, *_: object) -> None: ...

    def check(self, *_: object) -> bool:
        time.sleep(600)
        return False


class Gone(Deaf):
    """A store whose host has ended."""

    def check(self, *_: object) -> bool:
        raise RuntimeError("Connection reset by peer")


def without_an_answer(store: Deaf) -> str:
    """The second rank stays away, and so does the store."""
    exchange = Exchange(layout_from_environment(2), deadline=5)
    exchange.__enter__()
    exchange.collect(0)
    if os.environ["RANK"] == "1":
        time.sleep(3)
        os._exit(0)
    exchange._diagnosis.store = store
    try:
        exchange.collect(1)
    except RunFailed as error:
        return str(error)
    return "nothing was wrong"


@pytest.mark.parametrize("store", [Deaf(), Gone()], ids=["hangs", "gone"])
def test_the_rendezvous_itself_does_not_answer(store: Deaf) -> None:
    kind, text = Ranks(2, without_an_answer, store).results(200)[0]  # long before the store would answer
    assert kind == "value"
    assert re.fullmatch("step 0: an exchange did not complete; the file system of .*/store, .*, does not answer", text)


def ends_alone(error: Exception, who: int) -> int:
    """One rank ends with an error of its own while the others exchange."""
    layout = layout_from_environment(None)
    with Exchange(layout, deadline=600) as exchange:
        exchange.collect(0)
        exchange.step = 4
        if layout.rank == who:
            raise error
        exchange.maximum([1])
    return layout.rank


ENDS = {
    "bad input": (BadInput("data: 'a.png' cannot be read"), "BadInput: data: 'a.png' cannot be read"),
    "a failure": (RunFailed("disk: full"), "RunFailed: disk: full"),
    "an accident": (IndexError("out of range\nin two lines"), "RunFailed: IndexError: out of range"),
}


@pytest.mark.parametrize(("ends", "world", "who"), [("bad input", 2, 0), ("a failure", 3, 2), ("an accident", 2, 1)])
def test_what_one_rank_ends_with_all_others_say(ends: str, world: int, who: int) -> None:
    error, expected = ENDS[ends]
    results = Ranks(world, ends_alone, error, who).results(200)  # long before the deadline of their exchange
    for rank in {*range(world)} - {who}:
        assert results[rank] == ("error", f"{expected} (rank {who}, member {who})")
    assert results[who] == ("error", f"{type(error).__name__}: {error}")


def refuses_together(who: tuple[int, ...]) -> str:
    layout = layout_from_environment(4)
    with Exchange(layout, deadline=20) as exchange:
        try:
            with exchange.together("disk"):
                if layout.rank in who:
                    sync_folder(Path("/nowhere"))  # not an error of the test's own code, which would keep its traceback
        except RunFailed as error:
            return f"{error.everywhere} {error}"
    return "fine"


def test_all_ranks_leave_with_the_error_of_one() -> None:
    assert on_ranks(4, refuses_together, ()) == ["fine"] * 4
    text = "True disk: [Errno 2] No such file or directory: '/nowhere'"
    assert on_ranks(4, refuses_together, (2, 3)) == [f"{text} (rank 2, member 2)"] * 4
    assert on_ranks(4, refuses_together, (0, 1, 2, 3)) == [text] * 4


class Elsewhere(Layout):
    """A rank on a node that has another number of devices than the others."""

    @property
    def backend(self) -> str:
        return "nccl" if self.rank == 1 else "gloo"


def joins_with_other_devices() -> str:
    own = layout_from_environment(2)
    try:
        with Exchange(Elsewhere(own.rank, own.world, own.members), deadline=20):
            return "joined"
    except BadInput as error:
        return str(error)


def test_nodes_of_different_kinds_are_refused() -> None:
    expected = (
        "ranks: rank 0 would use gloo, rank 1 nccl; every node must have as many ranks as GPUs, or all must share"
    )
    assert on_ranks(2, joins_with_other_devices) == [expected] * 2


def joins(tell: bool) -> str:
    """Meet, and end without a word to anybody: what was left in the store stays there."""
    store.RESOLVING = 1.0
    try:
        with Exchange(layout_from_environment(2), deadline=60) as exchange:
            exchange.collect(0)
            if tell:
                return "met"
            os._exit(0)
    except (BadInput, RunFailed) as error:
        return f"{type(error).__name__}: {error}"


def test_a_restarted_attempt_finds_none_of_the_earlier_one_s_words(tmp_path: Path) -> None:
    """So it is with `torchrun --max-restarts`, whose agent keeps its store."""
    same = {"DIST_DASH_RENDEZVOUS": f"file://{tmp_path}/store"}
    for _ in range(2):
        assert Ranks(2, joins, False, environment=same).results() == [("killed", 0)] * 2
    assert on_ranks(2, joins, True, environment=same) == ["met"] * 2


NOBODY = {"DIST_DASH_RENDEZVOUS": "", "MASTER_ADDR": "no-such-host.invalid", "MASTER_PORT": "1234"}
SURROUNDINGS = {
    "interface": (
        {"GLOO_SOCKET_IFNAME": "nope0"},
        "GLOO_SOCKET_IFNAME is 'nope0', but the interfaces of this host are ",
    ),
    "no address": ({"DIST_DASH_RENDEZVOUS": "", "MASTER_ADDR": ""}, "MASTER_ADDR is missing; start with torchrun, "),
    "no such host": (NOBODY, "MASTER_ADDR names 'no-such-host.invalid', which "),
    "no folder": ({"DIST_DASH_RENDEZVOUS": "file:///no/such/file"}, "DIST_DASH_RENDEZVOUS names a file in /no/such, "),
}


@pytest.mark.parametrize("what", SURROUNDINGS)
def test_what_a_launcher_got_wrong_is_said_at_once(what: str) -> None:
    environment, expected = SURROUNDINGS[what]
    started = time.monotonic()
    found = on_ranks(2, joins, True, environment=environment)
    assert found[0].startswith(f"BadInput: environment: {expected}"), found
    assert f"environment: {expected}" in found[1]
    assert time.monotonic() - started < 59  # the deadline has not been waited for
