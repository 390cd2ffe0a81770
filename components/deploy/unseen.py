"""Arguments of a program that no other user of the machine can read.

Everybody may read /proc/PID/cmdline, and tritonserver takes its token as an argument only. So the argument lies in a
variable of the environment, which nobody but its user may read, and a word that the program does not know stands in its
place. A process of its own traces the program until Linux has loaded it, and then, before the program's first
instruction, points the argument to the variable. Where that fails the program finds the word, and ends.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

NAME = "REGRAFT_UNSEEN_"
_SEIZE, _CONT, _DETACH = 0x4206, 7, 17
_TRACE_EXEC, _STOPPED_BY_EXEC = 0x10, 4
_ALL_CHILDREN = 0x40000000  # also those that are traced and nobody's children
_PR_SET_PTRACER = 0x59616D61


def hide(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The words that stand for arguments on a command line, and the variables that hold them."""
    variables = {f"{NAME}{number}": argument for number, argument in enumerate(arguments)}
    return [f"--{name}" for name in variables], variables


def possible() -> bool:
    """Whether this process may be traced by its own: some containers and kernels forbid it."""
    child = os.fork()
    if child == 0:
        os._exit(0 if reveal_after_exec() else 1)
    return os.waitpid(child, 0)[1] == 0


def reveal_after_exec() -> bool:
    """Has the words of this process's next program replaced by what they stand for. For just before exec.

    Returns:
        Whether somebody watches for it.
    """
    library, pid = ctypes.CDLL(None), os.getpid()
    told, tell = os.pipe()
    go, let_go = os.pipe()
    between = os.fork()
    if between == 0:  # so that the program has no child that it did not start
        tracer = os.fork()
        if tracer == 0:
            with suppress(BaseException):
                os.close(let_go)
                os.read(go, 1)
                _trace(library, pid, tell)
            os._exit(0)
        os.write(tell, struct.pack("=i", tracer))
        os._exit(0)
    os.close(tell)
    os.waitpid(between, 0)
    library.prctl(_PR_SET_PTRACER, struct.unpack("=i", os.read(told, 4))[0])  # where Yama lets only parents trace
    os.write(let_go, b".")
    watched = os.read(told, 1) == b"."
    for end in (told, go, let_go):
        os.close(end)
    return watched


def _trace(library: ctypes.CDLL, pid: int, tell: int) -> None:
    """Follows a process to its next program, and lets it go there."""

    def ask(request: int, data: int = 0) -> int:
        return int(library.ptrace(request, pid, None, ctypes.c_void_p(data)))

    if ask(_SEIZE, _TRACE_EXEC) != 0:
        return
    os.write(tell, b".")
    os.close(tell)
    while os.WIFSTOPPED(status := os.waitpid(pid, _ALL_CHILDREN)[1]):
        if status >> 16 == _STOPPED_BY_EXEC:
            try:
                _reveal(pid)
            finally:
                ask(_DETACH)
            return
        ask(_CONT, os.WSTOPSIG(status) if status >> 16 == 0 else 0)


def _reveal(pid: int) -> None:
    """Points the arguments of a program that has not begun to the variables that hold them."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    first, last, variables, end = map(int, fields[45:49])
    (lowest,) = (
        bounds[0]
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
        if (bounds := [int(bound, 16) for bound in line.split()[0].split("-")])[0] <= first < bounds[1]
    )
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(lowest)
        stack = memory.read(end - lowest)
        words = stack[first - lowest : last - lowest].split(b"\0")[:-1]
        pointers = lowest + stack.index(struct.pack("=QQ", len(words), first)) + 8  # argc stands before them
        where = _places(stack[variables - lowest :], variables)
        for number, word in enumerate(words):
            if word[2:] in where and word.startswith(f"--{NAME}".encode()):
                memory.seek(pointers + 8 * number)
                memory.write(struct.pack("=Q", where[word[2:]]))


def _places(block: bytes, start: int) -> Mapping[bytes, int]:
    """Where the value of each variable begins."""
    places = {}
    for entry in block.split(b"\0"):
        name = entry.partition(b"=")[0]
        places[name] = start + len(name) + 1
        start += len(entry) + 1
    return places
