import re
from pathlib import Path

import pytest
import yaml
from complaints import complaint, names

SAMPLE = Path(__file__).parents[1] / "sample.yaml"


@pytest.mark.parametrize("field", ["loader", "method", "epochs", "init", "exchange", "schedule", "deterministic"])
def test_null_is_refused_where_it_means_nothing(field, tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**yaml.safe_load(SAMPLE.read_text()), field: None}))
    text = complaint(["--config", str(tmp_path / "r.yaml")])
    assert re.match(rf"{field}: (null|None) is not allowed; it must be ", text), text


IN_A_FILE = [
    ("epochs: 20", "epohcs: 20", "epohcs", "no such field", "epochs"),
    ("batch_size", "batch_sizes", "loader.batch_sizes", "no such field", "loader.batch_size"),
    ("rho_div", "rho_dv", "method.rho_dv", "no such field", "method.rho_div"),
    ("momentum", "momntum", "optimizer.momntum", "no such field", "optimizer.momentum"),
    ("rho_div: 0.1", "rho_div: big", "method.rho_div", "'big'", "a number"),
    ("rho_div: 0.1", "rho_div: null", "method.rho_div", "null", "a number"),
    ("batch_size: 64", "batch_size: null", "loader.batch_size", "null", "a whole number"),
    ("width: 16", "width: 1.5", "model.width", "1.5", "a whole number"),
    ("class_path: DASH", "class_path: DASSH", "method", "'DASSH'", "DASH, ESAM, FSAM"),
    ("torch.optim.SGD", "torch.optim.SDG", "optimizer", "'torch.optim.SDG'", "SGD or AdamW"),
    ("{batch_size: 64}", "64", "loader", "64", "batch_size, accumulation"),
    ("{noise: 0.4}", "[0.4]", "labels", "[0.4]", "noise, validation"),
]


@pytest.mark.parametrize(("old", "new", "field", "value", "allowed"), IN_A_FILE)
def test_the_same_goes_for_a_file(old, new, field, value, allowed, tmp_path):
    text = SAMPLE.read_text()
    assert old in text
    (tmp_path / "r.yaml").write_text(text.replace(old, new))
    names(complaint(["--config", str(tmp_path / "r.yaml")]), field, value, allowed)


@pytest.mark.parametrize("content", [None, b"a: [1,\nb: }", b"- 1\n- 2\n", b"hello", b"", b"\x00\x01", b"a: \xff\xfe"])
def test_a_file_that_is_no_recipe_is_named(content, tmp_path):
    path = tmp_path / "r.yaml"
    if content is not None:
        path.write_bytes(content)
    names(
        complaint(["--config", str(SAMPLE), "--config", str(path)]),
        "config",
        str(path),
        "YAML" if content != b"" else "",
    )


def test_a_folder_is_no_recipe(tmp_path):
    names(complaint([f"--config={tmp_path}"]), "config", str(tmp_path), "a YAML file")
