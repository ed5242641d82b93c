"""HTML from templates: every value is escaped where it is put in."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from dist_dash.files import replacing


@functools.cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("dist_dash.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["with_code"] = with_code
    return environment


def page(template: str, **values: Any) -> str:
    """One page with its style in it.

    Args:
        template: name of a file in `templates/`.
        values: what it shows.
    """
    loader = _templates().loader
    assert loader is not None
    css, *_ = loader.get_source(_templates(), "style.css")
    return _templates().get_template(template).render(**values, css=Markup(css))


def with_code(sentence: str) -> Markup:
    """A sentence, escaped, with what stands between backticks as code."""
    parts = str(sentence).split("`")
    if len(parts) % 2 == 0:
        return escape(sentence)
    code = Markup("<code>{}</code>")
    return Markup("").join(code.format(part) if index % 2 else escape(part) for index, part in enumerate(parts))


def write_page(path: Path, content: str) -> None:
    """Write a page atomically, in UTF-8 whatever the locale; characters that are no Unicode are replaced."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode("utf-8", "replace"))


def name_of(path: Path) -> str:
    """The name of a folder; bytes that are no Unicode are replaced."""
    return os.fsencode(path.resolve().name).decode("utf-8", "replace")


def relative(place: Path, page: Path) -> str:
    """Where a page finds a file or a folder, as a relative address."""
    return quote(os.fsencode(os.path.relpath(place.resolve(), page.resolve().parent)))
