"""What every image declares and holds."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.images import containers
from tests.images.containers import SERVERS, STEPS, docker, image, inspect, run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("images")]
ROOT = Path(__file__).parents[2]
UNDER_500_MB = ("mlflow", "openai")
"""Images whose libraries allow it; docs/images.md says what the others consist of."""


@pytest.mark.parametrize("name", STEPS + SERVERS)
def test_an_image_has_a_numeric_user_labels_and_no_shell_before_python(name: str) -> None:
    declared = inspect(name)
    user, group = declared["User"].split(":")
    assert user.isdigit()
    assert user != "0"
    assert group.isdigit()
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in declared["Labels"].items()}
    assert labels["title"] == f"regraft-{name}"
    assert labels["version"] == containers.TAG
    assert re.fullmatch("[0-9a-f]{40}", labels["revision"])
    assert labels.keys() >= {"source", "licenses"}
    first = [*(declared["Entrypoint"] or []), *(declared["Cmd"] or [])][0]
    assert first in ("python", "python3", "mlflow", "airflow")
    assert bool(declared.get("Healthcheck")) == (name in SERVERS)


@pytest.mark.parametrize("name", [*STEPS, "openai"])
def test_what_is_ours_explains_itself_on_a_read_only_root_without_network(name: str) -> None:
    code, output = run(name, "--help")
    assert code == 0, output
    assert f"components.{name}" in output


@pytest.mark.parametrize("name", STEPS + SERVERS)
def test_no_image_holds_compilers_package_managers_of_python_or_tests(name: str) -> None:
    search = (
        "import pathlib, shutil, sys, sysconfig; packages = pathlib.Path(sysconfig.get_path('purelib'));"
        "print([str(p) for p in packages.glob('*/tests')] + [n for n in ('pip', 'pip3', 'uv', 'gcc') if shutil.which(n)"
        " and not shutil.which(n).startswith('/usr/local')])"
    )
    code, output = run(name, "-c", search, options=["--entrypoint=python3"])
    assert code == 0, output
    assert output.strip() == "[]"


@pytest.mark.parametrize("name", UNDER_500_MB)
def test_a_light_image_stays_light(name: str) -> None:
    assert int(docker("image", "inspect", "--format={{.Size}}", image(name))) < 500e6


def test_images_of_steps_share_the_layer_with_torch() -> None:
    layers = [
        json.loads(docker("image", "inspect", image(name)))[0]["RootFS"]["Layers"] for name in ("promote", "deploy")
    ]
    assert len(set(layers[0]) & set(layers[1])) >= 2  # the base image's, and torch


@pytest.mark.parametrize("name", STEPS + SERVERS)
def test_syft_lists_the_locked_packages_of_an_image(name: str) -> None:
    if not (ROOT / ".venv-images/.done").exists():
        pytest.skip("make .venv-images/.done")
    listing = ROOT / f".cache/sbom/regraft-{name}.spdx.json"
    command = ["make", f"sbom-{name}", f"DOCKER={containers.DOCKER}", f"REGISTRY={containers.REGISTRY}"]
    done = subprocess.run([*command, f"TAG={containers.TAG}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {
        (package["name"].lower(), package["versionInfo"]) for package in json.loads(listing.read_text())["packages"]
    }
    lock = {"triton": "serving", "airflow": "airflow-image"}.get(name, name)
    locked = (ROOT / f"requirements/{lock}.txt").read_text()
    assert set(re.findall(r"^([a-z0-9-]+)==(\S+)", locked, re.MULTILINE)) <= {
        (package.replace("_", "-").replace(".", "-"), version) for package, version in found
    }
