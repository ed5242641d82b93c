"""A few drawn changes of every kind of file; `python -m tests.campaign.fuzz` has as many as you like."""

import itertools

import pytest

from tests.campaign.fuzz import TARGETS, Fuzz, trials
from tests.campaign.mutations import PLANTED

COUNT = 40


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory):
    return Fuzz(tmp_path_factory.mktemp("fuzz") / "runs")


def test_changed_files_are_refused_or_change_nothing(fuzz):
    found = []
    for target, draw in itertools.islice(trials(seed=7), COUNT):
        content, what = target.change(draw, (fuzz.prepared / target.file).read_bytes())
        if wrong := fuzz.wrong_with(target, content):
            found.append(f"{target.name}, {what}: {wrong}")
    assert not found, "\n".join(found)


def test_the_campaign_sees_what_it_looks_for(fuzz, monkeypatch):
    predict = TARGETS[0]
    good = (fuzz.prepared / predict.file).read_bytes()
    assert fuzz.wrong_with(predict, good) == ""
    faults = {
        f"import of {PLANTED}": lambda given: __import__(PLANTED),
        "os.system": lambda given: __import__("os").system("true"),
        "open for writing": lambda given: (fuzz.folder.parent / "elsewhere").open("w").close(),
        "exit ": lambda given: [][0],
        "not one line": lambda given: print("nothing is wrong") or 2,
        "changed without a word": lambda given: fuzz_other(fuzz),
    }
    for expected, fault in faults.items():
        monkeypatch.setattr("tests.campaign.fuzz.dist_dash", fault)
        assert fuzz.wrong_with(predict, good).startswith(expected)


def fuzz_other(fuzz):
    import numpy as np

    np.savez("p.npz", probs=np.zeros(3))
    return 0
