"""What recipes hold, read from the source of their classes: `--help` must not wait for torch."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
OPTIONS = {
    "config": "a recipe (YAML); later arguments override it",
    "run": "run folder (default: runs/<recipe>-<method>-<what the command line overrides>-s<seed>)",
    "fresh": "start over where the folder holds a run",
    "extend": "train a finished or stopped run on, to more epochs or max_steps",
    "replicas": "ranks per member (default: as many as there are)",
    "member": "train this member alone, as it would become among all (no exchange)",
    "print_config": "print the complete recipe as YAML and exit",
}
FLAGS = ("fresh", "extend")
"""Options without a value."""
DEFAULTS = {"method": "DASH", "engine": "DeepSpeed", "schedule": "Cosine", "sparsity": "Dense"}
KINDS = {  # of classes, and the folder that holds them
    "Source": "data",
    "Architecture": "models",
    "Engine": "member",
    "Method": "methods",
    "Trajectory": "trajectories",
    "Sparsity": "sparsity",
}


def train_help() -> str:
    """The text of `dist-dash train --help`."""
    parser = argparse.ArgumentParser(
        prog="dist-dash train",
        usage="dist-dash train --config R.yaml [--run RUN] [--members M] [--any.field value]",
        description="Train an ensemble, one member per rank.",
        epilog="Fields of a class are given as --method.rho_div 0.1; `dist-dash train --method.help DASH` lists them. "
        "A class of your own is named by its path, such as package.module.Name.",
    )
    for name, text in OPTIONS.items():
        value = None if name in (*FLAGS, "print_config") else name.upper()
        parser.add_argument(f"--{name}", help=text, **({"metavar": value} if value else {"action": "store_true"}))  # type: ignore[arg-type]
    classes = {cls.name: cls for file in ("recipe/recipe.py", "data/augment.py") for cls in _classes(PACKAGE / file)}
    own = parser.add_argument_group("fields of a recipe")
    for name, kind, default, text in _fields(classes["Recipe"]):
        if kind in classes:
            group = parser.add_argument_group(f"{name}: {text.removesuffix('.')}")
            for field, inner, value, words in _fields(classes[kind]):
                group.add_argument(f"--{name}.{field}", metavar=_metavar(inner), help=_help(words, value))
        else:
            names = [known for base, folder in KINDS.items() if base in kind for known in _names(base, folder)]
            choices = f" One of {', '.join(names)}." if names else ""
            own.add_argument(
                f"--{name}", metavar=_metavar(kind), help=_help(text + choices, DEFAULTS.get(name, default))
            )
    return parser.format_help().rstrip()


def _fields(cls: ast.ClassDef) -> Iterator[tuple[str, str, str | None, str]]:
    """Name, type, default and text of each field of a dataclass."""
    texts = _texts(ast.get_docstring(cls) or "")
    for node in cls.body:
        if isinstance(node, ast.AnnAssign):
            name, default = ast.unparse(node.target), ast.unparse(node.value) if node.value else None
            yield name, ast.unparse(node.annotation), default, texts.get(name, "")


def _texts(docstring: str) -> dict[str, str]:
    """Each argument's text of a docstring; a line that is indented further goes on with the one before it."""
    found: dict[str, str] = {}
    name = ""
    for line in docstring.partition("Args:\n")[2].splitlines():
        if line.startswith(" " * 8):
            found[name] += f" {line.strip()}"
        elif line.startswith(" " * 4):
            name, _, text = line.strip().partition(": ")
            found[name] = text
        else:
            break
    return found


@cache
def _classes(file: Path) -> list[ast.ClassDef]:
    return [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]


def _names(base: str, folder: str) -> list[str]:
    """This project's classes of a kind, those that can be made."""
    classes = [cls for file in (PACKAGE / folder).glob("*.py") for cls in _classes(file)]
    above = {cls.name: {ast.unparse(one) for one in cls.bases} for cls in classes}
    abstract = {cls.name for cls in classes if "abstractmethod" in ast.unparse(cls)}
    below = {base}
    while more := {name for name, bases in above.items() if bases & below} - below:
        below |= more
    return sorted(name for name in below - {base} - abstract if not name.startswith("_"))


def _help(text: str, default: str | None) -> str:
    words = {"None": "null", "True": "true", "False": "false"}
    shown = "" if default is None else f" (default: {words.get(default, default.strip(chr(39)))})"
    return (text + shown).replace("%", "%%")


def _metavar(kind: str) -> str:
    if kind.startswith("Literal["):
        return "{" + kind[len("Literal[") : -1].replace("'", "").replace(", ", ",") + "}"
    plain = {"int": "N", "float": "X", "bool": "{true,false}", "str": "TEXT", "int | None": "N"}
    return plain.get(kind, "CLASS")
