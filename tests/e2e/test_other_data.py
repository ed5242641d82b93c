"""A stopped run goes on with the data that it was started with, wherever they lie now, and with no others."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from dist_dash.files import SEAL
from tests.e2e.pictures import picture_folder
from tests.e2e.runs import assert_same_run, lines_of, start

QUICK = ["--method=SGD", "--max_steps=6", "--engine=tests.e2e.faults.Struck"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures and a run on them that was stopped in its first epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    pictures = picture_folder(folder / "pictures", 6)
    (folder / "orders").write_text(f"0 1 {signal.SIGTERM}")
    ranks = start(folder / "run", 1, 1, *QUICK, f"--engine.orders={folder / 'orders'}", *pictures)
    assert ranks.results() == [("value", 75)], ranks.output(0)
    return folder


@pytest.fixture
def folder(stopped: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stopped, tmp_path / "copy")


def go_on(stopped: Path, folder: Path, pictures: str) -> tuple[int, list[str]]:
    """The exit status of the same command, with the run and the pictures in `folder`, and what it said."""
    where = f"--data.root={folder / pictures}"
    data = ["--data=ImageFolder", where, "--data.image_size=8", "--data.resize=8", "--loader.batch_size=6"]
    orders = f"--engine.orders={stopped / 'orders'}"
    ranks = start(folder / "run", 1, 1, *QUICK, orders, *data, "--labels.noise=0")
    ((kind, status),) = ranks.results()
    assert kind == "value"
    return status, ranks.output(0).splitlines()


def files(run: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "owner.json"}


def added(pictures: Path) -> None:
    shutil.copyfile(pictures / "train/ant/00.png", pictures / "train/ant/new.png")


def renamed_class(pictures: Path) -> None:
    for split in ("train", "val"):
        (pictures / split / "ant").rename(pictures / split / "wasp")


def new_class(pictures: Path) -> None:
    for split in ("train", "val"):
        shutil.copytree(pictures / split / "ant", pictures / split / "wasp")


CHANGES = {
    added: "(train: 19 samples instead of 18 (class 'ant': 7 instead of 6))",
    renamed_class: "(class 'ant' is missing; class 'wasp' is added)",
    new_class: "(class 'wasp' is added; train: 24 samples instead of 18; test: 24 samples instead of 18)",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_does_not_go_on_with_other_data(change, stopped: Path, folder: Path) -> None:
    change(folder / "pictures")
    before = files(folder / "run")
    status, said = go_on(stopped, folder, "pictures")
    how = "bring those back, use another --run, or --fresh"
    what = f"data: these are not the data that {folder / 'run'} was started with {CHANGES[change]}"
    assert (status, said) == (2, [f"dist-dash: {what}; {how}"])
    assert files(folder / "run") == before


def test_a_run_goes_on_where_its_data_are_now_as_if_nothing_had_happened(stopped: Path, folder: Path) -> None:
    whole = shutil.copytree(stopped, folder.with_name("whole"))
    shutil.rmtree(whole / "run")
    assert go_on(stopped, whole, "pictures")[0] == 0
    (folder / "pictures").rename(folder / "elsewhere")
    assert go_on(stopped, folder, "elsewhere")[0] == 0
    assert_same_run(folder / "run", whole / "run")
    assert any("continuing" in line["text"] for line in lines_of(folder / "run") if line["kind"] == "event")


def test_a_checkpoint_without_a_digest_is_continued_and_that_is_said_once(stopped: Path, folder: Path) -> None:
    (manifest,) = folder.glob("run/checkpoints/step_*/manifest.json")
    content = json.loads(manifest.read_text())
    assert content.pop("data")["counts"] == {"train": 18, "test": 18}
    content["recipe"]["data.root"] = str(folder / "pictures")
    del content[SEAL]
    manifest.write_text(json.dumps(content))
    status, said = go_on(stopped, folder, "pictures")
    assert status == 0
    note = f"checkpoint {manifest.parent} has no digest of the data: whether they changed is not known"
    assert said.count(note) == 1


def test_where_data_lie_counts_if_nobody_knows_what_they_were(stopped: Path, folder: Path) -> None:
    (manifest,) = folder.glob("run/checkpoints/step_*/manifest.json")
    content = json.loads(manifest.read_text())
    del content["data"], content[SEAL]
    manifest.write_text(json.dumps(content))
    status, (said,) = go_on(stopped, folder, "pictures")
    assert status == 2
    assert f"was started with other settings (data.root '{stopped}/pictures' → '{folder}/pictures')" in said


def test_ranks_with_unlike_copies_of_the_data_are_refused(tmp_path: Path) -> None:
    data = picture_folder(tmp_path / "0", 6)
    shutil.copytree(tmp_path / "0", tmp_path / "1")
    (tmp_path / "1/val/bee/00.png").rename(tmp_path / "1/val/bee/renamed.png")
    source = ["--data=tests.e2e.pictures.LocalCopy", f"--data.root={tmp_path}", *data[2:]]
    ranks = start(tmp_path / "run", 2, 2, "--engine=Torch", "--max_steps=3", *source)
    assert ranks.results() == [("value", 2)] * 2
    (said,) = [line for rank in range(2) for line in ranks.output(rank).splitlines()]
    assert said.startswith("dist-dash: data: rank 1 on ")
    assert said.endswith("(test: class 'bee': samples of other names); all ranks must read the same")
