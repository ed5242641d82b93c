"""What every part is: a command that writes its rows as JSON, as soon as it has them."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Part:
    """The rows of a part so far, and what it was asked for."""

    device: str
    tiny: bool
    json: Path
    patience: float = 1.0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self, what: str, value: float | None, unit: str = "", most: float | None = None, note: str = "", ok: bool = True
    ) -> None:
        """Add a figure; above `most` (or not a number) it is MISSED, and FAILED where `ok` is false."""
        within = most is None or (value is not None and value <= most)
        verdict = "FAILED" if not ok else "MISSED" if not within else "ok" if most is not None else ""
        row = {"what": what, "value": value, "unit": unit, "most": most, "note": note, "verdict": verdict}
        print(row, flush=True)
        self.rows.append(row)
        self.json.write_text(json.dumps(self.rows, indent=1) + "\n")

    def within(self, seconds: float) -> float:
        """Time for ranks to answer: less than the part has, so that it can say which rank hangs."""
        return seconds * self.patience

    @property
    def one_gpu(self) -> dict[str, str]:
        """Variables of ranks that must share one GPU, also on a machine with several."""
        return {"CUDA_VISIBLE_DEVICES": "0"} if self.device == "cuda" else {}

    def limit(self, value: float) -> float | None:
        """A limit that only full sizes on a GPU must keep."""
        return None if self.tiny or self.device == "cpu" else value

    @contextmanager
    def section(self, what: str) -> Iterator[None]:
        """A failure inside becomes a row, and what comes after still runs."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
            self.add(what, None, note=f"{type(error).__name__}: {lines[0][:300]}", ok=False)


def run(part: Callable[[Part], None]) -> None:
    """Run a part with the options of its command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--patience", type=float, default=1.0)
    whole = Part(**vars(parser.parse_args()))
    import torch

    if whole.device == "cuda" and not torch.cuda.is_available():
        whole.add(part.__module__, None, note="torch sees no GPU", ok=False)
    else:
        part(whole)
    sys.exit(any(row["verdict"] == "FAILED" for row in whole.rows))
