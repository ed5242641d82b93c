"""Image folders, CIFAR and IDX read small files that the test writes, and say in one line what is wrong."""

from __future__ import annotations

import gzip
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from complaints import source_complaint as complaint
from PIL import Image

from dist_dash.data import CIFAR10, CIFAR100, IDX, ImageFolder
from dist_dash.data.source import UnreadableSample
from dist_dash.errors import BadInput

RNG = np.random.default_rng(5)


# --- image folders


def picture(path: Path, width: int, height: int, colour: tuple[int, int, int] = (10, 20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for number, name in enumerate(("bee", "ant")):
            picture(tmp_path / split / name / "b.png", 20, 10, (100 * number, 50, 200))
            picture(tmp_path / split / name / "deep" / "a.PNG", 9, 31)
            (tmp_path / split / name / "notes.txt").write_text("no image")
    return tmp_path


def test_image_folder(folder: Path) -> None:
    splits = ImageFolder(str(folder), image_size=6, resize=8).load()
    assert splits.class_names == ["ant", "bee"]
    assert (splits.classes, splits.shape, splits.uint8, len(splits.train)) == (2, (3, 6, 6), True, 4)
    assert splits.train.labels.tolist() == [0, 0, 1, 1]
    assert [Path(splits.train.name(i)).relative_to(folder / "train").as_posix() for i in range(4)] == [
        "ant/b.png",
        "ant/deep/a.PNG",
        "bee/b.png",
        "bee/deep/a.PNG",
    ]
    image = splits.train.read(0)
    assert isinstance(image, Image.Image)
    assert image.size == (20, 10)
    assert image.getpixel((0, 0)) == (100, 50, 200)
    assert splits.mean == (0.485, 0.456, 0.406)


def test_evaluation_resizes_the_shorter_side_and_cuts_the_centre(tmp_path: Path) -> None:
    for split in ("train", "val"):
        picture(tmp_path / split / "b" / "0.png", 8, 8)
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir()
        Image.fromarray(wide).save(tmp_path / split / "a" / "0.png")
    # 30 × 10 → 60 × 20; the central 16 columns, 22 … 38, lie inside the white third 20 … 40.
    sample = ImageFolder(str(tmp_path), image_size=16, resize=20).load().test.evaluation(0)
    assert sample.shape == (3, 16, 16)
    assert sample.min() == 255
    whole = ImageFolder(str(tmp_path), image_size=20, resize=20).load().test.evaluation(0)
    assert whole[:, :, 2:-2].min() == 255


def test_grey_palette_and_transparent_images_become_rgb(folder: Path) -> None:
    source = folder / "train" / "ant" / "b.png"
    splits = ImageFolder(str(folder), image_size=6, resize=8).load()
    for mode in ("L", "P", "RGBA", "1", "CMYK"):
        kind = "TIFF" if mode == "CMYK" else "PNG"
        Image.new(mode, (12, 9)).save(source, format=kind)
        assert splits.train.evaluation(0).shape == (3, 6, 6)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "missing"])
def test_damaged_image(folder: Path, damage: str) -> None:
    splits = ImageFolder(str(folder), image_size=6, resize=8).load()
    path = folder / "train" / "ant" / "b.png"
    noise = Image.fromarray(RNG.integers(0, 256, (50, 50, 3), dtype=np.uint8))
    noise.save(path)
    content = {"empty": b"", "text": b"not an image", "cut": path.read_bytes()[:3000], "missing": b""}[damage]
    path.write_bytes(content)
    if damage == "missing":
        path.unlink()
    with pytest.raises(UnreadableSample) as caught:
        splits.train.evaluation(0)
    assert caught.value.name == str(path)
    assert "\n" not in caught.value.reason


def test_bad_image_folders(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    assert "data.root" in complaint(ImageFolder(str(empty / "none")))
    assert "data.train" in complaint(ImageFolder(str(empty)))
    assert "data.test" in complaint(ImageFolder(str(folder), test="test"))
    assert "data.validation" in complaint(ImageFolder(str(folder), validation="dev"))
    (folder / "val" / "wasp").mkdir()
    assert "'wasp'" in complaint(ImageFolder(str(folder)))
    (folder / "train" / "wasp").mkdir()
    text = complaint(ImageFolder(str(folder)))
    assert "wasp' has no images" in text
    (empty / "train").mkdir()
    assert "no subfolders" in complaint(ImageFolder(str(empty)))
    for split in ("train", "val"):
        picture(empty / split / "only" / "0.png", 4, 4)
    assert "at least 2" in complaint(ImageFolder(str(empty)))
    with pytest.raises(BadInput, match=r"data\.image_size"):
        ImageFolder("x", image_size=0)
    with pytest.raises(BadInput, match=r"data\.resize"):
        ImageFolder("x", image_size=257)


# --- CIFAR


def cifar(folder: Path, names: list[str], label_bytes: int, classes: int, samples: int = 4) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    written = {}
    for name in names:
        table = RNG.integers(0, 256, (samples, label_bytes + 3072), dtype=np.uint8)
        table[:, :label_bytes] %= classes
        (folder / name).write_bytes(table.tobytes())
        written[name] = table
    return written


TEN = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]


def test_cifar10_folder_and_archive(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    written = cifar(folder, TEN, 1, 10)
    names = [f"class{i}" for i in range(10)]
    (folder / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    archives = tmp_path / "archives"
    archives.mkdir()
    with tarfile.open(archives / "cifar-10-binary.tar.gz", "w:gz") as tar:
        tar.add(folder, "cifar-10-batches-bin")
    for root in (tmp_path, folder, archives, archives / "cifar-10-binary.tar.gz"):
        splits = CIFAR10(str(root)).load()
        assert (splits.classes, splits.shape, splits.uint8) == (10, (3, 32, 32), True)
        assert (len(splits.train), len(splits.test)) == (20, 4)
        assert splits.class_names == names
        record = written["data_batch_3.bin"][1]
        sample = splits.train.read(2 * 4 + 1)
        assert splits.train.labels[9] == record[0]
        # Byte 1 + 1024 c + 32 row + column.
        assert sample[2, 5, 7] == record[1 + 2048 + 5 * 32 + 7]
        np.testing.assert_array_equal(splits.test.read(3).ravel(), written["test_batch.bin"][3, 1:])


def test_cifar100_takes_the_fine_label(tmp_path: Path) -> None:
    written = cifar(tmp_path / "cifar-100-binary", ["train.bin", "test.bin"], 2, 100)
    splits = CIFAR100(str(tmp_path)).load()
    assert splits.classes == 100
    assert splits.class_names is None
    assert splits.train.labels.tolist() == written["train.bin"][:, 1].tolist()
    np.testing.assert_array_equal(splits.train.read(2).ravel(), written["train.bin"][2, 2:])


def test_bad_cifar(tmp_path: Path) -> None:
    assert "cifar-10-binary.tar.gz" in complaint(CIFAR10(str(tmp_path)))
    folder = tmp_path / "cifar-10-batches-bin"
    cifar(folder, TEN, 1, 10)
    (folder / "data_batch_2.bin").write_bytes(b"x" * 3074)
    assert "data_batch_2.bin" in complaint(CIFAR10(str(tmp_path)))
    (folder / "data_batch_2.bin").write_bytes(b"\xff" * 3073)
    assert "label 255" in complaint(CIFAR10(str(tmp_path)))
    (folder / "data_batch_2.bin").unlink()
    assert "lacks the file data_batch_2.bin" in complaint(CIFAR10(str(tmp_path)))
    archive = tmp_path / "a" / "cifar-10-binary.tar.gz"
    archive.parent.mkdir()
    for content in (b"", b"nonsense", gzip.compress(b"nonsense"), gzip.compress(bytes(10**5))[:50]):
        archive.write_bytes(content)
        assert "data.root" in complaint(CIFAR10(str(archive.parent)))


# --- IDX


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def idx_files(folder: Path, dotted: bool = False, zipped: bool = False, **changes: bytes) -> dict[str, np.ndarray]:
    arrays = {
        "train-images": RNG.integers(0, 256, (5, 4, 6), dtype=np.uint8),
        "train-labels": np.array([0, 1, 2, 1, 0], np.uint8),
        "t10k-images": RNG.integers(0, 256, (2, 4, 6), dtype=np.uint8),
        "t10k-labels": np.array([2, 1], np.uint8),
    }
    for name, array in arrays.items():
        data = changes.get(name.replace("-", "_"), idx(array))
        spelt = f"{name}{'.' if dotted else '-'}idx{array.ndim}-ubyte"
        if zipped:
            (folder / f"{spelt}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / spelt).write_bytes(data)
    return arrays


@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_idx(tmp_path: Path, dotted: bool, zipped: bool) -> None:
    arrays = idx_files(tmp_path, dotted, zipped)
    splits = IDX(str(tmp_path)).load()
    assert (splits.classes, splits.shape, splits.uint8) == (3, (1, 4, 6), True)
    assert splits.train.labels.tolist() == [0, 1, 2, 1, 0]
    np.testing.assert_array_equal(splits.test.read(1)[0], arrays["t10k-images"][1])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_images": b""}, "train-images"),
        ({"train_images": idx(np.zeros((5, 4, 6), np.uint8))[:-1]}, "119 values"),
        ({"train_images": idx(np.zeros((5, 4), np.uint8))}, "00000802"),
        ({"train_images": struct.pack(">BBBB3I", 0, 0, 8, 3, *[2**32 - 1] * 3)}, "0 values"),
        ({"train_labels": idx(np.zeros(4, np.uint8))}, "5 train images and 4 train labels"),
        ({"train_labels": idx(np.zeros(5, np.uint8))}, "at least 2"),
        ({"t10k_labels": idx(np.array([0, 9], np.uint8))}, "label 9 in the test split"),
    ],
)
def test_bad_idx(tmp_path: Path, changes: dict[str, bytes], said: str) -> None:
    idx_files(tmp_path, **changes)
    assert said in complaint(IDX(str(tmp_path)))


def test_missing_and_damaged_idx(tmp_path: Path) -> None:
    assert "train-images-idx3-ubyte" in complaint(IDX(str(tmp_path)))
    idx_files(tmp_path, zipped=True)
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    for content in (b"no gzip", path.read_bytes()[:-4]):
        path.write_bytes(content)
        assert "t10k-labels" in complaint(IDX(str(tmp_path)))
