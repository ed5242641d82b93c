"""What counts as a sample of an image folder: each file once, under its own class; the rest is counted aloud."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from complaints import source_complaint as complaint
from PIL import Image

from dist_dash.data import ImageFolder
from dist_dash.data.source import Splits


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (len(path.name), 20, 30)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Classes a, b and c with two pictures each, in both splits."""
    root = tmp_path / "data"
    for split in ("train", "val"):
        for name in "abc":
            for number in range(2):
                picture(root / split / name / f"{number}.png")
    return root


def load(folder: Path) -> Splits:
    return ImageFolder(str(folder), image_size=6, resize=8).load()


def samples(folder: Path) -> list[str]:
    """The training samples, as `class number/path`."""
    train = load(folder).train
    return [
        f"{label} {Path(train.name(index)).relative_to(folder / 'train')}" for index, label in enumerate(train.labels)
    ]


PLAIN = [f"{label} {name}/{number}.png" for label, name in enumerate("abc") for number in range(2)]


def test_nothing_is_said_of_a_tidy_folder(folder: Path) -> None:
    assert samples(folder) == PLAIN
    assert load(folder).remarks == []


@pytest.mark.parametrize(
    "place",
    [
        ".ipynb_checkpoints/0.png",
        ".Trash-1000/files/0.png",
        "@eaDir/0.png/SYNOPHOTO_THUMB_M.png",
        "deep/.git/0.png",
        "__MACOSX/0.png",
        "#recycle/0.png",
        "._0.png",
    ],
)
def test_hidden_files_and_folders_are_passed_over(folder: Path, place: str) -> None:
    picture(folder / "train/a" / place)
    assert samples(folder) == PLAIN
    (said,) = load(folder).remarks
    assert said.startswith("data.train: passed over 1 hidden (a/")


def test_hidden_folders_are_no_classes(folder: Path) -> None:
    picture(folder / "train/@eaDir/0.png")
    assert load(folder).class_names == ["a", "b", "c"]


def test_other_endings_are_counted(folder: Path) -> None:
    for name in ("0.heic", "1.HEIC", "notes.txt", "Thumbs", "deep/2.heic"):
        (folder / "train/b" / name).parent.mkdir(exist_ok=True)
        (folder / "train/b" / name).touch()
    assert samples(folder) == PLAIN
    assert load(folder).remarks == ["data.train: passed over 5 of other endings (.heic 3, .txt 1, none 1)"]


def test_what_pillow_decodes_is_a_sample(folder: Path) -> None:
    for name in ("2.jfif", "3.TGA", "4.pbm", "5.JP2"):
        Image.new("1" if name.endswith("pbm") else "RGB", (8, 8)).save(folder / "train/c" / name)
    assert samples(folder) == [*PLAIN, "2 c/2.jfif", "2 c/3.TGA", "2 c/4.pbm", "2 c/5.JP2"]
    train = load(folder).train
    assert all(train.evaluation(index).shape == (3, 6, 6) for index in range(len(train)))


def test_a_class_of_other_endings_only_says_which(folder: Path) -> None:
    for number in range(2):
        (folder / f"train/b/{number}.png").rename(folder / f"train/b/{number}.heic")
    said = complaint(ImageFolder(str(folder), image_size=6, resize=8))
    assert f"'{folder / 'train/b'}' has no images; it must hold some; passed over" in said
    assert ".heic 2" in said


def test_links_to_samples_of_the_class_are_not_samples_again(folder: Path) -> None:
    (folder / "train/a/00.png").symlink_to("0.png")
    os.link(folder / "train/a/1.png", folder / "train/a/9.png")
    assert samples(folder) == PLAIN
    assert load(folder).remarks == ["data.train: passed over 2 further names of samples of the class (a/9.png, …)"]


@pytest.mark.parametrize("where", ["a", "c"])
def test_a_file_belongs_to_the_class_that_it_lies_in(folder: Path, where: str) -> None:
    """Whichever class is listed first: a link never takes a file away from its class."""
    (folder / "train" / where / "00.png").symlink_to(folder / "train/b/0.png")
    (folder / "train" / where / "all").symlink_to(folder / "train/b")
    assert samples(folder) == PLAIN
    (said,) = load(folder).remarks
    assert said == (f"data.train: passed over 3 names of samples of another class ({where}/00.png, …)")


@pytest.mark.parametrize("target", [".", "..", "../..", "deep", "/"])
def test_links_that_lead_back_are_not_followed(folder: Path, target: str) -> None:
    picture(folder / "train/b/deep/7.png")
    (folder / "train/b/deep/loop").symlink_to(folder / "train/b" / target)
    assert samples(folder) == [*PLAIN[:4], "1 b/deep/7.png", *PLAIN[4:]]
    assert load(folder).remarks == [
        "data.train: passed over 1 links that lead back to a folder above or seen before (b/deep/loop)"
    ]


@pytest.mark.parametrize("name", ["a", "z"])
def test_a_folder_is_read_under_its_own_name(folder: Path, name: str) -> None:
    """Whatever the order in which the file system has it and a link to it."""
    picture(folder / "train/b/deep/7.png")
    for link in (name, f"{name}{name}", f"deep/{name}"):
        (folder / "train/b" / link).symlink_to(folder / "train/b/deep")
    assert samples(folder) == [*PLAIN[:4], "1 b/deep/7.png", *PLAIN[4:]]


def test_a_class_that_is_a_link_to_another_has_no_samples(folder: Path) -> None:
    for split in ("train", "val"):
        (folder / split / "d").symlink_to("a")
    said = complaint(ImageFolder(str(folder), image_size=6, resize=8))
    assert "train/d' has no images" in said
    assert "2 names of samples of another class (d/0.png, …)" in said


def test_images_elsewhere_are_read_and_named(folder: Path, tmp_path: Path) -> None:
    """A folder of links to a store of files is a usual way to cut a data set."""
    store = tmp_path / "store"
    for number in range(3):
        picture(store / f"{number}.png")
    (folder / "train/a/2.png").symlink_to(store / "2.png")
    (folder / "train/b/more").symlink_to(store)
    found = samples(folder)
    assert found == [*PLAIN[:2], "0 a/2.png", *PLAIN[2:4], "1 b/more/0.png", "1 b/more/1.png", *PLAIN[4:]]
    assert load(folder).remarks == [
        "data.train: passed over 1 names of samples of another class (b/more/2.png)",
        "data.train: read 3 images outside the class folders, behind links (a/2.png, …)",
    ]


def test_class_folders_that_are_links_are_read(folder: Path, tmp_path: Path) -> None:
    (folder / "train").rename(tmp_path / "store")
    (folder / "train").mkdir()
    for name in "abc":
        (folder / "train" / name).symlink_to(tmp_path / "store" / name)
    assert samples(folder) == PLAIN


def test_a_split_that_is_a_link_says_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "train").rename(tmp_path / "store")
    (folder / "train").symlink_to(tmp_path / "store")
    assert samples(folder) == PLAIN
    assert load(folder).remarks == []


def test_links_to_nothing_stay_samples_that_cannot_be_read(folder: Path) -> None:
    """They are missing files of the data set, such as content that was not fetched: `loader.on_bad_sample` decides."""
    (folder / "train/a/2.png").symlink_to("nothing")
    (folder / "train/a/3.png").symlink_to("3.png")
    assert samples(folder) == [*PLAIN[:2], "0 a/2.png", "0 a/3.png", *PLAIN[2:]]


def test_pipes_are_no_samples(folder: Path) -> None:
    os.mkfifo(folder / "train/a/2.png")
    assert samples(folder) == PLAIN
    assert load(folder).remarks == ["data.train: passed over 1 of other endings (.png 1)"]


def test_a_file_server_without_inode_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some give every entry the same number, which must not make one sample of all."""
    scandir = os.scandir

    class Entries:
        def __init__(self, path: str) -> None:
            self.entries = scandir(path)

        def __enter__(self) -> list[Entry]:
            return [Entry(entry) for entry in self.entries]

        def __exit__(self, *_: object) -> None:
            self.entries.close()

    class Entry:
        def __init__(self, entry: os.DirEntry) -> None:
            self.name, self.is_dir, self.is_file = entry.name, entry.is_dir, entry.is_file
            self.is_symlink, self.stat, self.inode = entry.is_symlink, entry.stat, lambda: 2**32 - 1

    (folder / "train/a/00.png").symlink_to("0.png")
    monkeypatch.setattr("dist_dash.data.listing.os.scandir", Entries)
    monkeypatch.setattr(ImageFolder, "_class_names", lambda *_: ["a", "b", "c"])
    assert samples(folder) == PLAIN
