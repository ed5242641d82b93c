"""How a process of this project ends: its exit status, and one line on stderr that says what is wrong."""

from __future__ import annotations

import argparse
import faulthandler
import os
import re
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from dist_dash.errors import NOT_TO_BE_USED, BadInput, RunFailed, first_line, own_code, place_of
from dist_dash.ranks.launched import Launcher

FINISHED, TO_BE_CONTINUED = 0, 75  # exit statuses of a run that went well
FAILED, BAD_INPUT = 1, 2  # and of one that did not


class OneLine(argparse.ArgumentParser):
    """A parser whose complaint is one line, as for any other bad input."""

    def error(self, message: str) -> NoReturn:
        """Raise `BadInput`."""
        raise BadInput(f"{message}; see `{self.prog} --help`")


def guarded(call: Callable[[], int]) -> int:
    """The exit status of a command; what is wrong is said in one line, before a traceback where code is at fault."""
    try:
        try:
            return call()
        finally:
            sys.stdout.flush()
    except BadInput as error:
        return _complain(error, BAD_INPUT)
    except BrokenPipeError:
        return _read_enough()
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # rich's way
            return _read_enough()
        raise
    except RunFailed as error:
        return _complain(error, FAILED)
    except Exception as error:
        if text := _lack_of_memory(error):
            return _complain(RunFailed(text), FAILED)
        if isinstance(error, OSError) and own_code(error) is None:
            if error.filename is not None and error.errno in NOT_TO_BE_USED:
                return _complain(BadInput(f"{str(error.filename)!r} cannot be used ({error.strerror})"), BAD_INPUT)
            return _complain(error, FAILED)
        return _complain(error, FAILED, f"{place_of(error)}: {type(error).__name__}: ", traceback.format_exc())


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


def _complain(error: Exception, status: int, before: str = "", after: str = "") -> int:
    # Errors that all ranks raise, and bad input, which always reaches rank 0, are printed by rank 0 alone.
    rank = Launcher().rank
    first_alone = status == BAD_INPUT or (getattr(error, "everywhere", False) and not after)
    if not getattr(error, "said", False) and (rank == 0 or not first_alone):
        which = f"rank {rank}: " if rank else ""
        text = " ".join(str(error).split()) if not after else first_line(error)
        print(f"dist-dash: {before}{which}{text}\n{after}", end="", file=sys.stderr, flush=True)
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


def _read_enough() -> int:
    """Whoever reads stdout has closed it (`… | head`): nothing is wrong, and Python must not complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FINISHED
