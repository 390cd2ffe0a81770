"""What the Dockerfiles, the bake file and the compose file promise, without an engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
TOOLS = ROOT / ".venv-images/bin"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
SECRETS = ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "AIRFLOW_SECRET", "TRITON_TOKEN")


@pytest.fixture
def tools() -> Path:
    if not (TOOLS.parent / ".done").exists():
        pytest.skip("make .venv-images/.done")
    return TOOLS


@pytest.fixture
def services() -> dict[str, Any]:
    return dict(yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"])


def test_hadolint_finds_nothing(tools: Path) -> None:
    done = subprocess.run([tools / "hadolint", *DOCKERFILES], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_checkov_finds_nothing_but_reasoned_exceptions(tools: Path) -> None:
    command = [
        tools / "checkov",
        "--directory",
        DOCKER,
        "--framework",
        "dockerfile",
        "--skip-download",
        "--output",
        "json",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    results = json.loads(done.stdout)["results"]
    assert results["failed_checks"] == []
    assert results["passed_checks"]
    assert {check["check_id"] for check in results["skipped_checks"]} == {"CKV_DOCKER_2", "CKV_DOCKER_7"}


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.name)
def test_all_that_is_installed_is_locked_with_hashes(file: Path) -> None:
    text = file.read_text().replace("\\\n", " ")
    for line in re.findall(r"^.*\bpip install\b.*$", text, re.MULTILINE):
        for install in re.split("&&", line):
            assert "pip install" not in install or "--require-hashes" in install
    for lock in re.findall(r"requirements/([a-z-]+)\.txt", text):
        content = (ROOT / f"requirements/{lock}.txt").read_text()
        assert "://" not in content
        for requirement in re.findall(r"^[a-z0-9].*?(?=^[a-z0-9]|\Z)", content, re.MULTILINE | re.DOTALL):
            assert "--hash=sha256:" in requirement


def test_the_bake_file_and_make_build_the_same_images_with_the_same_arguments(tools: Path) -> None:
    program = "import hcl2, json, sys; print(json.dumps(hcl2.load(open(sys.argv[1]))))"
    parsed = json.loads(
        subprocess.run(
            [tools / "python", "-c", program, DOCKER / "docker-bake.hcl"], check=True, capture_output=True, text=True
        ).stdout
    )
    targets = {name: body for block in parsed["target"] for name, body in block.items()}
    [steps], [servers] = targets["step"]["matrix"], targets["server"]["matrix"]
    torch = {step["name"]: step["torch"].strip("${}") for step in one(steps["step"])}
    common = set(one(targets["image"]["args"]))
    made = {}
    command = ["make", "--no-print-directory", "-n", "images", "TORCH=TORCH", "TRITON_BASE=TRITON_BASE"]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for line in re.findall(r"^.* build .*$", printed.replace("\\\n", " "), re.MULTILINE):
        [name] = re.findall(r"-t regraft-([a-z]+):", line)
        made[name] = dict(re.findall(r"--build-arg (\w+)=(\S*)", line))
    assert made.keys() == torch.keys() | set(one(servers["server"]))
    for name, kind in torch.items():
        assert made[name]["TORCH"] == kind
        assert made[name]["STEP"] == name
        assert made[name].keys() == common | set(one(targets["step"]["args"]))
    for name in one(servers["server"]):
        assert made[name].keys() == common | ({"BASE", "CPU_WHEELS"} if name == "triton" else set())
        assert (DOCKER / f"{name}.Dockerfile").exists()


def one(value: Any) -> Any:
    """hcl2 puts some values into a list of one."""
    return value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list | dict) else value


def test_a_service_of_the_laptop_stack_is_hardened_and_reached_from_loopback_only(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not re.search(r":latest$|^[^:]+$", service["image"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        if not service["image"].startswith("regraft-"):  # those name their user themselves
            user, group = service["user"].split(":")
            assert "0" not in (user, group)
            assert "healthcheck" in service


def test_the_laptop_stack_starts_in_order_and_holds_no_secret(services: dict[str, Any]) -> None:
    for service in services.values():
        for needed, condition in service.get("depends_on", {}).items():
            assert needed in services
            assert condition["condition"] in ("service_healthy", "service_completed_successfully")
    text = (DOCKER / "compose.yaml").read_text()
    example = (DOCKER / "compose.env.example").read_text()
    for secret in SECRETS:
        assert re.search(rf"^{secret}=$", example, re.MULTILINE)
        assert f"${{{secret}:?" in text


def test_compose_accepts_the_file_and_refuses_to_start_without_secrets(tmp_path: Path) -> None:
    compose = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    if not shutil.which(compose[0]) or subprocess.run([*compose, "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not installed")
    filled = tmp_path / "compose.env"
    filled.write_text((DOCKER / "compose.env.example").read_text().replace("=\n", "=abc\n"))
    command = [*compose, "-f", str(DOCKER / "compose.yaml"), "--env-file"]
    done = subprocess.run([*command, str(filled), "config", "--quiet"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    empty = str(DOCKER / "compose.env.example")
    done = subprocess.run([*command, empty, "config", "--quiet"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "see docker/compose.env.example" in done.stderr
