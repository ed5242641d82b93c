"""The store in which ranks leave words for each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from dist_dash.ranks.store import open_store


def test_a_file_stays_while_ranks_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody who closes a connection takes the file from those that are still there."""
    monkeypatch.setenv("DIST_DASH_RENDEZVOUS", f"file://{tmp_path / 'meeting'}")
    connect, store = open_store(0, 5.0)
    for number in range(3):
        other = connect()
        other.set(f"key {number}", "here")
        del other
    del connect, store
    _, store = open_store(1, 5.0)
    assert store.check(["key 0", "key 1", "key 2"])
