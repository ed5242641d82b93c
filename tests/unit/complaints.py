import re

import pytest

from dist_dash.errors import BadInput
from dist_dash.parsing import parse_command

PYTHON_SPEAK = re.compile(r"<class|Namespace|NoneType|typing\.|Subtypes|Parser key|class_path=|functools|<\w+ string>")


def complaint(arguments: list[str]) -> str:
    with pytest.raises(BadInput) as caught:
        parse_command(arguments)
    text = str(caught.value)
    assert "\n" not in text
    assert not PYTHON_SPEAK.search(text), text
    return text


def names(text: str, field: str, value: str, *allowed: str) -> None:
    assert text.startswith(f"{field}: "), text
    assert value in text
    assert [a for a in allowed if a not in text] == [], text
