"""Root without its right to read and write what permissions forbid, so that tests see what users see."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

CAPGET, CAPSET = 125, 126  # system calls of x86-64
VERSION = 0x20080522
DAC_OVERRIDE, DAC_READ_SEARCH = 1 << 1, 1 << 2


@contextlib.contextmanager
def bound_by_permissions() -> Iterator[None]:
    """Inside, this thread obeys the permissions of files, also as root."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(VERSION, 0), (ctypes.c_uint32 * 6)()

    def call(number: int) -> None:
        if libc.syscall(number, header, data):
            raise OSError(ctypes.get_errno(), "capabilities")

    call(CAPGET)
    before = data[0]
    data[0] = before & ~(DAC_OVERRIDE | DAC_READ_SEARCH)
    call(CAPSET)
    try:
        yield
    finally:
        data[0] = before
        call(CAPSET)
