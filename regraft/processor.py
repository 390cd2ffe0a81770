"""The kind of processor a step runs on: on another one it gives other last digits, and training another model."""

from __future__ import annotations

import os
import platform
import re
from functools import cache
from pathlib import Path

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16", "asimd", "sve", "bf16")
"""What libraries choose their way of computing by, as Linux names it."""
SWITCHES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
"""Variables that make libraries compute as on a lesser processor."""


@cache
def flags() -> tuple[str, ...]:
    """Those of `FLAGS` that this processor has; none where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    words = set(line[1].split()) if line else set()
    return tuple(flag for flag in FLAGS if flag in words)


def kind() -> str:
    """What makes results differ, in words: architecture, flags, threads, and switches that are set."""
    threads = os.environ.get("OMP_NUM_THREADS")
    switched = (f"{name}={os.environ[name]}" for name in SWITCHES if os.environ.get(name))
    count = (f"{threads} threads",) if threads else ()
    return ", ".join((" ".join((platform.machine(), *flags())), *count, *switched))


def computes_in_bf16() -> bool:
    """Whether the processor multiplies in bf16; where it only converts, bf16 is slower than fp32."""
    return any(flag in flags() for flag in ("avx512_bf16", "amx_bf16", "bf16"))
