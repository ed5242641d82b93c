"""Run the parts one after the other, each in a process of its own with a time limit; print one table last.

A part that fails, hangs or is killed shows FAILED with its reason, and the others still run. Exit status: 0 where every
figure is within its limit, else 1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# Seconds that each part may take at most: about twice what it took on an H200 (305 together), whose torch loads slowly.
PARTS = {"exchange": 60, "steps": 130, "waits": 60, "perturbation": 45, "resume": 110, "suite": 210, "compiled": 90}
ROOT = Path(__file__).resolve().parents[2]
MARK = "DIST_DASH_BENCHMARK"  # a variable that tells the processes of a part from all others
WORST = ("", "ok", "MISSED", "FAILED")


class OutOfTime(Exception):
    """The whole command was asked to end."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for the figures as JSON and the parts' output")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks and few rounds: shows that it runs")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--patience", type=float, default=1.0, help="times the limit of each part, on a busy machine")
    parser.add_argument("--seconds", type=float, default=470.0, help="time for everything; parts without time are left")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    with contextlib.ExitStack() as stack:
        out = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu-")))
        out.mkdir(parents=True, exist_ok=True)
        started, problems = time.monotonic(), dict[str, str]()
        for part in PARTS:  # what another run has left in the folder
            (out / f"{part}.json").unlink(missing_ok=True)
        try:
            for part in options.only:
                begun = time.monotonic()
                left = options.seconds - (begun - started)
                problems[part] = "the command was asked to end"
                problems[part] = run(part, options, out.resolve(), options.patience * min(PARTS[part], left))
                print(f"{part}: took {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
        except OutOfTime:
            print("asked to end", file=sys.stderr, flush=True)
        rows = [row for part in options.only for row in rows_of(part, out, problems.get(part, "it did not run"))]
        facts = {**machine(options.device), "seconds": round(time.monotonic() - started), "tiny": options.tiny}
        (out / "gpu.json").write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n")
        show(rows, facts)
    return 0 if all(row["verdict"] in ("", "ok") for row in rows) else 1


def run(part: str, options: argparse.Namespace, out: Path, limit: float) -> str:
    """Run one part; returns what is wrong with how it ended, if anything is."""
    if limit < 10:
        return "no time was left for it"
    log = out / f"{part}.log"
    arguments = ["--device", options.device, "--json", str(out / f"{part}.json"), "--patience", str(options.patience)]
    token = f"{os.getpid()}-{part}-{time.monotonic_ns()}"
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", "TORCH_CPP_LOG_LEVEL": "ERROR", MARK: token}
    if options.device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = ""
    with log.open("wb") as output:
        command = [sys.executable, "-m", f"benchmarks.gpu.{part}", *arguments, *["--tiny"][: options.tiny]]
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=variables, start_new_session=True, cwd=ROOT
        )
        try:
            status = process.wait(limit)
            return f"ended with status {status}: {last_line(log)}" if status else ""
        except subprocess.TimeoutExpired:
            return f"not done after {limit:.0f} s: {last_line(log)}"
        finally:
            end_marked(token)
            process.wait()


def rows_of(part: str, out: Path, problem: str) -> list[dict[str, Any]]:
    """What a part has found out before it ended, and what is wrong with it where it did not say so itself."""
    found = out / f"{part}.json"
    rows = [{"part": part, **row} for row in (json.loads(found.read_text()) if found.exists() else [])]
    if (problem or not rows) and not any(row["verdict"] == "FAILED" for row in rows):
        rows.append(failed(part, problem or "it measured nothing"))
    return rows


def end_marked(token: str) -> None:
    """End what a part has left: its ranks have sessions of their own, and one that hangs holds the GPU's memory."""
    mark = f"{MARK}={token}".encode()
    for variables in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in variables.read_bytes().split(b"\0"):
                os.kill(int(variables.parent.name), signal.SIGKILL)


def failed(part: str, why: str) -> dict[str, Any]:
    return {"part": part, "what": part, "value": None, "unit": "", "most": None, "note": why, "verdict": "FAILED"}


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "it said nothing"


def machine(device: str) -> dict[str, Any]:
    """What the figures were measured on; in a process of its own, as torch may not even load."""
    code = (
        "import json, torch; cuda = torch.cuda.is_available(); print(json.dumps({'torch': torch.__version__, "
        "'card': torch.cuda.get_device_name(0) if cuda else None, "
        "'cuda': torch.version.cuda, 'memory_gib': cuda and round(torch.cuda.mem_get_info()[1] / 2**30, 1)}))"
    )
    try:
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        facts = json.loads(told.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        facts = {"torch": f"does not load: {type(error).__name__}"}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        facts["deepspeed"] = importlib.metadata.version("deepspeed")
    stamp = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return {**facts, "device": device, "python": platform.python_version(), "date": stamp}


def show(rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    table = Table(title=", ".join(f"{name} {value}" for name, value in facts.items() if value))
    for column in ("part", "what", "figure", "at most", "", "note"):
        table.add_column(column, justify="right" if column in ("figure", "at most") else "left", overflow="fold")
    for row in rows:
        figure = "" if row["value"] is None else f"{row['value']:.4g} {row['unit']}".strip()
        most = "" if row["most"] is None else f"{row['most']:g}"
        table.add_row(row["part"], row["what"], figure, most, row["verdict"], row["note"])
    Console(width=150, markup=False, highlight=False).print(table)
    worst = max((row["verdict"] for row in rows), key=WORST.index)
    print(f"{len(rows)} rows, worst: {worst or 'ok'}")


def _stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise OutOfTime


if __name__ == "__main__":
    sys.exit(main())
