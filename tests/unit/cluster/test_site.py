"""A job's resources: what a site's file and the command line may say, and what becomes of it in Slurm's words."""

import argparse
import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_dash.cluster.array import share_of
from dist_dash.cluster.sbatch import sbatch_options
from dist_dash.cluster.site import Site, add_options, site_from
from dist_dash.errors import BadInput

ROOT = Path(__file__).parents[3]
STEADY = settings(deadline=None, derandomize=True, database=None)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """A working folder without a site file."""
    monkeypatch.delenv("DIST_DASH_SITE", raising=False)
    monkeypatch.chdir(tmp_path)


def site(*arguments: str) -> Site:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return site_from(parser.parse_args(list(arguments)))


def held(text: str, *arguments: str) -> Site:
    """What a file says, and the command line."""
    Path("site.yaml").write_text(text)
    return site("--site=site.yaml", *arguments)


def complaint(call, *arguments: object) -> str:
    with pytest.raises(BadInput) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    assert "<class" not in str(caught.value)
    return str(caught.value)


# -- what is allowed ---------------------------------------------------------------------------------------------------


def test_nothing_given_is_the_default():
    assert site() == Site() == held("") == held("# all of it\n# commented out\n")
    assert (Site().ranks, Site().ranks_per_node) == (1, 1)


@pytest.mark.parametrize("name", ["nodes", "tasks_per_node", "cpus_per_task", "warning", "attempts", "gpus_per_node"])
def test_whole_numbers(name):
    least, option = (0 if name == "gpus_per_node" else 1), f"--{name.replace('_', '-')}"
    for value in (least, 7):
        assert getattr(site(f"{option}={value}"), name) == value
        assert getattr(held(f"{name}: {value}"), name) == value
    for value in (str(least - 1), "-3", "2.5", "1e1", "two", "[2]", ""):
        if value or name not in ("tasks_per_node", "cpus_per_task"):  # which may be null
            words = complaint(site, f"{option}={value}")
            assert words.startswith(f"{name}: ")
            assert f"it must be a whole number ≥ {least}" in words
            assert value in words
            assert complaint(held, f"{name}: {value or 'null'}").endswith("(in site.yaml)")


def test_memory():
    assert site("--mem-gb=1.5").mem_gb == 1.5
    assert site("--mem-gb=null").mem_gb is None
    for value in ("0", "-1", "nan", "inf", "64G", "[1]"):
        assert complaint(site, f"--mem-gb={value}").startswith("mem_gb: ")
        assert "it must be a finite number > 0" in complaint(site, f"--mem-gb={value}")
    assert sbatch_options(Site(mem_gb=1.5), "a", [])["mem"] == "1536MB"
    assert sbatch_options(Site(mem_gb=1e-6), "a", [])["mem"] == "1MB"  # Slurm takes 0 for all there is


@pytest.mark.parametrize(
    "name", ["partition", "account", "qos", "constraint", "reservation", "exclude", "nodelist", "container", "python"]
)
def test_texts_are_taken_as_they_are_written(name):
    for text in ("gpu", "n[1-4,7]", "007", "1e3", "yes", "a b"):
        assert getattr(site(f"--{name}={text}"), name) == text
        if "[" not in text:
            assert getattr(held(f"{name}: {text}"), name) == text
    assert getattr(held(f'{name}: "n[1-4,7]"'), name) == "n[1-4,7]"
    for text in ("", "null", "~"):
        assert getattr(held(f"{name}: {text}"), name) is None
    assert getattr(held(f"{name}: text", f"--{name}=null"), name) is None
    assert complaint(held, f"{name}: [a, b]").startswith(f"{name}: ['a', 'b'] is not allowed; it must be a text")


def test_gpus_may_be_asked_for_in_two_ways():
    asked = [sbatch_options(Site(gpus_per_node=4, gpus_as=way), "a", []) for way in ("gpus-per-node", "gres")]
    assert [(options.get("gpus_per_node"), options.get("gres")) for options in asked] == [(4, None), (None, "gpu:4")]
    assert not {"gpus_per_node", "gres"} & set(sbatch_options(Site(gpus_as="gres"), "a", []))
    words = "gpus_as: 'gpus' is not allowed; it must be one of gpus-per-node, gres"
    assert complaint(site, "--gpus-as=gpus") == words


@pytest.mark.parametrize("name", ["modules", "setup", "srun"])
def test_lists(name):
    assert getattr(site(f"--{name}=[a/1.2, 3, 'x, y']"), name) == ["a/1.2", "3", "x, y"]
    assert getattr(held(f"{name}:\n- a\n- ulimit -n 65536\n- 1.10"), name) == ["a", "ulimit -n 65536", "1.10"]
    for nothing in ("", "[]", "null"):
        assert getattr(held(f"{name}: {nothing}"), name) == []
    for value, shown in [(text, text) for text in ("a", "a,b", "{a: b}", "[a")] + [("[[a]]", [["a"]])]:
        words = complaint(site, f"--{name}={value}")
        assert words == f"{name}: {shown!r} is not allowed; it must be a list of texts, such as [A, B]"


@pytest.mark.parametrize("name", ["environment", "sbatch"])
def test_dictionaries(name):
    assert getattr(site(f"--{name}={{A: b c, D: 1}}"), name) == {"A": "b c", "D": "1"}
    assert getattr(site(f'--{name}={{"A": "x=y"}}'), name) == {"A": "x=y"}
    assert getattr(held(f"{name}:\n  A: 12:30\n  B: no\n  C:"), name) == {"A": "12:30", "B": "no", "C": ""}
    assert getattr(held(f"{name}:"), name) == {}
    for value, shown in [(text, text) for text in ("A=b", "[a]", "{A: b")] + [("{A: [b]}", {"A": ["b"]})]:
        words = complaint(site, f"--{name}={value}")
        assert words == f"{name}: {shown!r} is not allowed; it must be names and texts, such as {{A: B}}"


@pytest.mark.parametrize("name", ["A-B", "1A", "A B", "", "Ä", "$A", "A=B"])
def test_a_variable_has_a_name_that_the_shell_takes(name):
    with pytest.raises(BadInput, match=r"^environment: '.*' is not allowed; it must be the name of a variable: "):
        Site(environment={name: "x"})


@pytest.mark.parametrize(
    "name", ["nodes", "ntasks", "ntasks-per-node", "ntasks_per_node", "time", "signal", "array", "output", "open_mode"]
)
def test_options_of_sbatch_that_would_break_the_job(name):
    words = complaint(held, f"sbatch: {{{name}: x}}")
    assert words.startswith(f"sbatch: {name!r} is not allowed; ")
    assert words.endswith(" (in site.yaml)")


def test_further_options_of_sbatch():
    given = Site(sbatch={"mail-type": "END", "exclusive": "true", "hold": "", "requeue": "false", "wckey": "a"})
    further = sbatch_options(given, "a", [])["additional_parameters"]
    assert further == {"mail_type": "END", "exclusive": True, "hold": True, "wckey": "a"}
    typed = sbatch_options(Site(gpus_per_node=4, sbatch={"gpus-per-node": "a100:4"}), "a", [])
    assert typed["additional_parameters"]["gpus_per_node"] == "a100:4"  # takes the other's place


# -- time --------------------------------------------------------------------------------------------------------------


def minutes(text: str) -> int:
    return Site(time=text, warning=1).minutes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90),
        ("90:00", 90),
        ("1:30:00", 90),
        ("01:30:01", 91),
        ("2:01", 3),
        ("0:02", 1),
        ("2-0", 2880),
        ("2-12", 3600),
        ("2-12:30", 3630),
        ("2-12:30:15", 3631),
        ("0-00:05:00", 5),
        ("24:00:00", 1440),
        (" 60 ", 60),
        ("100:00:00", 6000),
    ],
)
def test_times_as_slurm_documents_them(text, expected):
    assert minutes(text) == expected
    assert held(f"time: {text}\nwarning: 1").minutes == expected  # no quotes needed
    assert sbatch_options(Site(time=text, warning=1), "a", [])["time"] == expected


@STEADY
@given(st.integers(0, 400), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_times_come_back_in_minutes_rounded_up(d, h, m, s):
    def up(seconds: int) -> int:
        return (seconds + 59) // 60

    in_days = d * 86400 + h * 3600
    forms = {
        f"{m}": m * 60,
        f"{m}:{s:02d}": m * 60 + s,
        f"{h}:{m:02d}:{s:02d}": h * 3600 + m * 60 + s,
        f"{d}-{h:02d}": in_days,
        f"{d}-{h:02d}:{m:02d}": in_days + m * 60,
        f"{d}-{h:02d}:{m:02d}:{s:02d}": in_days + m * 60 + s,
    }
    for text, seconds in forms.items():
        if seconds > 60:
            assert minutes(text) == up(seconds), text


@pytest.mark.parametrize(
    "text", ["", "soon", "1h", "1.5", "-5", "1-", "1:2:3:4", "1-2:3:4:5", "1-2-3", "UNLIMITED", ":30", "1:", "12 30"]
)
def test_times_that_slurm_would_not_take(text):
    words = f"time: {text!r} is not allowed; it must be minutes, H:MM:SS or D-HH:MM:SS"
    assert complaint(site, f"--time={text}") == words


def test_a_limit_of_nothing_is_none():
    for text in ("0", "0:00", "0-0"):
        assert "at least a minute" in complaint(site, f"--time={text}")


def test_the_warning_comes_before_the_end():
    assert site("--time=3", "--warning=179").warning == 179
    assert complaint(site, "--time=3", "--warning=180") == (
        "time: '3' is not allowed; it must be longer than the warning (180 s)"
    )


# -- files -------------------------------------------------------------------------------------------------------------


def test_the_command_line_wins_over_the_file():
    text = "nodes: 2\ngpus_per_node: 8\nmodules: [a]\nenvironment: {A: '1', B: '2'}\ntime: 10\n"
    found = held(text, "--nodes=4", "--modules=[b, c]", "--environment={B: 3}")
    assert found == Site(nodes=4, gpus_per_node=8, modules=["b", "c"], environment={"B": "3"}, time="10")
    assert held("time: soon", "--time=10").time == "10"  # what is overridden need not be right


def test_a_problem_names_the_file_it_comes_from():
    assert complaint(held, "nodes: 0") == "nodes: '0' is not allowed; it must be a whole number ≥ 1 (in site.yaml)"
    assert complaint(held, "nodes: 2", "--nodes=0") == "nodes: '0' is not allowed; it must be a whole number ≥ 1"


def test_a_field_that_is_not_there():
    for name in ("gpus_per_nod", "gpus-per-node"):
        expected = f"site: {name!r} is no field of it; did you mean gpus_per_node? (in site.yaml)"
        assert complaint(held, f"{name}: 3") == expected
    words = complaint(held, "nodes: 1\nwalltime: 3\nxyz: 4")
    assert words.startswith("site: 'walltime' is no field of it; did you mean time? ")
    assert words.endswith(" (in site.yaml)")
    assert "known: partition, account," in complaint(held, "xyz: 4")


@pytest.mark.parametrize("text", ["hello", "- a", "a: [", "\tnodes: 1", "\x00", "{[a]: b}", "nodes: 1\n nodes: 2"])
def test_a_file_that_holds_no_fields(text):
    words = complaint(held, text)
    assert words.startswith("site: 'site.yaml' is not allowed (")
    assert words.endswith("; it must be a YAML file with this site's settings, such as slurm/site.example.yaml")


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"account: caf\xe9")
    for path, problem in (("no.yaml", "No such file"), (".", "directory"), ("latin.yaml", "codec")):
        words = complaint(site, f"--site={path}")
        assert words.startswith(f"site: {path!r} is not allowed (")
        assert problem in words


def test_which_file_is_read(monkeypatch, tmp_path):
    Path("slurm").mkdir()
    for name, nodes in (("slurm/site.yaml", 2), ("of_all.yaml", 3), ("given.yaml", 4)):
        Path(name).write_text(f"nodes: {nodes}")
    assert site().nodes == 2  # of the folder that one submits from
    monkeypatch.setenv("DIST_DASH_SITE", str(tmp_path / "of_all.yaml"))
    assert site().nodes == 3
    assert site("--site=given.yaml").nodes == 4
    assert site("--site=given.yaml", "--nodes=5").nodes == 5
    monkeypatch.setenv("DIST_DASH_SITE", "/nowhere.yaml")
    assert complaint(site).startswith("DIST_DASH_SITE: '/nowhere.yaml' is not allowed (No such file")
    assert site("--site=given.yaml").nodes == 4
    monkeypatch.setenv("DIST_DASH_SITE", "")
    assert site().nodes == 2


def test_the_example_is_right():
    text = (ROOT / "slurm/site.example.yaml").read_text()
    found = held(text)
    assert (found.partition, found.gpus_per_node, found.ranks, found.minutes) == ("gpu", 8, 8, 1440)
    commented = "\n".join(line.removeprefix("# ") for line in text.splitlines()[4:])
    everything = held(commented)
    assert everything.sbatch == {"mail-type": "END", "mail-user": "me@example.org"}


def test_help_tells_of_every_field(capsys):
    parser = argparse.ArgumentParser()
    add_options(parser)
    text = " ".join(parser.format_help().split())
    for field in dataclasses.fields(Site):
        assert f"--{field.name.replace('_', '-')}" in text
    assert "seconds before the limit at which the run is asked to save" in text


# -- what Slurm is asked -----------------------------------------------------------------------------------------------


def test_options_that_are_not_set_are_not_given():
    full = Site("p", "a", "q", "c", "r", "x", "n", 2, 4, 4, 8, 100.0, modules=["m"], environment={"A": "b"})
    for found in (Site(), full):
        options = sbatch_options(found, "name", ["end"])
        assert None not in options.values()
        assert None not in options["additional_parameters"].values()
        assert (options["job_name"], options["teardown"]) == ("name", ["end"])
    assert sbatch_options(full, "a", [])["additional_parameters"] == {"requeue": True, "reservation": "r"}


def test_the_cores_are_asked_for_twice():
    options = sbatch_options(Site(cpus_per_task=8, srun=["--mpi=none"]), "a", [])
    assert options["cpus_per_task"] == 8
    assert options["srun_args"][-2:] == ["--cpus-per-task=8", "--mpi=none"]  # srun does not ask the job for them


def test_the_shell_s_lines_come_in_the_order_in_which_they_are_needed():
    found = Site(modules=["a b", "c"], environment={"X": "$HOME 'y'"}, setup=["set -u"])
    lines = sbatch_options(found, "a", [])["setup"]
    assert [line.partition(" || ")[0] for line in lines[:2]] == ["module load 'a b'", "module load c"]
    assert {line.partition(" || ")[2] for line in lines[:2]} == {
        "{ echo 'dist-dash: a module cannot be loaded' >&2; exit 2; }"
    }
    assert lines[-2:] == ["""export X='$HOME '"'"'y'"'"''""", "set -u"]


@pytest.mark.parametrize(
    ("found", "command"),
    [
        (Site(python="/opt/my env/python"), "'/opt/my env/python'"),
        (
            Site(container="apptainer exec --nv i.sif", python="python3"),
            "apptainer exec --nv i.sif python3",
        ),
    ],
)
def test_the_interpreter(found, command):
    assert found.python_command == command


# -- a member's share --------------------------------------------------------------------------------------------------


@STEADY
@given(st.integers(1, 8), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8, 16, 32]), st.booleans())
def test_the_members_shares_make_up_the_whole(nodes, per_node, members, gpus):
    whole = Site(
        nodes=nodes, tasks_per_node=per_node, gpus_per_node=per_node * gpus, mem_gb=64.0, cpus_per_task=3, account="a"
    )
    if whole.ranks % members:
        return
    ranks = whole.ranks // members
    if ranks > per_node and ranks % per_node:
        assert complaint(share_of, whole, members).startswith(f"ranks: {ranks} per job do not fill nodes")
        return
    share = share_of(whole, members)
    assert share.ranks * members == whole.ranks
    assert share.nodes * share.gpus_per_node * members == whole.nodes * whole.gpus_per_node
    assert share.nodes * share.mem_gb * members == pytest.approx(whole.nodes * whole.mem_gb)
    assert (share.cpus_per_task, share.account, share.time) == (3, "a", whole.time)
    assert share.ranks_per_node <= whole.ranks_per_node


def test_a_share_has_a_gpu_even_where_ranks_share_them():
    assert share_of(Site(gpus_per_node=2, tasks_per_node=8), 8).gpus_per_node == 1
    assert share_of(Site(gpus_per_node=4, tasks_per_node=8), 2).gpus_per_node == 2
    assert share_of(Site(tasks_per_node=8), 8).gpus_per_node == 0
    assert share_of(Site(tasks_per_node=2), 2).mem_gb is None


def test_shares_that_leave_nodes_half_empty():
    with pytest.raises(BadInput, match=r"^ranks: 3 per job do not fill nodes of 2 ranks; use a multiple of it$"):
        share_of(Site(nodes=3, tasks_per_node=2), 2)
