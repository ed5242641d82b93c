"""Damaged run folders: `python -m tests.campaign.damage [--count 100] [--seed 0]`.

One file of a run, or a whole set, is changed on disk. Right is: a stopped run goes on from a set that is whole, says
which, and ends with the bits of the undisturbed run; every other command gives the same numbers; or either is refused
in one line that names the run, exit status 2. Never other numbers, a traceback or a hang.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dist_dash.commands.cli import main as dist_dash
from dist_dash.report.catalogue import PARTS
from tests.e2e.runs import SMALL
from tests.support.ranks import LIMIT, Ranks

Damage = Callable[[Path, random.Random], None]
SETS = ["--max_steps=8", "--checkpoints.every_steps=2", "--checkpoints.keep=4", "--model.hidden=4"]
NEWEST, LATER = "step_00000006", "step_00000077"
RUNS = {  # how each is trained, on two ranks
    "torch": ["--engine=Torch", "--members=2", "--method=DASH"],
    "deepspeed": ["--engine=DeepSpeed", "--engine.zero=1", "--members=1", "--method=SAM"],
}
KINDS = ("finished", "torch", "finished", "torch", "deepspeed")
LEFT_OUT = ("predictions.npz", "environment.json")  # `compare` does without what is made of them
DRAWN = ("learning", "embedding")  # pictures of the report that read the record and the trace


# -- one file ----------------------------------------------------------------------------------------------------------


def flipped(file: Path, draw: random.Random) -> None:
    """One bit is another."""
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def truncated(file: Path, draw: random.Random) -> None:
    """Its end is missing."""
    content = file.read_bytes()
    file.write_bytes(content[: draw.randrange(len(content))])


def deleted(file: Path, draw: random.Random) -> None:
    """It is missing."""
    file.unlink()


def another_type(file: Path, draw: random.Random) -> None:
    """JSON of another shape: a field of another type, or all of it."""
    try:
        content = json.loads(file.read_text())
        content[draw.choice(list(content))] = draw.choice([None, "x", [3], {"a": 1}, -1, 1e99])
        file.write_text(json.dumps(draw.choice([content, content, [], "x", None])))
    except (ValueError, TypeError, IndexError):
        file.write_bytes(draw.choice([b"[]", b"{}", b"3\n", b"\xff\xfe\x00", b"PK\x03\x04"]))


def a_folder(file: Path, draw: random.Random) -> None:
    """It is a folder."""
    file.unlink()
    file.mkdir()


def a_link_to_itself(file: Path, draw: random.Random) -> None:
    """It cannot be opened."""
    file.unlink()
    file.symlink_to(file.name)


def renamed(file: Path, draw: random.Random) -> None:
    """It has another name."""
    file.rename(file.with_name(f"{file.name}.bak"))


def exchanged(file: Path, draw: random.Random) -> None:
    """It has changed places with a file of the same kind: another member's, another step's."""
    run = next(parent for parent in file.parents if (parent / "recipe.yaml").exists())
    others = sorted(other for other in run.rglob(f"*{file.suffix}") if other != file and other.is_file())
    of_its_name = [other for other in others if other.name == file.name]
    other = draw.choice(of_its_name or others or [file])
    one, two = file.read_bytes(), other.read_bytes()
    file.write_bytes(two)
    other.write_bytes(one)


DAMAGES: list[Damage] = [flipped, truncated, deleted, another_type, a_folder, a_link_to_itself, renamed, exchanged]


# -- a set -------------------------------------------------------------------------------------------------------------


def later(folder: Path, draw: random.Random) -> None:
    """The set has the name of a later step."""
    folder.rename(folder.with_name(LATER))


def another_steps(folder: Path, draw: random.Random) -> None:
    """The set holds what another one holds, under its own name."""
    other = draw.choice([path for path in folder.parent.iterdir() if path != folder])
    shutil.rmtree(folder)
    shutil.copytree(other, folder)


def gone(folder: Path, draw: random.Random) -> None:
    """The set is missing."""
    shutil.rmtree(folder)


def a_file(folder: Path, draw: random.Random) -> None:
    """The set is a file."""
    shutil.rmtree(folder)
    folder.write_bytes(b"x")


OF_SETS: list[Damage] = [later, another_steps, gone, a_file]


# -- runs and what they came to ----------------------------------------------------------------------------------------


def said_by(arguments: list[str]) -> tuple[int | str, str, str]:
    """Status, stdout and stderr of a command, called in this process; a traceback in place of the status."""
    os.environ["DIST_DASH_RENDEZVOUS"] = f"file://{Path.cwd()}/store-{uuid.uuid4()}"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status: int | str = dist_dash(arguments)
        except BaseException:
            status = traceback.format_exc()
    if torch.distributed.is_initialized():  # a rank that fails ends with it
        torch.distributed.destroy_process_group()
    gc.collect()  # process groups hold threads and sockets
    return status, out.getvalue(), err.getvalue().replace("\n", " ").strip()


def results(run: Path) -> dict[str, Any]:
    """What a run came to: weights, scores and the figures of its record."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{**line, "timing": None} for line in lines if line["kind"] != "event"]
    weights = {file.name: file.read_bytes() for file in (run / "ensemble").glob("*.safetensors")}
    scores = json.loads((run / "evaluation.json").read_text())
    return {
        "lines": kept,
        "weights": weights,
        "scores": scores,
        "probs": np.load(run / "predictions.npz")["probs"].tobytes(),
    }


def commands(run: Path) -> dict[str, list[str]]:
    """What reads a finished run, `evaluate` last: it writes anew."""
    without = ",".join(part.name for part in PARTS if part.name not in DRAWN)
    return {
        "compare": ["compare", str(run), "--format=json"],
        "report": ["report", str(run), f"--output={run.parent / 'page.html'}", f"--without={without}"],
        "predict": ["predict", str(run), str(run.parent / "x.npz"), f"--output={run.parent / 'p.npz'}"],
        "evaluate": ["evaluate", str(run), "--json"],
    }


def asked(run: str) -> dict[str, tuple[int | str, str, str]]:
    """Every command about a finished run; what `predict` wrote stands for what it printed."""
    found = {}
    os.chdir(Path(run).parent)
    for name, words in commands(Path(run)).items():
        status, out, err = said_by(words)
        if name == "predict" and status == 0:
            with np.load(Path(run).parent / "p.npz") as arrays:
                out = str({key: arrays[key].tolist() for key in arrays.files})
        found[name] = status, out.replace(run, ""), err
    return found


def numbers_in(text: str) -> set[str]:
    """The numbers that a JSON text holds."""
    found = set[str]()
    json.loads(text, parse_float=found.add, parse_int=found.add)
    return found


def fault_of(status: int | str, err: str, run: Path) -> str:
    """What is wrong with the way in which a command ended that did not go well."""
    if status != 2:
        return f"status {status}; said: {err}"
    named = str(run) in err or run.name in err
    return "" if err.count("dist-dash: ") == 1 and named and len(err) < 900 else f"said: {err}"


class Trial(NamedTuple):
    """One damage.

    Args:
        kind: of `RUNS`, a stopped run; or a finished one.
        name: of the damaged file or set in the run folder.
        damage: how.
        seed: of what the damage draws.
    """

    kind: str
    name: str
    damage: Damage
    seed: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.damage.__name__} {self.name}"


class Damaged:
    """Right runs and what the commands say of them; copies of them are damaged.

    Args:
        folder: empty, or new.
        kinds: of trials that are to come.
    """

    def __init__(self, folder: Path, kinds: Sequence[str] = KINDS) -> None:
        self.folder = folder.resolve()
        self.whole, self.stopped = self.folder / "whole", self.folder / "stopped"
        self.expected: dict[str, Any] = {}
        self.folder.mkdir(exist_ok=True)
        np.savez(self.folder / "x.npz", x=np.random.default_rng(0).integers(0, 17, (5, 1, 8, 8), dtype=np.uint8))
        for kind in {"torch" if kind == "finished" else kind for kind in kinds}:
            status, err = self._trained(kind, self.whole / kind)
            if status != 0:
                raise RuntimeError(f"{kind}: {status} {err}")
            self.expected[kind] = results(self.whole / kind)
            run = shutil.copytree(self.whole / kind, self.stopped / kind)  # as if killed after its last but one set
            shutil.rmtree(run / "checkpoints/step_00000008")
            shutil.rmtree(run / "ensemble")
            for name in ("DONE", "predictions.npz", "evaluation.json"):
                (run / name).unlink()
        if "finished" in kinds:
            run = self._copy(self.whole / "torch")
            answered, self.expected["finished"] = self._asked(run)
            shutil.rmtree(run)
            if answered != "value" or any(status for status, _, _ in self.expected["finished"].values()):
                raise RuntimeError(f"{answered} {self.expected['finished']}")

    def trials(self, seed: int, kinds: Sequence[str] = KINDS) -> Iterator[Trial]:
        """Drawn damages, the kinds of runs in turn."""
        for number in itertools.count():
            kind, draw = kinds[number % len(kinds)], random.Random(f"{seed} {number}")
            run = self.whole / "torch" if kind == "finished" else self.stopped / kind
            names = sorted(str(file.relative_to(run)) for file in run.rglob("*") if file.is_file())
            if kind == "finished":
                names = [name for name in names if "checkpoints/" not in name]
            elif draw.random() < 0.2:
                name = draw.choice(sorted(path.name for path in (run / "checkpoints").iterdir()))
                yield Trial(kind, f"checkpoints/{name}", draw.choice(OF_SETS), f"{seed} {number}")
                continue
            elif draw.random() < 0.6:  # older sets are not looked at where the newest is whole
                names = [name for name in names if NEWEST in name]
            name = draw.choice([name for name in names if (run / name).stat().st_size])
            yield Trial(kind, name, draw.choice(DAMAGES), f"{seed} {number}")

    def wrong_with(self, trial: Trial) -> str:
        """What falls short, in words; empty where all is right."""
        whole = self.whole / "torch" if trial.kind == "finished" else self.stopped / trial.kind
        run = self._copy(whole)
        try:
            trial.damage(run / trial.name, random.Random(trial.seed))
            return self._finished(trial, run) if trial.kind == "finished" else self._continued(trial, run)
        except TimeoutError as error:
            return f"hangs: {error}"
        except Exception:  # results that cannot be read
            return traceback.format_exc(limit=-2)
        finally:
            shutil.rmtree(run)

    def _continued(self, trial: Trial, run: Path) -> str:
        status, err = self._trained(trial.kind, run)
        if status != 0:
            return fault_of(status, err, run)
        ours, expected = results(run), self.expected[trial.kind]
        differ = [key for key in expected if ours[key] != expected[key]]
        if differ and not (trial.name == "metrics.jsonl" and differ == ["lines"] and f"{trial.name} is damaged" in err):
            return f"{differ} differ; said: {err}"
        passed_over = LATER if trial.damage is later else NEWEST if NEWEST in trial.name else ""
        if passed_over and trial.damage is not gone and f"{passed_over} is torn" not in err:
            return f"not named; said: {err}"
        return "" if "continuing" in err else f"does not say from where it goes on: {err}"

    def _finished(self, trial: Trial, run: Path) -> str:
        kind, found = self._asked(run)
        if kind != "value":
            return f"{kind} {found}"
        short = []
        for command, (status, out, err) in found.items():
            if status != 0:
                short += [f"{command}: {what}" for what in [fault_of(status, err, run)] if what]
            elif out != (then := self.expected["finished"][command][1]) and not (
                command == "compare" and trial.name in LEFT_OUT and numbers_in(out) <= numbers_in(then)
            ):
                short.append(f"{command} gives other numbers: {out[:300]} {err}")
        if not (run / trial.name).exists() or trial.name == "DONE":  # then it is not finished, or is refused
            return "; ".join(short)
        status, err = self._trained("torch", run)
        if status != 0 and (what := fault_of(status, err, run)):
            short.append(f"train: {what}")
        return "; ".join(short)

    def _copy(self, run: Path) -> Path:
        here = self.folder / f"run-{uuid.uuid4().hex[:8]}"
        return shutil.copytree(run, here, symlinks=True)

    def _trained(self, kind: str, run: Path) -> tuple[Any, str]:
        """Status and stderr of `train` on two ranks; another rank that fares otherwise, or speaks, in their place."""
        ranks = Ranks(2, dist_dash, ["train", *SMALL, *RUNS[kind], *SETS, f"--run={run}"])
        (_, first), (_, second) = ranks.results(LIMIT)
        outputs = [log.read_text() for log in ranks.logs if log.exists()]
        return first if first == second else (first, second), " ".join(outputs).replace("\n", " ").strip()

    def _asked(self, run: Path) -> tuple[str, Any]:
        return Ranks(1, asked, str(run)).results(LIMIT)[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trials, say what fell short and how many held; 0 where all did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    held = 0
    with tempfile.TemporaryDirectory(prefix="damage-") as folder:
        damaged = Damaged(Path(folder))
        for number, trial in enumerate(itertools.islice(damaged.trials(options.seed), options.count)):
            wrong = damaged.wrong_with(trial)
            held += not wrong
            print(f"{number + 1}. {trial}: {'falls short: ' + wrong if wrong else 'holds'}", flush=True)
    print(f"{held} of {options.count} hold")
    return int(held < options.count)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
