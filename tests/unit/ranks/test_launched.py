"""What torchrun's and Slurm's variables say of a process: its rank, its host's ranks, where the ranks meet."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_dash.errors import BadInput
from dist_dash.ranks.launched import Launcher, Place, first_host
from dist_dash.ranks.layout import Layout, layout_from_environment

JOB = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "n[1-4]"}
SCRIPT = {**JOB, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_TASKS_PER_NODE": "2(x4)"}
TASK = {
    **JOB,
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n[2-4]",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3)",
    "SLURM_PROCID": "3",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "1",
}
TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
STEADY = settings(deadline=None, derandomize=True, database=None)
ALL = {*TASK, *SCRIPT, *TORCHRUN, "SLURM_RESTART_COUNT", "DIST_DASH_RENDEZVOUS"}


def complaint(**variables: str) -> str:
    launcher = Launcher(variables)
    with pytest.raises(BadInput) as caught:
        launcher.place, launcher.rendezvous, launcher.job  # noqa: B018
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- which process this is ---------------------------------------------------------------------------------------------


def test_a_task_of_srun():
    task = Launcher(TASK)
    assert task.place == Place(rank=3, world=6, local_rank=1, local_world=2)
    assert (task.started_ranks, task.rank) == (True, 3)
    assert task.rendezvous.startswith("tcp://n2:")  # the step's first node, not the job's
    assert Launcher({**TASK, "SLURM_STEP_NODELIST": ""}).rendezvous.startswith("tcp://n1:")


def test_torchrun_wins_over_the_slurm_job_that_it_runs_in():
    rank = Launcher({**TASK, **TORCHRUN})
    assert rank.place == Place(rank=5, world=8, local_rank=1, local_world=4)
    assert (rank.started_ranks, rank.rank, rank.rendezvous) == (True, 5, "env://")
    alone = {**TASK, "SLURM_STEP_NUM_TASKS": "1", **TORCHRUN}  # one torchrun per node
    assert Launcher(alone).started_ranks


def test_without_a_word_on_hosts_there_is_one():
    assert Launcher({"RANK": "1", "WORLD_SIZE": "3"}).place == Place(1, 3, 1, 3)


def test_a_batch_script_is_no_rank():
    script = Launcher(SCRIPT)
    assert (script.started_ranks, script.rank, script.rendezvous) == (False, 0, "env://")
    assert "SLURM_STEP_NUM_TASKS is missing" in complaint(**SCRIPT)


def test_a_shell_is_no_rank():
    for variables in ({}, JOB, {"RANK": "0"}, {"WORLD_SIZE": "2"}):
        assert not Launcher(variables).started_ranks
        assert Launcher(variables).rendezvous == "env://"


def test_a_lone_task_is_a_shell_that_has_a_place():
    lone = Launcher({**TASK, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"} | SCRIPT)
    assert not lone.started_ranks
    assert lone.place == Place(0, 1, 0, 1)  # of a job that was submitted as one rank


def test_the_process_s_own_variables_are_the_default(monkeypatch):
    for name in ALL:
        monkeypatch.delenv(name, raising=False)
    assert (Launcher().rank, Launcher().job, Launcher().started_ranks) == (0, "", False)
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)
    assert Launcher().place == Place(3, 6, 1, 2)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("2(x2)", [2, 2]),
        ("3,2(x2),1", [3, 2, 2, 1]),
        ("1", [1]),
        ("12(x10)", [12] * 10),
        ("1,1(x1),10", [1, 1, 10]),
        ("8(x2),4", [8, 8, 4]),
    ],
)
def test_tasks_per_node(text, counts):
    for node, count in enumerate(counts):
        task = {**TASK, "SLURM_STEP_TASKS_PER_NODE": text, "SLURM_NODEID": str(node)}
        assert Launcher(task).place.local_world == count


@STEADY
@given(st.lists(st.integers(1, 200), min_size=1, max_size=12))
def test_tasks_per_node_as_slurm_shortens_them(counts):
    runs = [(count, len(list(same))) for count, same in itertools.groupby(counts)]
    text = ",".join(f"{count}(x{times})" if times > 1 else f"{count}" for count, times in runs)
    tasks = [Launcher({**TASK, "SLURM_STEP_TASKS_PER_NODE": text, "SLURM_NODEID": str(n)}) for n in range(len(counts))]
    assert [task.place.local_world for task in tasks] == counts


# -- where the ranks meet ----------------------------------------------------------------------------------------------


def expanded(nodelist: str) -> list[str]:
    """All hosts of a list, in order."""
    hosts, depth, begin = [], 0, 0
    for i, character in enumerate(nodelist + ","):
        depth += (character == "[") - (character == "]")
        if character == "," and depth == 0:
            hosts += _each(nodelist[begin:i])
            begin = i + 1
    return hosts


def _each(group: str) -> list[str]:
    if "[" not in group:
        return [group]
    before, rest = group.split("[", 1)
    inside, after = rest.split("]", 1)
    numbers = []
    for part in inside.split(","):
        first, _, last = part.partition("-")
        numbers += [str(n).zfill(len(first)) for n in range(int(first), int(last or first) + 1)]
    return [before + number + tail for number in numbers for tail in _each(after)]


NAME = st.text("abcxyz0123456789.-", min_size=1, max_size=5).filter(lambda name: name.strip(".-") == name)
NUMBERS = st.builds(
    lambda first, more, width: str(first).zfill(width) + (f"-{str(first + more).zfill(width)}" if more else ""),
    *(st.integers(0, 99), st.integers(0, 3), st.integers(1, 6)),
)
BRACKETS = st.lists(NUMBERS, min_size=1, max_size=3).map(lambda parts: f"[{','.join(parts)}]")
GROUP = st.tuples(NAME, st.lists(st.one_of(BRACKETS, NAME), max_size=3)).map(lambda two: two[0] + "".join(two[1]))


@STEADY
@given(st.lists(GROUP, min_size=1, max_size=4).map(",".join))
def test_the_first_host_is_the_first_of_all(nodelist):
    assert first_host(nodelist) == expanded(nodelist)[0]


@pytest.mark.parametrize(
    ("nodelist", "first"),
    [
        ("n[1-4]", "n1"),
        ("rack[1-2]n[03-07,12],spare", "rack1n03"),
        ("0x7f[000011-000012]", "0x7f000011"),
        ("alone", "alone"),
        ("one,two", "one"),
        ("gpu-a[7,9-11]-ib0,n[1-2]", "gpu-a7-ib0"),
        ("login.cluster.example,n1", "login.cluster.example"),
        ("", ""),
    ],
)
def test_the_first_host_of_lists_as_slurm_writes_them(nodelist, first):
    assert first_host(nodelist) == first
    assert expanded(nodelist)[0] == first


def port(job: int, step: int = 0, restarts: int | None = 0) -> int:
    variables = {**TASK, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}
    variables |= {} if restarts is None else {"SLURM_RESTART_COUNT": str(restarts)}
    found = re.fullmatch(r"tcp://n2:(\d+)", Launcher(variables).rendezvous)
    return int(found[1])


JOBS, STEPS, RESTARTS = st.integers(1, 2**32), st.integers(0, 4000), st.integers(0, 4000)


@STEADY
@given(JOBS, STEPS, RESTARTS)
def test_ports_lie_below_those_that_the_system_hands_out(job, step, restarts):
    assert 12000 <= port(job, step, restarts) <= 29999
    assert port(job, step, restarts) == port(job, step, restarts)


def test_jobs_side_by_side_do_not_meet():
    assert len({port(job) for job in range(4711, 4711 + 18000)}) == 18000


@STEADY
@given(JOBS, st.integers(1, 17999), STEPS, RESTARTS)
def test_nor_do_their_later_lives(job, further, step, restarts):
    assert port(job, step, restarts) != port(job + further, step, restarts)


@STEADY
@given(JOBS, st.integers(0, 200), st.integers(1, 200), st.integers(0, 200), st.integers(1, 200))
def test_a_requeued_job_does_not_meet_its_stale_ranks_nor_a_step_its_neighbour(job, restarts, lives, step, steps):
    assert port(job, step, restarts) != port(job, step, restarts + lives)
    assert port(job, step, restarts) != port(job, step + steps, restarts)


def test_a_job_that_was_never_requeued_has_no_restart_count():
    assert port(1, restarts=None) == port(1, restarts=0)


def test_a_rendezvous_that_is_given_wins():
    for variables in (TASK, TORCHRUN, {}):
        given = {**variables, "DIST_DASH_RENDEZVOUS": "file:///shared/meet"}
        assert Launcher(given).rendezvous == "file:///shared/meet"


def test_a_life_of_a_job_has_a_name():
    assert Launcher({}).job == ""
    assert Launcher({"SLURM_JOB_ID": ""}).job == ""
    assert Launcher(JOB).job == "4711.0"
    assert Launcher({**JOB, "SLURM_RESTART_COUNT": ""}).job == "4711.0"
    assert Launcher({**JOB, "SLURM_RESTART_COUNT": "12"}).job == "4711.12"


# -- what is missing or wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_TASKS_PER_NODE"]
)
@pytest.mark.parametrize("value", [None, "", "x", "-1", "²", "1.5"])
def test_what_srun_did_not_say_is_named(name, value):
    task = {**TASK, name: value} if value is not None else {k: v for k, v in TASK.items() if k != name}
    text = complaint(**task)
    assert text.startswith(f"environment: {name} ")
    assert (repr(value) if value else "is missing") in text
    assert "start with torchrun, srun or `dist-dash train`" in text


@pytest.mark.parametrize("name", TORCHRUN)
def test_what_torchrun_garbled_is_named(name):
    assert complaint(**{**TORCHRUN, name: "x"}).startswith(f"environment: {name} is 'x', but ")


@pytest.mark.parametrize("text", ["2(x2", "2(x)", "(x2)", "2,", ",2", "2 (x2)", "2(y2)"])
def test_tasks_per_node_that_make_no_sense(text):
    assert f"SLURM_STEP_TASKS_PER_NODE is {text!r}" in complaint(**{**TASK, "SLURM_STEP_TASKS_PER_NODE": text})


def test_a_rank_beyond_the_world_is_left_over_from_another_launch():
    assert complaint(RANK="2", WORLD_SIZE="2").startswith("environment: RANK is 2, but must be below 2;")
    assert "SLURM_PROCID is 6, but must be below 6" in complaint(**{**TASK, "SLURM_PROCID": "6"})


@pytest.mark.parametrize(
    ("name", "value"), [("SLURM_JOB_ID", "x"), ("SLURM_STEP_ID", "x"), ("SLURM_RESTART_COUNT", "one")]
)
def test_a_garbled_job_has_no_port(name, value):
    with pytest.raises(BadInput, match=rf"^environment: {name} is '{value}', but must be a whole number; .*$"):
        Launcher({**TASK, name: value}).rendezvous  # noqa: B018


def test_ranks_need_a_host_to_meet_at():
    lost = {name: value for name, value in TASK.items() if not name.endswith("NODELIST")}
    assert "SLURM_STEP_NODELIST is missing" in complaint(**lost)
    assert "SLURM_STEP_NODELIST is ',n1', but must name a host" in complaint(**{**lost, "SLURM_STEP_NODELIST": ",n1"})


@pytest.mark.parametrize("variables", [{"RANK": "x"}, {"RANK": "²"}, {**TASK, "SLURM_PROCID": "x"}])
def test_a_message_finds_its_rank_whatever_is_wrong(variables):
    assert Launcher(variables).rank == 0


# -- the layout --------------------------------------------------------------------------------------------------------


@pytest.fixture
def ranks(monkeypatch):
    for name in ALL:
        monkeypatch.delenv(name, raising=False)
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("ranks")
def test_members_trained_together():
    layout = layout_from_environment(3)
    assert (layout.members, layout.replicas, layout.member, layout.replica) == (3, 2, 1, 1)
    assert (layout.identity, layout.ensemble_members, layout.ensemble_rank) == (1, 3, 3)
    assert (layout.local_rank, layout.local_world) == (1, 2)
    assert layout_from_environment(None).members == 6
    assert layout.job == "4711.0"
    assert Launcher().rendezvous.startswith("tcp://n2:")


@pytest.mark.usefixtures("ranks")
def test_a_member_trained_alone_is_the_one_that_it_would_be():
    alone = layout_from_environment(3, 2)  # six ranks, all of them member 2's replicas
    assert (alone.members, alone.replicas, alone.member, alone.replica) == (1, 6, 0, 3)
    assert (alone.identity, alone.ensemble_members, alone.ensemble_rank) == (2, 3, 2 * 6 + 3)
    assert [alone.identity_of(rank) for rank in range(6)] == [2] * 6
    assert layout_from_environment(7, 0).members == 1  # which six ranks cannot train together


@pytest.mark.usefixtures("ranks")
def test_ranks_of_several_members_each():
    layout = layout_from_environment(12, None, 2)
    assert (layout.members, layout.replicas, layout.member, layout.replica) == (12, 1, 6, 0)
    assert (layout.own_members, layout.identity, layout.ensemble_members) == (range(6, 8), 6, 12)
    assert [layout.identity_of(rank) for rank in range(6)] == [0, 2, 4, 6, 8, 10]
    assert [layout.member_ranks(member) for member in range(4)] == [[0], [0], [1], [1]]
    assert layout.exchange_ranks(0) == [*range(6)]
    alone = layout.apart(7)
    assert (alone.rank, alone.world, alone.members_per_rank, alone.identity, alone.member) == (7, 12, 1, 7, 7)
    assert alone.device == layout.device
    assert layout_from_environment(None, None, 3).members == 18
    with pytest.raises(BadInput, match=r"^members_per_rank: 6 ranks of 2 members make 12, there are 6; start 3 \("):
        layout_from_environment(6, None, 2)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_rank_of_one_member_is_apart_already(replicas):
    for rank in range(4):
        layout = Layout(rank, 4, 4 // replicas, local_rank=rank, local_world=4)
        assert layout.apart(layout.member) == layout


@pytest.mark.usefixtures("ranks")
def test_members_that_do_not_divide_the_ranks():
    with pytest.raises(BadInput, match=r"^members: 4 does not divide the world size 6; start a multiple of it$"):
        layout_from_environment(4)
    with pytest.raises(BadInput, match=r"^members: 0 is not allowed; it must be a whole number ≥ 1$"):
        layout_from_environment(0)
