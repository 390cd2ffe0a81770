"""Takes out of a virtual environment what nothing in an image runs: python slim.py /opt/regraft

Tests of libraries, what only compilers and type checkers read, Arrow's RPC parts, OpenVINO's for GPUs and NPUs: with
torch 340 MB of 1580. That the steps need none of it is shown by running them in their images: tests/images.
"""

import shutil
import sys
from pathlib import Path

FOLDERS = ("tests", "test", "include")
ENDINGS = (".pyi", ".pxd", ".pxi", ".pyx", ".h", ".hpp", ".cuh", ".c", ".cc", ".cpp", ".cu", ".a", ".lib")
PARTS = ("pyarrow/*flight*", "torch/bin/*[Tt]est*", "torch/bin/protoc*", "openvino/libs/*intel_[gn]pu*")


def slim(environment: Path) -> int:
    """Bytes that were removed."""
    packages = next(environment.glob("lib/python3.*/site-packages"))
    before = weight(packages)
    for folder in sorted(path for name in FOLDERS for path in packages.glob(f"*/**/{name}") if path.is_dir()):
        shutil.rmtree(folder, ignore_errors=True)  # one of them may lie in another
    for file in packages.rglob("*"):
        if file.suffix in ENDINGS and file.is_file():
            file.unlink()
    for file in (file for part in PARTS for file in packages.glob(part)):
        file.unlink()
    return before - weight(packages)


def weight(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    print(f"removed {slim(Path(sys.argv[1])) // 10**6} MB")
