"""Which files of a split's class folders are its samples: each file once, in one class; what is passed over is said."""

from __future__ import annotations

import heapq
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dist_dash.data.decoding import readable

# What Synology, QNAP, macOS and Windows keep in folders, beside what starts with a dot.
_HIDDEN = {"@eaDir", "@Recycle", "@Recently-Snapshot", "#recycle", "#snapshot", "__MACOSX", "$RECYCLE.BIN"}
_MOST_ENDINGS = 6


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is never looked at."""
    return name.startswith(".") or name in _HIDDEN


@dataclass
class PassedOver:
    """What is in a split's class folders and is no sample, or lies elsewhere; paths are relative to the split."""

    endings: Counter[str] = field(default_factory=Counter)
    hidden: list[str] = field(default_factory=list)
    back: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    other_class: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def remarks(self) -> list[str]:
        """All of it in words."""
        often = sorted(self.endings.items(), key=lambda one: (-one[1], one[0]))
        shown = ", ".join(f"{ending} {count}" for ending, count in often[:_MOST_ENDINGS])
        texts = [f"{self.endings.total()} of other endings ({shown}{', …' * (len(often) > _MOST_ENDINGS)})"] * bool(
            often
        )
        for paths, what in (
            (self.hidden, "hidden"),
            (self.back, "links that lead back to a folder above or seen before"),
            (self.again, "further names of samples of the class"),
            (self.other_class, "names of samples of another class"),
        ):
            texts += [_counted(paths, what)] * bool(paths)
        passed = ["passed over " + "; ".join(texts)] * bool(texts)
        elsewhere = _counted(self.elsewhere, "images outside the class folders, behind links")
        return passed + [f"read {elsewhere}"] * bool(self.elsewhere)


def _counted(paths: list[str], what: str) -> str:
    return f"{len(paths)} {what} ({', '.join(paths[:1])}{', …' * (len(paths) > 1)})"


class Listed(NamedTuple):
    """The samples of a split: paths relative to its folder, as the file system encodes them, and each one's label."""

    files: list[bytes]
    labels: list[int]
    passed_over: PassedOver


class _Entry(NamedTuple):
    path: bytes
    inode: int
    linked: bool


def listed(folder: Path, class_names: list[str]) -> Listed:
    """Find the images in the class folders of a split, at any depth, class by class and sorted; none is opened.

    Two names of one file (by device and inode) are one sample. A link counts after what lies in the class folders
    themselves. Raises `OSError`.
    """
    files, labels, inodes, linked = list[bytes](), list[int](), list[int](), list[bool]()
    passed_over = PassedOver()
    for label, name in enumerate(class_names):
        for entry in sorted(_entries(folder, name, passed_over)):
            files.append(entry.path)
            labels.append(label)
            inodes.append(entry.inode)
            linked.append(entry.linked)
    kept = _each_once(folder, files, labels, np.array(inodes, np.uint64), np.array(linked, bool), passed_over)
    return Listed([files[one] for one in kept], [labels[one] for one in kept], passed_over)


def _entries(folder: Path, name: str, passed_over: PassedOver) -> Iterator[_Entry]:
    """The images under `folder / name`, in no order."""
    endings = readable().endings
    seen = {_identity(path.stat()) for path in (folder / name).resolve().parents}
    # Those that fewer links lead to first: a sample's name must not depend on the order that the file system has.
    waiting = [(int((folder / name).is_symlink()), name)]
    while waiting:
        links, where = heapq.heappop(waiting)
        identity = _identity((folder / where).stat())
        if identity in seen:
            passed_over.back.append(where)
            continue
        seen.add(identity)
        with os.scandir(folder / where) as entries:
            for entry in entries:
                path, is_link = f"{where}/{entry.name}", entry.is_symlink()
                target = _target(entry) if is_link else None
                if is_hidden(entry.name):
                    passed_over.hidden.append(path)
                elif entry.is_dir(follow_symlinks=False) or (target and stat.S_ISDIR(target.st_mode)):
                    heapq.heappush(waiting, (links + is_link, path))
                elif (ending := _ending(entry.name)) not in endings or _is_special(entry, target):
                    passed_over.endings[ending or "none"] += 1
                else:
                    # Not `stat` of every file: a large file server needs minutes for that.
                    inode = target.st_ino if target else entry.inode()
                    yield _Entry(os.fsencode(path), inode, links > 0 or is_link)


def _target(link: os.DirEntry[str]) -> os.stat_result | None:
    """What a link leads to; None for nothing, or the link itself."""
    try:
        return link.stat()
    except OSError:
        return None


def _ending(name: str) -> str:
    _, dot, last = name.rpartition(".")
    return f".{last.lower()}" if dot else ""


def _is_special(entry: os.DirEntry[str], target: os.stat_result | None) -> bool:
    """Whether it is a pipe or a device, which would be read without end; a link to nothing is not."""
    if target:
        return not stat.S_ISREG(target.st_mode)
    return not entry.is_symlink() and not entry.is_file(follow_symlinks=False)


def _each_once(
    folder: Path,
    files: list[bytes],
    labels: list[int],
    inodes: np.ndarray,
    linked: np.ndarray,
    passed_over: PassedOver,
) -> list[int]:
    """Positions of the files that are samples."""
    _, place, counts = np.unique(inodes, return_inverse=True, return_counts=True)
    # Entries of a folder may carry the same inode on a file server that has none to give: `stat` decides.
    doubtful = np.flatnonzero(linked | (counts[place] > 1))
    first: dict[tuple[int, int], int] = {}
    dropped = set[int]()
    for one in sorted(doubtful.tolist(), key=lambda one: bool(linked[one])):
        name = os.fsdecode(files[one])
        try:
            found = (folder / name).stat()
        except OSError:  # a link to nothing: whoever reads the sample says so
            continue
        earlier = first.setdefault(_identity(found), one)
        if earlier != one:
            dropped.add(one)
            (passed_over.again if labels[earlier] == labels[one] else passed_over.other_class).append(name)
        elif linked[one]:
            passed_over.elsewhere.append(name)
    return [one for one in range(len(files)) if one not in dropped]


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
