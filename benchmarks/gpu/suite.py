"""`tests/gpu`: one row for the whole, and one for each test that failed."""

from __future__ import annotations

import re
import subprocess
import sys

from benchmarks.gpu.part import Part, run


def suite(part: Part) -> None:
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-rfE", "-p", "no:cacheprovider"]
    found = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(found.stdout, flush=True)
    lines = [line.strip("= ") for line in found.stdout.splitlines() if line.strip()]
    summary = lines[-1] if lines else "it said nothing"
    passed = re.search(r"(\d+) passed", summary)
    ran = int(passed[1]) if passed else 0
    # Without a GPU all are skipped; with one, a suite of which nothing ran has failed.
    fine = found.returncode == 0 and (ran > 0 or part.device == "cpu")
    part.add("tests/gpu", ran, "passed", note=summary, ok=fine)
    for line in lines:
        if line.startswith(("FAILED ", "ERROR ")):
            test, _, why = line.partition(" - ")
            part.add(test.split(" ", 1)[1], None, note=why[:300], ok=False)


if __name__ == "__main__":
    run(suite)
