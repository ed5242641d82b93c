"""Some of the campaign's wrong inputs (`python -m tests.campaign.inputs`), of every kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaign.inputs import Case, Fixtures, cases, drawn, tried


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> Fixtures:
    return Fixtures(tmp_path_factory.mktemp("fixtures") / "right")


@pytest.mark.parametrize("case", drawn(45, seed=11), ids=lambda case: case.what)
def test_it_is_refused_in_one_line_and_leaves_nothing(case: Case, fixtures: Fixtures, tmp_path: Path) -> None:
    result = tried(case, fixtures, tmp_path / "case")
    assert not result.short, (case, result)


def test_a_right_input_falls_short(fixtures: Fixtures, tmp_path: Path) -> None:
    result = tried(Case("right", ("runs", "{run}"), ("run",)), fixtures, tmp_path / "case")
    assert result.short.startswith("status 0; 0 lines; prints on stdout")


def test_there_are_enough() -> None:
    assert len(cases()) > 2000
    assert drawn(500, seed=0) == drawn(500, seed=0) != drawn(500, seed=1)
