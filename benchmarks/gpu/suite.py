"""`tests/gpu`: one row for the whole, and one for each test that failed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.gpu.part import Part, run


def suite(part: Part) -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", "tests/gpu", "-vv", "-p", "no:cacheprovider"]
        status = subprocess.run([*command, f"--junitxml={results}"]).returncode
        (whole,) = ElementTree.parse(results).getroot().iter("testsuite")
    tests, failures, errors, skipped = (int(whole.attrib[n]) for n in ("tests", "failures", "errors", "skipped"))
    passed = tests - failures - errors - skipped
    # Without a GPU all are skipped; with one, a suite of which nothing ran has failed.
    fine = status == 0 and (passed > 0 or part.device == "cpu")
    part.add("tests/gpu", passed, "passed", note=f"{failures + errors} failed, {skipped} skipped", ok=fine)
    for case in whole.iter("testcase"):
        for problem in [*case.iter("failure"), *case.iter("error")]:
            why = (problem.get("message") or "").splitlines() or [""]
            part.add(case.attrib["name"], None, note=why[0][:300], ok=False)


if __name__ == "__main__":
    run(suite)
