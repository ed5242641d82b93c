"""Names of run folders: what is refused as one, and the default, which tells runs of different choices apart."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from dist_dash.errors import BadInput, require
from dist_dash.recipe.problems import options_of
from dist_dash.runs.choices import LENGTH, WITHOUT_EFFECT, under

LONGEST = 100  # characters of a made name, which becomes a folder and part of file names


def check_run(given: str) -> Path:
    """A run folder as the user names it.

    Raises:
        BadInput: no file system takes it.
    """
    require(bool(given.strip()) and given.isprintable(), "run", given, "the path of a folder")
    longest = max(map(len, map(os.fsencode, given.split("/"))))
    if longest > 255 or len(os.fsencode(given)) > 3000:
        raise BadInput(f"run: {given[:40]!r}… is too long ({len(given)} characters); a name may have 255, a path 3000")
    return Path(given)


def default_run(arguments: Sequence[str], method: type, seed: int) -> Path:
    """`runs/<recipe>-<method>-<what the command line overrides>-s<seed>`: no run meets the folder of another choice.

    What has no effect on results is left out, and with `--extend` the length, which the folder's name cannot know.

    Args:
        arguments: of the command line, which parse.
        method: its class.
        seed: of the run.
    """
    placed = ("seed", *(LENGTH if "--extend" in arguments else ()))
    kept = {field: value for field, value in _overridden(arguments).items() if field not in placed}
    if re.fullmatch(r"[\w.]+", kept.get("method", "")):  # a plain name, which stands in its own place
        del kept["method"]
    parts = [_recipe(arguments), method.__name__.lower(), run_name(kept)]
    return Path("runs", f"{_joined(parts)}-s{seed}")


def default_sweep(arguments: Sequence[str]) -> Path:
    """`runs/<recipe>-<what the command line overrides>-sweep`: the folder of a sweep.

    Args:
        arguments: that all points share.
    """
    return Path("runs", f"{_joined([_recipe(arguments), run_name(_overridden(arguments))])}-sweep")


def _recipe(arguments: Sequence[str]) -> str:
    """The name of the last recipe's file."""
    configs = [value for name, value in options_of(arguments) if name == "config"]
    return Path(configs[-1]).stem if configs else "recipe"


def _overridden(arguments: Sequence[str]) -> dict[str, str]:
    """What a command line overrides and what has an effect, by field."""
    given = {name.replace(".init_args", ""): value for name, value in options_of(arguments)}
    return {field: given[field] for field in sorted(given) if not under(field, ("run", "config", *WITHOUT_EFFECT))}


def _joined(parts: Sequence[str]) -> str:
    return safe_name("-".join(filter(None, parts)), LONGEST + 50)


def run_name(given: Mapping[str, str]) -> str:
    """Values by field as a file name."""
    return safe_name("_".join(f"{field}-{value}" for field, value in given.items()), LONGEST) if given else ""


def safe_name(plain: str, longest: int) -> str:
    """A text as a file name; with a digest of it where the name cannot hold it unchanged."""
    if re.fullmatch(r"[A-Za-z0-9._-]+", plain) and len(plain) <= longest:
        return plain
    digest = hashlib.blake2b(plain.encode(errors="backslashreplace"), digest_size=5).hexdigest()
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", plain)
    return f"{safe[: longest - len(digest) - 1].rstrip('-')}_{digest}"
