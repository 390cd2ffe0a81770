"""What a figure was measured on: printed by each benchmark before its table."""

from __future__ import annotations

import os
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from regraft.processor import FLAGS


def described(cpuinfo: str, cores: int, load: tuple[float, float, float], when: datetime, code: str) -> str:
    """Two lines: when and of what code, and on which processor.

    Args:
        cpuinfo: the text of /proc/cpuinfo.
        load: as os.getloadavg() gives it, before the benchmark begins.
    """

    def field(name: str) -> str:
        found = re.search(rf"^{name}\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
        return found[1].strip() if found else "unknown"

    has = set(field("flags").split())
    flags = " ".join(flag for flag in FLAGS if flag in has) or "none of " + " ".join(FLAGS)
    model = f"{field('model name')} (family {field('cpu family')}, model {field('model')})"
    busy = " ".join(f"{value:.1f}" for value in load)
    return f"{when:%Y-%m-%d %H:%M} UTC, {code}\n{model}, {cores} cores: {flags}; load before: {busy}"


def show() -> None:
    """Prints the machine as it is now."""
    root = Path(__file__).parents[1]
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True)
    info = Path("/proc/cpuinfo")
    print(
        described(
            info.read_text() if info.exists() else "",
            len(os.sched_getaffinity(0)),
            os.getloadavg(),
            datetime.now(UTC),
            f"commit {git.stdout.strip()}" if git.returncode == 0 else "no git checkout",
        ),
        flush=True,
    )
