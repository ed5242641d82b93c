import re
from pathlib import Path

import pytest

from dist_dash.commands.cli import main
from dist_dash.data import Source
from dist_dash.errors import BadInput
from dist_dash.recipe.parsing import parse_command

PYTHON_SPEAK = re.compile(r"<class|Namespace|NoneType|typing\.|Subtypes|Parser key|class_path=|functools|<\w+ string>")


def complaint(arguments: list[str]) -> str:
    with pytest.raises(BadInput) as caught:
        parse_command(arguments)
    text = str(caught.value)
    assert "\n" not in text
    assert not PYTHON_SPEAK.search(text), text
    return text


def source_complaint(source: Source) -> str:
    with pytest.raises(BadInput) as caught:
        source.load()
    text = str(caught.value)
    assert "\n" not in text
    return text


def names(text: str, field: str, value: str, *allowed: str) -> None:
    assert text.startswith(f"{field}: "), text
    assert value in text
    assert [a for a in allowed if a not in text] == [], text


def cli_complaint(capsys, *arguments: object) -> str:
    """The one line on stderr of a command that refuses its input."""
    before = set(Path.cwd().rglob("*"))
    assert main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("dist-dash: ")
    assert set(Path.cwd().rglob("*")) == before
    return captured.err
