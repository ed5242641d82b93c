import subprocess
import sys

import pytest

from dist_dash.commands.cli import COMMANDS
from dist_dash.recipe.classes import BASES, known
from dist_dash.recipe.description import DEFAULTS, OPTIONS, train_help
from dist_dash.recipe.parsing import train_parser

HEAVY = {"torch", "numpy", "rich", "deepspeed", "submitit", "scipy", "matplotlib", "sklearn", "jsonargparse"}
SHOW = """
import sys
from dist_dash.commands.cli import main
try:
    status = main([sys.argv[1], "--help"])
except SystemExit as ended:
    status = ended.code
print(*sys.modules, file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_waits_for_nothing_heavy(command):
    done = subprocess.run([sys.executable, "-c", SHOW, command], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: dist-dash {command} ")
    loaded = set(done.stderr.split())
    assert f"dist_dash.commands.{command}" in loaded
    assert not loaded & HEAVY


def test_help_of_train_shows_every_option_and_field_that_the_parser_has():
    words = set(train_help().replace("[", " ").replace("]", " ").replace(",", " ").split())
    there = {f"--{action.dest}" for action in train_parser()._actions if not action.dest.endswith(".help")}
    fields = {name for name in there if not name.startswith(("--help", "--print_"))}
    groups = {name for name in there if any(other.startswith(f"{name}.") for other in there)}
    assert len(fields) > 40
    assert fields - groups <= words
    assert {f"--{name}" for name in OPTIONS} <= words


def test_help_of_train_names_every_class_and_default():
    text = " ".join(train_help().split())
    for base in BASES:
        assert f"One of {', '.join(sorted(known(base)))}." in text
    for name, cls in DEFAULTS.items():
        assert f"(default: {cls})" in text
        assert train_parser().get_default(name)["class_path"].rpartition(".")[2] == cls


def test_what_help_says_of_flatness_and_compare_is_what_they_take():
    from dist_dash.analysis.flatness.measure import DTYPES
    from dist_dash.analysis.flatness.run import SAMPLES
    from dist_dash.comparison.show import FORMATS, SUFFIXES

    def shown(command: str) -> str:
        return subprocess.run([sys.executable, "-c", SHOW, command], capture_output=True, text=True).stdout

    flatness, compare = shown("flatness"), shown("compare")
    assert f"--dtype {{{','.join(sorted(DTYPES))}}}" in flatness
    assert f"(default: {SAMPLES})" in flatness
    assert f"--format {{terminal,{','.join(FORMATS)}}}" in compare
    assert ", ".join(SUFFIXES) in compare
