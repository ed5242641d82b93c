"""How a process of this project ends: its exit status, and one line on stderr that says what is wrong."""

from __future__ import annotations

import argparse
import faulthandler
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from dist_dash.errors import BadInput, RunFailed
from dist_dash.ranks.launched import Launcher

FINISHED, TO_BE_CONTINUED = 0, 75  # exit statuses of a run that went well
FAILED, BAD_INPUT = 1, 2  # and of one that did not


class OneLine(argparse.ArgumentParser):
    """A parser whose complaint is one line, as for any other bad input."""

    def error(self, message: str) -> NoReturn:
        """Raise `BadInput`."""
        raise BadInput(f"{message}; see `{self.prog} --help`")


def guarded(call: Callable[[], int]) -> int:
    """The exit status of a command; what is wrong is said in one line."""
    try:
        return call()
    except BadInput as error:
        return _complain(error, BAD_INPUT)
    except (RunFailed, OSError) as error:
        return _complain(error, FAILED)
    except (MemoryError, RuntimeError) as error:
        if not (text := _lack_of_memory(error)):
            raise
        return _complain(RunFailed(text), FAILED)


def leave(status: int) -> NoReturn:
    """End the process; after a failure at once: threads that wait for a lost peer would hold the interpreter back."""
    sys.stdout.flush()
    sys.stderr.flush()
    if path := os.environ.get("DIST_DASH_STATUS"):  # torchrun turns every status but 0 into 1
        with open(path, "a") as file:  # noqa: PTH123  # in one write, for several ranks use it
            file.write(f"{status}\n")
    if status in (FINISHED, TO_BE_CONTINUED):
        sys.exit(status)
    os._exit(status)


def quiet_torch() -> None:
    """Call before torch is imported: what its C++ prints of a lost peer is a page of stack frames.

    This project says itself who is missing.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def show_stacks_on_quit() -> None:
    """From now on, SIGQUIT has this process print the stacks of all its threads, and go on."""
    faulthandler.register(signal.SIGQUIT, file=2)


def say_at_once(text: str) -> None:
    """A line on stderr from within a signal handler."""
    os.write(2, f"{text}\n".encode())  # print could be interrupted by the signal in the middle of itself


def _complain(error: BaseException, status: int) -> int:
    # Errors that all ranks raise, and bad input, which always reaches rank 0, are printed by rank 0 alone.
    rank = Launcher().rank
    if rank == 0 or not (status == BAD_INPUT or getattr(error, "everywhere", False)):
        which = f"rank {rank}: " if rank else ""
        print(f"dist-dash: {which}{' '.join(str(error).split())}", file=sys.stderr, flush=True)
    return status


def _lack_of_memory(error: BaseException) -> str:
    """What to do where memory ran out; empty for every other error."""
    text = " ".join(str(error).split())
    known = re.search("can't allocate memory|out of memory|start new thread", text)
    if not (known or isinstance(error, MemoryError)):
        return ""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    limited = "" if limit == resource.RLIM_INFINITY else f", or raise `ulimit -v`, which allows {limit >> 20} MiB"
    why = f" ({text})" if text else ""
    return f"memory ran out{why}; lower loader.batch_size or the model's size, or start fewer ranks a host{limited}"
