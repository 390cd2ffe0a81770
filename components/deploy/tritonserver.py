"""Lays the wheel `nvidia-pytriton` out as a normal Triton server, for machines that cannot run NVIDIA's image.

The wheel carries the real `tritonserver` binary, the Python backend and its stub for each Python version. The folder
made here has the layout of /opt/tritonserver in NVIDIA's image, so `serve` starts both the same way. One thing is
added: this build of the Python backend reads arrays wrongly under numpy 2 (it says numpy<2 in its metadata), so
python/ is a virtual environment with numpy 1 in front of the packages of the environment that runs this command. (The
backend ignores PYTHONPATH; it takes the environment of the python that comes first on PATH.)
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

from regraft.errors import BadInput, RegraftError


def lay_out(*, wheel: Path, to: Path) -> Path:
    """Copies the server out of an unpacked wheel. The folder appears whole or not at all, in place of an older one.

    Args:
        wheel: folder that `uv pip install --no-deps --target FOLDER nvidia-pytriton 'numpy<2'` filled.
        to: folder of the server, afterwards with bin/, backends/, caches/, lib/ and python/.

    Raises:
        BadInput: the folder does not hold the wheel, or the wheel has no stub for this Python version.
    """
    shipped = wheel / "pytriton" / "tritonserver"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = shipped / "python_backend_stubs" / python / "triton_python_backend_stub"
    numpy = sorted(wheel.glob("numpy-1.*.dist-info"))
    for needed in (
        shipped / "bin" / "tritonserver",
        wheel / "nvidia_pytriton.libs",
        stub,
        *(numpy or [wheel / "numpy 1"]),
    ):
        if not needed.exists():
            raise BadInput(
                f"not an unpacked nvidia-pytriton wheel for Python {python}: no {needed.relative_to(wheel)} in it",
                where=str(wheel),
                next=f"uv pip install --no-deps --target {wheel} nvidia-pytriton==0.7.0 'numpy<2'",
            )
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tritonserver-", dir=to.parent) as temporary:
        made = Path(temporary) / "server"
        for name in ("bin", "backends", "caches"):
            shutil.copytree(shipped / name, made / name)
        shutil.copytree(wheel / "nvidia_pytriton.libs", made / "lib")
        venv.create(made / "python", symlinks=True)
        packages = made / "python" / "lib" / f"python{python}" / "site-packages"
        for part in (wheel / "numpy", wheel / "numpy.libs", numpy[0]):
            shutil.copytree(part, packages / part.name, ignore=shutil.ignore_patterns("tests", "__pycache__"))
        (packages / "environment.pth").write_text(sysconfig.get_path("purelib") + "\n")
        shutil.copy2(stub, made / "backends" / "python" / stub.name)
        if to.exists():
            os.rename(to, Path(temporary) / "older")
        os.rename(made, to)
    return to


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m components.deploy.tritonserver", description=__doc__)
    parser.add_argument("--wheel-dir", type=Path, required=True, help="folder that nvidia-pytriton was unpacked into")
    parser.add_argument("--to", type=Path, required=True, help="folder of the server, such as .cache/tritonserver")
    arguments = parser.parse_args()
    try:
        print(lay_out(wheel=arguments.wheel_dir, to=arguments.to))
    except RegraftError as error:
        print(f"tritonserver: {error}", file=sys.stderr)
        return int(error.exit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
