"""The reader of fields that a person wrote: what a dataclass says is allowed, and one line for everything else."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pytest
from annotated_types import Ge, MinLen
from pydantic_core.core_schema import ErrorType

from dist_dash.errors import BadInput, require
from dist_dash.recipe.typed import WORDS, Allowed, read_yaml, typed

Whole = Annotated[int, Ge(1), Allowed("a whole number ≥ 1")]


@dataclass(frozen=True)
class Room:
    size: float
    doors: Annotated[tuple[int, ...], MinLen(1), Allowed("a list of whole numbers")] = (1,)

    def __post_init__(self) -> None:
        require(self.size < 100, "size", self.size, "below 100")


@dataclass(frozen=True)
class House:
    floors: Whole
    rooms: dict[str, Room]
    attic: Room | None = None
    colour: Literal["red", "blue"] = "red"
    notes: list[str] = field(default_factory=list)
    height: Annotated[float | None, Ge(0)] = None
    steps: Whole | None = None


GOOD: dict[str, Any] = {"floors": 2, "rooms": {"hall": {"size": 3}}}


def refused(texts: bool = False, **change: Any) -> str:
    with pytest.raises(BadInput) as caught:
        typed({**GOOD, **change}, House, "house", texts)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_right_becomes_the_dataclass() -> None:
    assert typed(GOOD, House, "house") == House(2, {"hall": Room(3.0)})
    given = {**GOOD, "attic": {"size": 1.5, "doors": [2, 3]}, "colour": "blue", "notes": ["a"], "height": 2, "steps": 3}
    whole = House(2, {"hall": Room(3.0)}, Room(1.5, (2, 3)), "blue", ["a"], 2.0, 3)
    assert typed(given, House, "house") == whole
    as_texts = {**given, "floors": "2", "attic": {"size": "1.5", "doors": ["2", "3"]}, "height": "2", "steps": "3"}
    assert typed(as_texts, House, "house", texts=True) == whole


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"floor": 2}, "house: 'floor' is no field of it; did you mean floors?"),
        ({"x": 2}, "house: 'x' is no field of it; known: floors, rooms, attic, colour, notes, height, steps"),
        ({"rooms": {"hall": {"doors": []}}}, "rooms.hall: size missing; it must have size"),
        ({"rooms": {"hall": {"sise": 3}}}, "rooms.hall: 'sise' is no field of it; did you mean size?"),
        ({"attic": {"size": 1, "door": 1}}, "attic: 'door' is no field of it; did you mean doors?"),
        ({"attic": 3}, "attic: 3 is not allowed; it must be a group of fields"),
        ({"attic": {"size": 100}}, "attic.size: 100.0 is not allowed; it must be below 100"),
        ({"rooms": {"hall": {"size": "3"}}}, "rooms.hall.size: '3' is not allowed; it must be a number"),
        (
            {"rooms": {"hall": {"size": 1, "doors": [1, "x"]}}},
            "rooms.hall.doors: [1, 'x'] is not allowed; it must be",
        ),
        (
            {"rooms": {"hall": {"size": 1, "doors": []}}},
            "rooms.hall.doors: [] is not allowed; it must be a list",
        ),
        ({"rooms": []}, "rooms: [] is not allowed; it must be a group of fields"),
        ({"floors": 0}, "floors: 0 is not allowed; it must be a whole number ≥ 1"),
        ({"floors": "2"}, "floors: '2' is not allowed; it must be a whole number ≥ 1"),
        ({"floors": True}, "floors: True is not allowed; it must be a whole number ≥ 1"),
        ({"floors": 2.0}, "floors: 2.0 is not allowed; it must be a whole number ≥ 1"),
        ({"floors": None}, "floors: None is not allowed; it must be a whole number ≥ 1"),
        ({"steps": 0}, "steps: 0 is not allowed; it must be a whole number ≥ 1"),
        ({"colour": "green"}, "colour: 'green' is not allowed; it must be 'red' or 'blue'"),
        ({"notes": "a"}, "notes: 'a' is not allowed; it must be a list"),
        ({"notes": ["a", 1]}, "notes[1]: 1 is not allowed; it must be a text"),
        ({"height": -1}, "height: -1 is not allowed; it must be a number ≥ 0"),
        ({("a", "b"): 1}, "house: one of its names is no text (keys must be str, int"),
    ],
)
def test_what_is_wrong_gets_one_line(change: dict[Any, Any], line: str) -> None:
    with pytest.raises(BadInput) as caught:
        typed({**GOOD, **change}, House, "house")
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_texts_are_numbers_only_where_they_may_be() -> None:
    assert refused(texts=True, floors="two") == "floors: 'two' is not allowed; it must be a whole number ≥ 1"
    assert refused(texts=True, floors="2.5").startswith("floors: '2.5' is not allowed")
    assert refused(texts=True, height="x") == "height: 'x' is not allowed; it must be a number"


@pytest.mark.parametrize("given", [None, [1], "a", 3])
def test_no_group_of_fields(given: Any) -> None:
    with pytest.raises(BadInput, match=r"^house: .* is not allowed; it must be a group of fields$"):
        typed(given, House, "house")


def test_missing_fields_are_all_named() -> None:
    with pytest.raises(BadInput, match=r"^house: floors, rooms missing; it must have floors, rooms$"):
        typed({}, House, "house")


def test_every_error_that_has_words_exists() -> None:
    known = set(get_args(ErrorType))
    assert set(WORDS) <= known


def test_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("time: 24:00:00\nn: 1")
    assert read_yaml(tmp_path / "a.yaml", "site", "a site's file") == {"time": 86400, "n": 1}
    assert read_yaml(tmp_path / "a.yaml", "site", "a site's file", texts=True) == {"time": "24:00:00", "n": "1"}
    (tmp_path / "b.yaml").write_text("a: [1,\nb: }")
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00\x01")
    for name in ("b.yaml", "c.yaml", "none.yaml", "."):
        with pytest.raises(BadInput) as caught:
            read_yaml(tmp_path / name, "site", "a site's file")
        assert str(caught.value).startswith(f"site: {str(tmp_path / name)!r} is not allowed (")
        assert str(caught.value).endswith("); it must be a site's file")
        assert "\n" not in str(caught.value)
