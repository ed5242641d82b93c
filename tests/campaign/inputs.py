"""Wrong inputs of every command: each must end with status 2 and one line that names what is wrong, and leave nothing.

`python -m tests.campaign.inputs --count 500 --seed 0` draws so many of those that `cases` makes, runs each in a process
of its own, forked from one that has imported everything, and prints what falls short.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import importlib
import os
import pkgutil
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import numpy as np
import yaml

import dist_dash
from dist_dash.commands.cli import COMMANDS, main
from dist_dash.commands.parser import CommandLine
from dist_dash.recipe.classes import BASES, known
from dist_dash.recipe.parsing import parse_command
from dist_dash.recipe.problems import fields_of
from dist_dash.recipe.recipe import Recipe
from tests.support.unprivileged import bound_by_permissions

DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
LIMIT = 120.0  # seconds for one input
HUGE, ENDLESS = "1" + "0" * 23, "9" * 5000
TRAIN = {
    "data": {"class_path": "Digits", "init_args": {}},
    "model": {"class_path": "MLP", "init_args": {"hidden": 4}},
    "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
    "engine": {"class_path": "Torch", "init_args": {}},
    "method": {"class_path": "SGD", "init_args": {}},
    "record": {"progress": False},
    "max_steps": 1,
    "members": 1,
}
STUDY = {
    "members": 1,
    "seeds": [0],
    "selection": {"score": "nll", "seeds": [100]},
    "conditions": {"clean": {"labels.noise": 0.0}},
    "methods": {"Plain": {"fields": {"method": "SGD"}, "trials": [{"optimizer.lr": 0.1}]}},
    "recipe": {**TRAIN, "labels": {"validation": 0.25}},
}
ALLOWED = {  # of the values below, those that a field may have
    ("labels.mixup", ".inf"),
    ("data.seed", "-1"),
    ("data.difficulty", "-1"),
    ("method.p", ".inf"),
}


class Case(NamedTuple):
    """One wrong input.

    Args:
        what: of which kind it is.
        arguments: of `dist-dash`; `{…}` stands for a path of `Fixtures`.
        names: one of them must be in the line.
        files: written into the folder before, by name; None: an unreadable one.
        forbidden: a path that may be neither read nor written.
    """

    what: str
    arguments: tuple[str, ...]
    names: tuple[str, ...]
    files: tuple[tuple[str, bytes | None], ...] = ()
    forbidden: str = ""


class Result(NamedTuple):
    """What became of a case: in what it falls short, empty where it holds; the status; what was printed on stderr."""

    short: str
    status: int
    said: str


# -- what the commands take --------------------------------------------------------------------------------------------


class _Parser(BaseException):
    def __init__(self, actions: list[argparse.Action]) -> None:
        super().__init__()
        self.actions = actions


def options_of(command: str) -> list[argparse.Action]:
    """The options that a command declares."""

    def tell(self: CommandLine, *_: Any, **__: Any) -> Any:
        if self.prog != "dist-dash":
            raise _Parser(self._actions)
        return argparse.ArgumentParser.parse_known_args(self, *_, **__)

    replaced = CommandLine.parse_args, CommandLine.parse_known_args
    CommandLine.parse_args = lambda self, *a, **k: tell(self, *a, **k)[0]  # type: ignore[method-assign]
    CommandLine.parse_known_args = tell  # type: ignore[method-assign]
    try:
        main([command])
    except _Parser as found:
        return [action for action in found.actions if action.dest != "help"]
    finally:
        CommandLine.parse_args, CommandLine.parse_known_args = replaced  # type: ignore[method-assign]
    return []


BASE = {  # arguments with which each command would do something
    "train": ("--config={recipe}", "--run=new"),
    "evaluate": ("{run}",),
    "predict": ("{run}", "{input}", "--output=out.npz"),
    "join": ("{parts}",),
    "submit": ("--config={recipe}", "--run=new", "--dry-run"),
    "array": ("--config={recipe}", "--sweep=seed=0,1", "--folder=sweep", "--dry-run"),
    "runs": ("{run}",),
    "plan": ("--config={recipe}", "--nodes=1", "--gpus-per-node=1", "--dry-run"),
    "scaling": ("--config={recipe}", "--members=1", "--folder=scaling", "--dry-run"),
    "compare": ("{run}",),
    "report": ("{run}",),
    "flatness": ("{run}", "--samples=10"),
    "shift": ("{run}", "--samples=10"),
    "study": ("{study}", "--folder=study", "--dry-run"),
}


def wrong_values(kind: Any) -> list[str]:
    """Texts that no field of this type may have."""
    optional = type(None) in get_args(kind)
    plain = next((one for one in get_args(kind) if one is not type(None)), kind) if optional else kind
    null = [] if optional else ["null"]
    if plain is int:
        return ["x", "1.5", "nan", "inf", "true", "[1]", "-1", HUGE, f"-{HUGE}", "{a: 1}", "1e3x", ENDLESS, *null]
    if plain is float:
        return ["x", "nan", "[1]", "{a: 1}", "-1", "1..2", "-.inf", ".nan", "true", *null]
    if plain is bool:
        return ["x", "2", "-1", "[true]", "maybe", *null]
    if get_origin(plain) is Literal:
        near = str(get_args(plain)[0])[:-1] + "x"
        return ["nope", near, "[]", "-1", "1.5", "{a: 1}", *null]
    if get_origin(plain) is list:
        return ["x", "{a: 1}", "['x']", "[nan]", "[[1]]", "[null]"]
    if get_origin(plain) is dict:
        return ["x", "[1]", "3", "{a: 1, a: 2}"]
    return []


def of_fields() -> Iterator[Case]:
    """Each field of a recipe with each wrong value, as an option and in a file; and its name misspelt."""
    for field, kind, setting in recipe_fields():
        for value in wrong_values(kind):
            if (field, value) in ALLOWED:
                continue
            leaf = field.rpartition(".")[2]
            base = BASE["train"]
            yield Case("a field's value as an option", ("train", *base, *setting, f"--{field}={value}"), (leaf,))
            if value == "{a: 1, a: 2}":  # right once it is read
                continue
            try:
                recipe = placed(setting, field, yaml.safe_load(value))
            except (yaml.YAMLError, ValueError):
                continue
            text = yaml.dump(recipe, Dumper=DUMPER).encode()
            yield Case(
                "a field's value in a file", ("train", "--config=r.yaml", "--run=new"), (leaf,), (("r.yaml", text),)
            )
        for name in {f"{field}s", field[:-1] + "_x", field.replace("_", "") + "q"}:
            yield Case(
                "a misspelt field", ("train", *BASE["train"], *setting, f"--{name}=1"), (name.rpartition(".")[2],)
            )


def recipe_fields() -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    """Dotted name and type of every field; and the options that choose the class that has it."""
    for name, kind in fields_of(Recipe).kinds.items():
        if dataclasses.is_dataclass(kind):
            for inner, inner_kind in fields_of(kind).kinds.items():  # type: ignore[arg-type]
                yield f"{name}.{inner}", inner_kind, ()
        elif kind in BASES:
            for cls in known(kind):
                for inner, inner_kind in fields_of(known(kind)[cls]).kinds.items():
                    given = {"path": ".", "root": ".", "target": "os:getcwd", "name": "resnet18", "milestones": "[1]"}
                    needed = fields_of(known(kind)[cls]).required - {inner}
                    setting = (f"--{name}={cls}", *(f"--{name}.{one}={given[one]}" for one in needed if one in given))
                    yield f"{name}.{inner}", inner_kind, setting
        else:
            yield name, kind, ()
    for name in ("momentum", "weight_decay"):
        yield f"optimizer.{name}", float, ()


def placed(setting: Sequence[str], field: str, value: Any) -> dict[str, Any]:
    """The recipe with a field set."""
    recipe: dict[str, Any] = copy.deepcopy(TRAIN)
    for word in setting:
        name, _, cls = word.lstrip("-").partition("=")
        if "." in name:
            recipe[name.partition(".")[0]]["init_args"][name.partition(".")[2]] = yaml.safe_load(cls)
        elif recipe.get(name, {}).get("class_path") != cls:
            recipe[name] = {"class_path": cls, "init_args": {}}
    group, _, leaf = field.rpartition(".")
    held = recipe.setdefault(group, {}) if group else recipe
    (held["init_args"] if "class_path" in held and group else held)[leaf] = value
    return recipe


def of_classes() -> Iterator[Case]:
    """What is named where a class is asked for."""
    for field in ("data", "model", "optimizer", "engine", "method", "schedule", "sparsity"):
        near = {"data": "Digit", "model": "MPL", "optimizer": "SDG", "engine": "Troch", "method": "DASSH"}
        for value in (
            *(
                "Nope",
                "",
                "1",
                "[1]",
                "null",
                "nope.Nope",
                "os.path",
                "os.getcwd",
                "json.JSONDecoder",
                "a b",
                ".",
            ),
            near.get(field, "Cosin"),
            "{class_path: Nope}",
            "{class_path: MLP, class_path: MLP}",
        ):
            yield Case("a class", ("train", *BASE["train"], f"--{field}={value}"), (field,))
    for name in ("SparseAdam", "LBFGS", "Muon", "Optimizer"):
        yield Case("an optimizer that cannot work", ("train", *BASE["train"], f"--optimizer={name}"), ("optimizer",))
    for name in ("Adam", "AdamW", "NAdam", "RAdam"):
        for setting in ("capturable", "differentiable"):
            arguments = ("train", *BASE["train"], f"--optimizer={name}", f"--optimizer.{setting}=true")
            yield Case("an optimizer that cannot work", arguments, ("optimizer",))


def of_options() -> Iterator[Case]:
    """Each option of each command with each wrong value, without a value, and misspelt."""
    for command in COMMANDS:
        base = (command, *BASE[command])
        for word in ("--nope", "--nope=1", "-z"):
            yield Case("an unknown option", (*base, word), (word.partition("=")[0].lstrip("-"),))
        if command != "train":
            yield Case("one argument too many", (*base, "stray-argument"), ("stray-argument",))
        for action in options_of(command) if command != "train" else []:
            options = [one for one in action.option_strings if one.startswith("--")]
            if not options:
                continue
            option, leaf = options[0], options[0].lstrip("-")
            takes = action.nargs != 0
            if not takes:
                yield Case("a flag with a value", (*base, f"{option}=3"), (leaf,))
            elif command not in ("submit", "array", "plan", "scaling") or action.type in (int, float) or action.choices:
                yield Case("an option without its value", (*base, option), (leaf,))
            if command not in ("submit", "array", "plan", "scaling", "train"):
                yield Case("a misspelt option", (*base, f"{option}x=1"), (leaf,))
            if action.choices:
                for value in ("nope", "", str(next(iter(action.choices))) + "x"):
                    yield Case("an option's value", (*base, f"{option}={value}"), (leaf,))
            elif action.type in (int, float):
                values = wrong_values(action.type)
                for value in values:
                    if value != "-1" or leaf != "seed":
                        yield Case("an option's value", (*base, f"{option}={value}"), (leaf, leaf.replace("-", "_")))


TEXTS = {  # wrong values of options that are read as text
    ("evaluate", "data"): ["Nope", "", "missing.npz", "Digit", "Synthetic"],
    ("evaluate", "predictions"): ["", "missing.npz", "."],
    ("evaluate", "split"): ["", "validation"],
    ("flatness", "device"): ["nope", "", "cuda:99", "meta", "cpu:x"],
    ("shift", "corruptions"): ["nope", "", "contrast,", "Contrast", "contrast nope"],
    ("shift", "severities"): ["0", "6", "x", "", "1,,2", "1.5", "-1", HUGE],
    ("shift", "ood"): ["Nope", "", "missing.npz", "."],
    ("report", "without"): ["nope", "landscap", "size curves"],
    ("report", "output"): ["x.txt", "nowhere/x.html", "."],
    ("compare", "output"): ["x.txt", "nowhere/x.md", "."],
    ("compare", "baseline"): ["nope"],
    ("predict", "output"): ["x.txt", "nowhere/x.npz", "."],
    ("array", "sweep"): [
        "",
        "seed",
        "seed=",
        "=1",
        "nope=1,2",
        "seed=3..1",
        "epochs=x,y",
        "seed=0,0",
        "method.rho=1,2",
    ],
    ("scaling", "members"): ["", "x", "0", "-1", "1,x", "1,,2", HUGE, "1.5"],
    ("scaling", "replicas"): ["", "x", "0", "-1"],
    ("scaling", "scaling"): ["nope", "", "weak,nope"],
    ("submit", "time"): ["x", "-1", "1:2:3:4", "0"],
    ("submit", "site"): ["missing.yaml", "."],
    ("array", "site"): ["missing.yaml", "."],
    ("train", "config"): ["missing.yaml", ".", "{a: 1}"],
    ("train", "init"): ["nope", "missing.safetensors", "", "Own"],
}


def of_texts() -> Iterator[Case]:
    """Options that are read as text."""
    for (command, option), values in TEXTS.items():
        base = [word for word in BASE[command] if not word.startswith(f"--{option}=")]
        for value in values:
            yield Case(
                "an option's text", (command, *base, f"--{option}={value}"), (option, value.partition("=")[0] or option)
            )


TORN: dict[str, bytes | None] = {
    "empty": b"",
    "zeros": b"\0\1\2" * 9,
    "no UTF-8": b"a: \xff\xfe",
    "a list": b"- 1\n- 2\n",
    "a word": b"hello",
    "torn": b"a: [1,\nb: }",
    "nested": b"[" * 3000,
    "twice": b"seed: 1\nseed: 2\n",
    "itself": b"data: &a {b: *a}\n",
    "tabs": b"a:\n\t- b\n",
    "a tag": b"a: !!python/object/apply:os.getcwd []\n",
    "unreadable": None,
}


def of_files() -> Iterator[Case]:
    """Files that are missing, folders, or hold something else; folders that are files, empty or forbidden."""
    takes = {  # what reads a YAML file
        "config": ("train", "--config={recipe}", "--config=f.yaml", "--run=new"),
        "submit's config": ("submit", "--config=f.yaml", "--run=new", "--dry-run"),
        "array's config": ("array", "--config=f.yaml", "--sweep=seed=1,2", "--folder=sweep", "--dry-run"),
        "scaling's config": ("scaling", "--config=f.yaml", "--members=1", "--folder=s", "--dry-run"),
        "site": ("submit", *BASE["submit"], "--site=f.yaml"),
        "study": ("study", "f.yaml", "--folder=study", "--dry-run"),
    }
    for whose, arguments in takes.items():
        for how, content in TORN.items():
            if (whose, how) not in (("site", "empty"), ("config", "empty")):
                yield Case(f"a YAML file ({how})", arguments, ("f.yaml", "seed", "study: "), (("f.yaml", content),))
        yield Case("a file that is missing", arguments, ("f.yaml",))
    arrays = {  # what reads an .npz file
        "input": ("predict", "{run}", "f.npz", "--output=out.npz"),
        "predictions": ("evaluate", "--predictions=f.npz"),
        "data": ("evaluate", "{run}", "--data=f.npz"),
        "ood": ("shift", "{run}", "--ood=f.npz"),
        "a source": ("train", *BASE["train"], "--data=Arrays", "--data.path=f.npz"),
    }
    for arguments in arrays.values():
        yield Case("a file that is missing", arguments, ("f.npz",))
        for how in ("empty", "zeros", "a word", "unreadable"):
            yield Case(f"an .npz file ({how})", arguments, ("f.npz",), (("f.npz", TORN[how]),))
        for how, content in wrong_arrays().items():
            yield Case(f"an .npz file ({how})", arguments, ("f.npz", "x", "y", "data"), (("f.npz", content),))
    for command in ("evaluate", "predict", "join", "runs", "compare", "report", "flatness", "shift"):
        rest = [word for word in BASE[command] if word not in ("{run}", "{parts}")]
        for path in ("missing", "f.txt", "", "f.txt/run", "{input}", "x" * 300, "a\nb"):
            if (command, path) not in (("runs", ""), ("compare", ""), ("report", ""), ("join", "")):
                yield Case(
                    "a run that is none",
                    (command, path, *rest),
                    (path.strip("{}") or "run", "run", "folder"),
                    (("f.txt", b"x"),),
                )
        if command != "runs":
            yield Case("an empty folder", (command, ".", *rest), ("run", "."))
        if command not in ("join", "predict", "runs"):
            yield Case("an unreadable run", (command, "{run}", *rest), ("run",), forbidden="run")
        for file in ("recipe.yaml", "ensemble/ensemble.json"):
            if command in ("evaluate", "flatness", "shift"):
                yield Case(
                    "a run with an unreadable file",
                    (command, "{run}", *rest),
                    (Path(file).name,),
                    forbidden=f"run/{file}",
                )
    for command in ("evaluate", "report", "flatness", "shift"):
        yield Case("a run that cannot be written", (command, *BASE[command]), ("run",), forbidden="-run")
    for word in ("--run=f.txt", "--run=f.txt/run", "--run={input}"):
        yield Case(
            "a run folder that is a file", ("train", "--config={recipe}", word), ("run", "input"), (("f.txt", b"x"),)
        )
    for source, field in (
        ("ImageFolder", "root"),
        ("CIFAR10", "root"),
        ("CIFAR100", "root"),
        ("IDX", "root"),
        ("Arrays", "path"),
    ):
        for value in ("missing", ".", "f.txt", "", "x" * 300):
            arguments = ("train", *BASE["train"], f"--data={source}", f"--data.{field}={value}")
            yield Case("data that are none", arguments, ("data",), (("f.txt", b"x"),))


def wrong_arrays() -> dict[str, bytes]:
    """Files of arrays that hold something else than they should."""
    x, y = np.zeros((6, 1, 8, 8), np.float32), np.arange(6)
    found = {
        "no x": {"a": x},
        "texts": {"x": np.array(["a", "b"]), "y": y},
        "another shape": {"x": x[:, :, :3], "y": y},
        "no sample": {"x": x[:0], "y": y[:0]},
        "labels of another length": {"x": x, "y": y[:3]},
        "labels that are no numbers": {"x": x, "y": y.astype("U")},
        "objects": {"x": np.array([None, 1], dtype=object), "y": y},
    }
    contents = {}
    for name, arrays in found.items():
        with tempfile.TemporaryFile() as file:
            np.savez(file, **arrays)
            file.seek(0)
            contents[name] = file.read()
    return contents


def of_pairs() -> Iterator[Case]:
    """Choices that contradict each other, or the data."""
    train = ("train", *BASE["train"])
    for names, arguments in {
        ("run", "predictions"): ("evaluate", "{run}", "--predictions={input}"),
        ("evaluate",): ("evaluate",),
        ("split",): ("evaluate", "--predictions={input}", "--split=test"),
        ("output",): ("evaluate", "--predictions={input}", "--output=o"),
        ("data.path",): ("evaluate", "{run}", "--data.path=x"),
        ("resize",): ("shift", "{run}", "--resize"),
        ("ood",): ("shift", "{run}", "--ood.path=x"),
        ("partial",): ("report", "{run}", "--partial"),
        ("baseline",): ("report", "{run}", "--baseline=x"),
        ("loader.order",): (*train, "--method=DASH", "--loader.order=own"),
        ("exchange",): (*train, "--method=DASH", "--exchange=reduce", "--init=shared"),
        ("member", "members"): (*train, "--members=null", "--member=0"),
        ("member",): (*train, "--member=7"),
        ("member", "method"): (*train, "--members=2", "--method=DASH", "--member=0"),
        ("replicas",): (*train, "--replicas=0"),
        ("models",): (*train, "--models=[MLP, MLP, MLP]"),
        ("models", "0"): (*train, "--models=[]"),
        ("loader.batch_size",): (*train, "--loader.batch_size=100000"),
        ("accumulation",): (*train, "--loader.accumulation=100000"),
        ("model", "hidden"): (*train, "--model.hidden=100000000"),
        ("model", "width"): (*train, "--model=SmallCNN", "--model.width=100000000"),
        ("WideResNet", "width"): (*train, "--model=WideResNet", "--model.width=1000000"),
        ("batch_size", "batch"): (*train, "--model.norm=batch", "--loader.batch_size=1"),
        ("engine.precision",): (*train, "--engine.precision=fp8"),
        ("model.target",): (*train, "--model=Custom", "--model.target=nope:nope"),
        ("target",): (*train, "--model=Custom", "--model.target=nope"),
        ("os", "target"): (*train, "--model=Custom", "--model.target=os:getcwd"),
        ("augment",): (*train, "--augment.pad_crop=1000000"),
        ("batch_size", "validation"): (*train, "--labels.validation=0.9999"),
        ("mean",): (*train, "--data.mean=[1, 2, 3]", "--data.std=[1, 1, 1]"),
        ("std",): (*train, "--data.std=[0]", "--data.mean=[0]"),
        ("schedule.milestones", "milestones"): (*train, "--schedule=Step", "--schedule.milestones=[3, 1]"),
        ("warmup",): (*train, "--schedule.warmup=-1"),
        ("max_steps", "epochs"): (*train, "--max_steps=0"),
        ("sweep",): ("array", "--config={recipe}", "--folder=s", "--dry-run"),
        ("members",): ("scaling", "--config={recipe}", "--folder=s", "--dry-run"),
        ("--run", "run"): ("scaling", *BASE["scaling"], "--run=x"),
        ("command", "nope"): ("nope",),
        ("COMMAND", "command"): (),
        ("trian", "train"): ("trian",),
    }.items():
        yield Case("choices that contradict", arguments, names)
    for field, value in (
        ("members", 0), ("members", "x"), ("seeds", []), ("seeds", ["x"]), ("seeds", [-1]), ("seeds", 3),
        ("selection", 3),
        ("selection", {"score": "nope", "seeds": [1]}), ("conditions", {}), ("methods", {}),
        ("methods", {"Plain": 3}), ("methods", {"Plain": {"fields": {"nope": 1}, "trials": [{}]}}), ("methods", None),
        ("conditions", {"clean": {"nope": 1}}), ("recipe", 3), ("recipe", {}), ("baselines", ["nope"]), ("nope", 1),
        ("seeds", [10**23]), ("members", 10**23), ("members", -1), ("members", 1.5), ("members", True),
        ("seeds", [0, 0]),
    ):  # fmt: skip
        text = yaml.safe_dump({**STUDY, field: value}).encode()
        yield Case(
            "a study's field",
            ("study", "s.yaml", "--folder=study", "--dry-run"),
            (field, str(value), "nope", "data", "optimizer"),
            (("s.yaml", text),),
        )
    for field, value in (
        ("nodes", "x"), ("nodes", "0"), ("nodes", "-1"), ("nodes", HUGE), ("time", "x"), ("tasks_per_node", "0"),
        ("tasks_per_node", "nan"), ("nope", "1"), ("cpus_per_task", "1.5"), ("gpus_per_node", "-1"), ("time", "-5"),
        ("setup", "{a: 1}"), ("additional", "3"),
    ):  # fmt: skip
        content = f"{field}: {value}\n".encode()
        yield Case("a site's field", ("submit", *BASE["submit"], "--site=s.yaml"), (field,), (("s.yaml", content),))


@functools.cache
def cases() -> list[Case]:
    """All wrong inputs, each once."""
    makers: list[Callable[[], Iterator[Case]]] = [of_fields, of_classes, of_options, of_texts, of_files, of_pairs]
    return list(dict.fromkeys(case for make in makers for case in make()))


def drawn(count: int, seed: int) -> list[Case]:
    """So many of them, of every kind about equally many."""
    draw, groups = random.Random(seed), dict[str, list[Case]]()
    for case in cases():
        groups.setdefault(case.what, []).append(case)
    for group in groups.values():
        draw.shuffle(group)
    found: list[Case] = []
    while len(found) < count and any(groups.values()):
        found += [group.pop() for group in groups.values() if group]
    return found[:count]


# -- one case ----------------------------------------------------------------------------------------------------------


class Fixtures:
    """Right inputs in a folder of their own: a recipe, a finished run, an .npz file, a study."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe, self.study, self.run = folder / "recipe.yaml", folder / "study.yaml", folder / "run"
        self.input, self.parts = folder / "input.npz", folder / "parts"
        folder.mkdir(exist_ok=True)
        self.recipe.write_text(yaml.safe_dump(TRAIN))
        for module in pkgutil.walk_packages(dist_dash.__path__, "dist_dash."):  # once, not in every fork
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        parse_command([f"--config={self.recipe}"])
        self.study.write_text(yaml.safe_dump(STUDY))
        np.savez(self.input, x=np.zeros((4, 1, 8, 8), np.float32), y=np.arange(4))
        (self.parts / "member_00").mkdir(parents=True)
        made = in_a_fork(
            ["train", f"--config={self.recipe}", f"--run={self.run}", "--max_steps=3"], folder, folder / "log"
        )
        if made[0] != 0:
            raise RuntimeError(f"the run that is needed cannot be made: {made[2]}")

    def filled(self, word: str) -> str:
        """An argument with the paths in it."""
        return re.sub(r"\{(recipe|study|run|input|parts)\}", lambda match: str(getattr(self, match[1])), word)


def in_a_fork(arguments: Sequence[str], folder: Path, logs: Path) -> tuple[int, str, str]:
    """Status, stdout and stderr of `dist-dash` as the only rank of a run, in this folder; -9: it took too long."""
    logs.mkdir(exist_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.setsid()
            os.chdir(folder)
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            store = f"file://{logs / 'store'}"
            (logs / "store").unlink(missing_ok=True)
            if arguments[:1] == ["train"]:
                place = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
                os.environ |= {**place, "DIST_DASH_RENDEZVOUS": store, "GLOO_SOCKET_IFNAME": "lo"}
            with bound_by_permissions():
                try:
                    status = main(arguments)
                except SystemExit as error:
                    status = error.code if isinstance(error.code, int) else 98
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    end = time.monotonic() + LIMIT
    while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -9, "", ""
        time.sleep(0.005)
    texts = [(logs / name).read_text(errors="replace") for name in ("out", "err")]
    return os.waitstatus_to_exitcode(done[1]), *texts  # type: ignore[return-value]


def tried(case: Case, fixtures: Fixtures, folder: Path) -> Result:
    """Run a case in an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in case.files:
        (folder / name).write_bytes(b"a: 1\n" if content is None else content)
        if content is None:
            (folder / name).chmod(0)
    forbidden = fixtures.folder / case.forbidden.lstrip("-") if case.forbidden else None
    mode = forbidden.stat().st_mode if forbidden else 0
    before = seen(folder), seen(fixtures.folder)
    if forbidden:
        forbidden.chmod(0o500 if case.forbidden.startswith("-") else 0)
    try:
        status, out, said = in_a_fork(
            [fixtures.filled(word) for word in case.arguments], folder, folder.with_name("logs")
        )
    finally:
        if forbidden:
            forbidden.chmod(mode)
    after = seen(folder), seen(fixtures.folder)
    short = [f"status {status}"] if status != 2 else []
    lines = said.splitlines()
    short += ["a traceback"] if "Traceback" in said else [f"{len(lines)} lines"] if len(lines) != 1 else []
    short += ["prints on stdout"] if out else []
    short += [f"does not name {' or '.join(case.names)}"] if not any(name in said for name in case.names) else []
    new = [name for old, now in zip(before, after, strict=True) for name in now if now[name] != old.get(name)]
    short += [f"leaves {', '.join(new[:3])}"] if new else []
    return Result("; ".join(short), status, said)


def seen(folder: Path) -> dict[str, tuple[int, int]]:
    """What is in a folder, by size and time; who used a run last may change."""
    found = {}
    for path in folder.rglob("*"):
        if "owner" not in path.name and path.is_file():
            found[str(path)] = path.stat().st_size, path.stat().st_mtime_ns
        elif path.is_dir():
            found[str(path)] = 0, 0
    return found


def entry(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; 0 where all hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.inputs", description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="how many inputs (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="of their choice (default: 0)")
    parser.add_argument("--all", action="store_true", help="every input that there is")
    options = parser.parse_args(arguments)
    chosen = cases() if options.all else drawn(options.count, options.seed)
    held = 0
    with tempfile.TemporaryDirectory() as temporary:
        fixtures = Fixtures(Path(temporary) / "fixtures")
        for case in chosen:
            result = tried(case, fixtures, Path(temporary) / "case")
            held += not result.short
            if result.short:
                shown = " ".join(word[:80] for word in case.arguments)
                print(f"{result.short}\n  dist-dash {shown}\n  {case.what}: {result.said[:300].strip()}", flush=True)
    print(f"{held} of {len(chosen)} hold")
    return int(held < len(chosen))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(entry())
