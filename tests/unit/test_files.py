"""YAML that its loaders would let pass, and files that could not be written."""

from pathlib import Path

import pytest
import yaml

from dist_dash.errors import BadInput
from dist_dash.files import check_writable, load_yaml
from tests.support.unprivileged import bound_by_permissions

REFUSED = {
    "a: 1\nb: 2\na: 3\n": "a is there twice",
    "a: {b: 1, c: {d: 1, d: 1}}\n": "d is there twice",
    "- {a: 1}\n- {a: 1, a: 1}\n": "a is there twice",
    "a: &x {b: *x}\n": "an alias to what it is in",
    "a: &x [1, [2, *x]]\n": "an alias to what it is in",
    "a0: &a0 [1, 1]\n"
    + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)): "more than 100000 values",
}


@pytest.mark.parametrize("text", REFUSED)
def test_yaml_that_says_two_things_or_has_no_end_is_refused(text: str) -> None:
    with pytest.raises(yaml.MarkedYAMLError) as caught:
        load_yaml(text)
    assert caught.value.problem == REFUSED[text]
    assert caught.value.problem_mark is not None


def test_yaml_nested_beyond_all_measure_is_refused() -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml("[" * 2000 + "]" * 2000)


def test_aliases_and_merged_groups_are_read() -> None:
    assert load_yaml("a: &x {b: 1}\nc: *x\nd: {<<: *x, b: 2}\n") == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 2}}
    assert load_yaml("") is None


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    check_writable(tmp_path / "new", "output")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    tmp_path.chmod(0o500)
    with (
        bound_by_permissions(),
        pytest.raises(BadInput, match=r"^output: .*/new cannot be written \(Permission denied\)"),
    ):
        check_writable(tmp_path / "new", "output")
    tmp_path.chmod(0o700)
    for path, why in (("file/new", "Not a directory"), ("missing/new", "No such file or directory")):
        with pytest.raises(BadInput, match=f"^output: .*/{path} cannot be written .{why}"):
            check_writable(tmp_path / path, "output")
    with pytest.raises(BadInput, match="is a folder; it must be a file"):
        check_writable(tmp_path, "output")
