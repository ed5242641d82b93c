"""The README's commands are the ones that are tested, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

from dist_dash.recipe.classes import BASES, known
from dist_dash.recipe.parsing import train_parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def test_the_test_command_is_the_one_that_ci_runs() -> None:
    assert "bash tests/run.sh" in commands()
    assert "bash tests/run.sh" in (ROOT / ".ci/run").read_text()
    assert "bash launch/quickstart.sh" in commands()


def test_every_file_that_the_readme_names_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    named = re.findall(r"(?:launch|tests|docs|benchmarks|dist_dash)/[\w/.-]+\w", README)
    assert len(links) >= 3
    assert len(named) >= 5
    assert [path for path in {*links, *named} if not (ROOT / path).exists()] == []


def test_every_train_command_of_the_readme_is_parsed() -> None:
    parser = train_parser()
    parsed = 0
    for line in commands():
        match = re.search(r"(?:dist-dash|-m dist_dash(?: --)?) train (.*?)(?:\s+#.*)?$", line)
        if match and "print_config" not in line:
            arguments = match[1].replace("launch/", f"{ROOT}/launch/").split()
            config = parser.parse_args(arguments)
            assert config.method.class_path.startswith("dist_dash.methods.")
            parsed += 1
    assert parsed >= 3


def test_every_class_that_the_readme_offers_is_known() -> None:
    table = README[README.index("| part | choices |") : README.index("`dist-dash train --help` documents")]
    names = set(re.findall(r"`([A-Z]\w+)`", table))
    ours = {name for base in BASES for name in known(base)}
    assert len(names) >= 20
    assert names <= ours


def test_no_figure_is_left_to_be_filled_in() -> None:
    assert not re.search(r"\b[A-Z]+_TABLE\b", README)
