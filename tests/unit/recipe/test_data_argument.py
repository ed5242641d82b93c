"""Other data than a run's own, as `--data` of `evaluate` and `--ood` of `shift` name them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_dash.analysis.shift.ood_sets import other
from dist_dash.data import Augment, ImageFolder
from dist_dash.data.dataset import DataSet
from dist_dash.recipe.data_argument import other_split


@pytest.mark.parametrize(("rank", "times"), [("0", 1), ("1", 0)])
def test_files_passed_over_are_said_by_the_first_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: str, times: int
) -> None:
    for split in ("train", "val"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / split / name / "0.png")
    (tmp_path / "val/b/1.heic").touch()
    fields = {"root": str(tmp_path), "image_size": 8, "resize": 8}
    own = DataSet(ImageFolder(**fields).load(), Augment(), seed=0)  # type: ignore[arg-type]
    monkeypatch.setenv("RANK", rank)
    other_split("ImageFolder", [f"--data.{name}={value}" for name, value in fields.items()], None, own)
    other("ImageFolder", [f"--ood.{name}={value}" for name, value in fields.items()], own, False, None, 0)
    assert capsys.readouterr().err.count("data.test: passed over 1 of other endings (.heic 1)") == 2 * times
