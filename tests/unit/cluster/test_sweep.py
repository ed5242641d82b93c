"""Sweeps: the grid, its order, names that are file names, and every way in which a sweep can be bad input."""

import math
import re
from itertools import product
from pathlib import Path

import pytest
from complaints import PYTHON_SPEAK
from hypothesis import given
from hypothesis import strategies as st

from dist_dash.cluster import sweep
from dist_dash.cluster.sweep import LARGEST, SweepPoint, check, points
from dist_dash.errors import BadInput
from dist_dash.recipe.parsing import parse_command
from dist_dash.recipe.run_names import LONGEST

BASE = ["--config", str(Path(__file__).parents[1] / "sample.yaml"), "--members=3"]

FIELDS = ["method", "seed", "optimizer.lr", "method.rho_div", "data.root", "loader.batch_size"]
RANGE = re.compile(r"-?[0-9]+\.\.-?[0-9]+")
VALUE = st.text(st.characters(exclude_characters=",[](){}", codec="utf-8"), min_size=1, max_size=60)
VALUES = st.lists(
    VALUE.map(str.strip).filter(lambda v: v and not RANGE.fullmatch(v)), min_size=1, max_size=4, unique=True
)
AXES = st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3, unique=True).flatmap(
    lambda fields: st.fixed_dictionaries(dict.fromkeys(fields, VALUES))
)


def swept(axes: dict[str, list[str]]) -> list[str]:
    return [f"{field}={','.join(values)}" for field, values in axes.items()]


def values(field: str, found: list[SweepPoint]) -> list[str]:
    return [a.partition("=")[2] for p in found for a in p.arguments if a.partition("=")[0] == f"--{field}"]


def complaint(*sweeps: str) -> str:
    with pytest.raises(BadInput) as caught:
        check(points(BASE, sweeps))
    text = str(caught.value)
    assert "\n" not in text
    assert not PYTHON_SPEAK.search(text), text
    return text


# -- the grid ----------------------------------------------------------------------------------------------------------


@given(AXES)
def test_the_points_are_the_full_grid_in_the_order_given(axes):
    found = points(BASE, swept(axes))
    assert len(found) == math.prod(len(v) for v in axes.values())
    for point, combination in zip(found, product(*axes.values()), strict=True):
        assert list(point.arguments[: len(BASE)]) == BASE
        expected = {f"--{field}={value}" for field, value in zip(axes, combination, strict=True)}
        assert len(point.arguments) == len(BASE) + len(expected)
        assert set(point.arguments[len(BASE) :]) == expected


@given(AXES)
def test_names_are_unique_file_names_of_bounded_length(axes):
    names = [point.name for point in points(BASE, swept(axes))]
    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]*", name)
        assert len(name) <= LONGEST


@given(AXES, st.data())
def test_a_name_does_not_depend_on_the_other_points(axes, data):
    chosen = {field: [data.draw(st.sampled_from(v))] for field, v in axes.items()}
    (alone,) = points(BASE, swept(chosen))
    assert alone in points(BASE, swept(axes))


@given(st.integers(-20, 20), st.integers(0, 30), st.integers(100, 200))
def test_a_range_holds_both_of_its_ends(first, more, other):
    found = points([], [f"seed={first}..{first + more},{other}"])
    assert values("seed", found) == [str(n) for n in [*range(first, first + more + 1), other]]


def test_the_names_say_the_values():
    found = points(BASE, ["method=SGD,SAM", "seed=0..1"])
    assert [p.name for p in found] == [
        "method-SGD_seed-0",
        "method-SGD_seed-1",
        "method-SAM_seed-0",
        "method-SAM_seed-1",
    ]
    assert found[2].arguments == (*BASE, "--method=SAM", "--seed=0")
    assert points(BASE, ["optimizer.lr=1e-3"])[0].name == "optimizer.lr-1e-3"


def test_values_that_only_look_alike_as_names_are_distinguished():
    names = [p.name for p in points(BASE, ["data.root=/a/b,/a-b,/a b,-a-b"])]
    assert len(set(names)) == 4
    assert names[3] == "data.root--a-b"
    assert all(name.startswith("data.root--a-b") for name in names)


def test_long_values_make_no_long_names():
    long = [f"init={'x' * LONGEST}{end}.safetensors" for end in "ab"]
    names = [points(BASE, [text])[0].name for text in long]
    assert names[0] != names[1]
    assert [len(name) for name in names] == [LONGEST, LONGEST]


def test_two_points_of_one_name_are_refused():
    with pytest.raises(BadInput, match="two points are called"):
        points([], ["a=1,1_b-1", "b=1_b-1,1"])


def test_a_comma_within_brackets_belongs_to_its_value():
    found = points(
        [], ["schedule.milestones=[2,5],[[3],[6,7]]", "models=[{class_path: MLP, init_args: {a: 1, b: 2}},MLP]"]
    )
    assert values("schedule.milestones", found) == ["[2,5]", "[[3],[6,7]]"]
    assert values("models", found)[0] == "[{class_path: MLP, init_args: {a: 1, b: 2}},MLP]"


@pytest.mark.parametrize("name", ["method", "method.class_path"])
def test_a_class_comes_before_its_fields(name):
    found = points(BASE, ["method.rho_div=0.1,0.3", f"{name}=DASH"])
    assert found[0].arguments[len(BASE) :] == (f"--{name}=DASH", "--method.rho_div=0.1")
    assert [c.recipe.method.rho_div for c in check(found)] == [0.1, 0.3]
    found = points(BASE, ["method.p=2,3", "method=SAM"])  # not a field of the recipe's own method
    assert [c.recipe.method.p for c in check(found)] == [2.0, 3.0]


# -- the check ---------------------------------------------------------------------------------------------------------


def test_every_point_gives_what_parsing_it_gives():
    found = points(BASE, ["method=SGD,SAM", "seed=3..6,011,12", "optimizer.lr=0.1,1e-2"])
    for point, command in zip(found, check(found), strict=True):
        parsed = parse_command(point.arguments)
        assert command.as_yaml() == parsed.as_yaml()
        assert (command.run, command.replicas, command.fresh) == (parsed.run, parsed.replicas, parsed.fresh)
        assert command.recipe.seed == parsed.recipe.seed
        assert type(command.recipe.method) is type(parsed.recipe.method)


def test_two_hundred_points_take_a_handful_of_parses(monkeypatch):
    parsed = []

    def counted(arguments):
        parsed.append(arguments)
        return parse_command(arguments)

    monkeypatch.setattr(sweep, "parse_command", counted)
    found = points(BASE, ["method=SGD,SAM", "optimizer=SGD,AdamW", "seed=0..49"])
    commands = check(found)
    assert len(commands) == len(found) == 200
    assert [c.recipe.seed for c in commands] == list(range(50)) * 4
    assert len(parsed) <= 6
    assert {a for arguments in parsed for a in arguments if "seed" in a} >= {"--seed=0", "--seed=49"}


def test_the_seed_may_come_from_the_recipe_or_the_base():
    assert [c.recipe.seed for c in check(points([*BASE, "--seed", "7"], ["epochs=1,2"]))] == [7, 7]
    assert [c.recipe.seed for c in check(points([*BASE, "--seed=7"], ["seed=1,2"]))] == [1, 2]


def test_points_that_differ_are_no_duplicates():
    assert len(check(points(BASE, ["record.progress=true,false", "max_steps=null,1,10", "seed=1,10"]))) == 12


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sweeps", "field", "said"),
    [
        (["seed"], "sweep", ["'seed'", "FIELD=V1,V2"]),
        (["=3"], "sweep", ["'=3'", "FIELD=V1,V2"]),
        (["--seed=1"], "sweep", ["'--seed=1'", "FIELD=V1,V2"]),
        (["method.=1"], "sweep", ["'method.=1'", "FIELD=V1,V2"]),
        ([], "sweep", ["missing", "FIELD=V1,V2"]),
        (["seed="], "seed", ["''", "there must be a value"]),
        (["seed=0,,1"], "seed", ["'0,,1'", "there must be a value"]),
        (["seed=0, "], "seed", ["'0,'", "there must be a value"]),
        (["seed=4..0"], "seed", ["'4..0'", "ascend", "0..4"]),
        (["seed=0..1000000000000"], "seed", ["'0..1000000000000'", str(LARGEST)]),
        (["seed=0..999", "epochs=1..100"], "sweep", ["100000", str(LARGEST)]),
        (["seed=0,0"], "seed", ["'0' is given twice"]),
        (["seed=0..3,2"], "seed", ["'2' is given twice", "0..3,2"]),
        (["seed=0,1", "epochs=1", "seed=2"], "seed", ["a second time", "'seed=2'"]),
        (["run=a,b"], "run", ["'a,b'", "folder of its own"]),
        (["config=a.yaml,b.yaml"], "config", ["a.yaml", "one recipe"]),
        (["fresh=true"], "fresh", ["true", "all points"]),
        (["members=2,3"], "members", ["'2,3'", "how many ranks"]),
        (["replicas=2,3"], "replicas", ["'2,3'", "how many ranks"]),
        (["member=0..2"], "member", ["0..2", "one ensemble"]),
        (["method.help=SAM"], "method.help", ["SAM", "prints"]),
        (["print_config=skip_default"], "print_config", ["skip_default", "prints"]),
        # by the recipe's own words, and with the point
        (["methd=SAM"], "methd", ["did you mean method?", "(point methd-SAM)"]),
        (["optimizer.momntum=1,2"], "optimizer.momntum", ["mean optimizer.momentum?", "(point optimizer.momntum-1)"]),
        (["seed=0..3,-1"], "seed", ["-1", "≥ 0", "(point seed--1)"]),
        (["seed=1,2,x"], "seed", ["'x'", "a whole number", "(point seed-x)"]),
        (["seed=3.."], "seed", ["'3..'", "a whole number", "(point seed-3..)"]),
        (["epochs=1,0"], "epochs", ["≥ 1", "(point epochs-0)"]),
        (["method=DASH,SAMM"], "method", ["'SAMM'", "SAM, SGD", "(point method-SAMM)"]),
        (
            ["seed=0..9", "method=DASH,SAM", "method.rho_div=0.1,0.3"],
            "method.rho_div",
            ["no such field", "(point seed-0_method-SAM_method.rho_div-0.1)"],
        ),
        # the same run in other words
        (["optimizer.lr=0.1,1e-1"], "optimizer.lr", ["'1e-1'", "'0.1'", "optimizer.lr-0.1 and optimizer.lr-1e-1"]),
        (["method.rho_div=1,1.0"], "method.rho_div", ["'1.0'", "'1'", "the same run"]),
        (["seed=1..3,02"], "seed", ["'02'", "'2'", "seed-2 and seed-02 are the same run"]),
        (["method=SAM,dist_dash.methods.SAM"], "method", ["'SAM'", "the same run"]),
        (
            [
                "model={class_path: Custom, init_args: {target: a:b, kwargs: {c: 1, d: 2}}},"
                "{class_path: Custom, init_args: {kwargs: {d: 2, c: 1}, target: a:b}}"
            ],
            "model",
            ["the same run"],
        ),
        (["method.rho_div=0.1,0.2", "method.init_args.rho_div=0.3"], "method.rho_div", ["changes nothing"]),
    ],
)
def test_bad_input_is_named_with_what_is_allowed(sweeps, field, said):
    text = complaint(*sweeps)
    assert text.startswith(f"{field}: "), text
    assert [words for words in said if words not in text] == [], text


def test_nothing_of_a_sweep_passes_before_all_of_it_is_checked():
    assert "(point epochs-0_seed-0)" in complaint("epochs=1,0", "seed=0..20")


def test_the_largest_seed_is_parsed_whatever_its_place(monkeypatch):
    def small_seeds_only(arguments):
        command = parse_command(arguments)
        if command.recipe.seed > 30:
            raise BadInput(f"seed: {command.recipe.seed} is not allowed; it must be at most 30")
        return command

    monkeypatch.setattr(sweep, "parse_command", small_seeds_only)
    assert "(point seed-35)" in complaint("seed=5,35,6..9")
    assert len(check(points(BASE, ["seed=5,30,6..9"]))) == 6


@given(st.text(max_size=30))
def test_any_text_is_a_sweep_or_one_line_of_complaint(text):
    found, complaints = [], []
    try:
        found = points([], [text])
    except BadInput as error:
        complaints = str(error).splitlines()
    assert found or len(complaints) == 1
