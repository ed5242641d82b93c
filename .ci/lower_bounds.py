"""The lowest allowed version of each dependency, as pip reads it; `--check`: whether this environment has these."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FIXED = {"torch", "deepspeed"}  # gigabytes each: their versions are those of constraints.txt


def lower_bounds() -> dict[str, str]:
    """Name → version, of what a user may install."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["report"]]
    found = [re.match(r"([\w-]+)(?:\[.*?\])?>=([\d.]+)", line) for line in wanted]
    missing = [line for line, match in zip(wanted, found, strict=True) if match is None]
    if missing:
        raise SystemExit(f"lower_bounds: no lower bound: {', '.join(missing)}")
    return {match[1]: match[2] for match in found if match and match[1] not in FIXED}


def release(text: str) -> tuple[int, ...]:
    """`3.1` and `3.1.0` are one."""
    numbers = [int(part) for part in re.findall(r"\d+", text)]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def main() -> int:
    """Print them, or compare."""
    bounds = lower_bounds()
    if "--check" not in sys.argv:
        print("\n".join(f"{name}=={bound}" for name, bound in bounds.items()))
        return 0
    wrong = {name: version(name) for name, bound in bounds.items() if release(version(name)) != release(bound)}
    for name, found in wrong.items():
        print(f"lower_bounds: {name} is {found}, its lower bound is {bounds[name]}", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
