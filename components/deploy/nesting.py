"""Stacks deep enough for the JSON that clients send.

tritonserver 2.51 reads JSON, forms and chunks by recursion and has no limit of its own: what nests deeper than a
thread's stack ends the server by signal 11, with the usual 8 MiB at 60 kB of JSON. Its threads take the size of their
stacks from the limit that the program is started under. They take memory only as far as they use it.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

STACK_BYTES = 1 << 30
"""Of each thread: for 7.6 MB of JSON, 134 bytes a byte of the worst. What nests deeper still ends the server, which is
better than all memory of the machine."""

_OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")


def deepen() -> None:
    """Raises the limit for this process's next program, and says so where it cannot. For just before exec."""
    size, hard = resource.getrlimit(resource.RLIMIT_STACK)
    most = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    if _reserves():
        why = "the address space is limited (ulimit -v, vm.overcommit_memory), and each thread would take of it"
    else:
        why = "the hard limit is lower (ulimit -Hs)"
        if size < most:  # an infinite one is -1, and would give threads 2 MiB
            resource.setrlimit(resource.RLIMIT_STACK, (most, hard))
            size = most
    if size < STACK_BYTES:
        said = "the system's default" if size == resource.RLIM_INFINITY else f"{size >> 20} MiB"
        text = (
            f"serve: stacks of {said}, not of {STACK_BYTES >> 20} MiB: {why}; a request of nested JSON can end Triton"
        )
        print(text, file=sys.stderr, flush=True)


def _reserves() -> bool:
    """Whether address space counts that is only reserved: a server has a hundred threads."""
    limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    return limited or (_OVERCOMMIT.exists() and _OVERCOMMIT.read_text().strip() == "2")
