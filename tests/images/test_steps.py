"""The images at work: five steps take data to a model that Triton serves, with MLflow as the registry between."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.deploy import serve
from tests import champions
from tests.images import containers
from tests.images.containers import STEPS, Container
from tests.worlds import RUN, Tiny

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("images")]


@dataclass
class World:
    """A small world with servers from the images; its steps run in containers."""

    tiny: Tiny
    mlflow: Container
    triton: Container
    environment: dict[str, str]

    def settings(self, name: str) -> dict[str, object]:
        """How a step's container runs: without a network where it needs none."""
        alone = name == "validate"
        share(self.tiny.folder)
        return {
            "network": "none" if alone else "host",
            "memory": "2g",
            "mounts": [self.tiny.folder],
            "environment": {"OMP_NUM_THREADS": "1", **({} if alone else self.environment)},
        }

    def arguments(self, run: str = RUN) -> list[str]:
        return ["--recipe", str(self.tiny.recipe), "--store", self.tiny.store.url, "--run", run]


def share(folder: Path) -> None:
    """Lets the containers' user write what this process made."""
    for path in (folder, *folder.rglob("*")):
        with suppress(PermissionError):  # made by that user
            path.chmod(0o777 if path.is_dir() else 0o666)


def wait(until: Callable[[], bool], container: Container) -> None:
    """Until something holds of a container that runs."""
    deadline = time.monotonic() + 180
    while not until():
        assert container.running(), container.log()
        assert time.monotonic() < deadline, container.log()
        time.sleep(0.2)


@pytest.fixture(scope="module")
def world(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    (folder / "models").mkdir()
    tiny = Tiny(folder, champions.base(folder / "base"))
    share(folder)
    triton, port = serve.free_ports(), serve.free_ports().http
    with ExitStack() as stack:
        mlflow = containers.running(
            "mlflow",
            *("--host=127.0.0.1", f"--port={port}", "--workers=1"),
            *("--backend-store-uri=sqlite:////tmp/mlflow.db", "--artifacts-destination=/tmp/artifacts"),
            network="host",
        )
        server = containers.running(
            "triton",
            *(f"--repository={folder}/models", f"--http-port={triton.http}", f"--grpc-port={triton.grpc}"),
            *(f"--metrics-port={triton.metrics}", "--exit-timeout=5", "--", "--log-info=true"),
            network="host",
            mounts=[folder],
            options=["--shm-size=256m"],
            environment={"REGRAFT_TRITON_TOKEN": "only-for-tests"},
        )
        made = World(
            tiny,
            stack.enter_context(mlflow),
            stack.enter_context(server),
            {
                "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}",
                "REGRAFT_TRITON_URLS": f"127.0.0.1:{triton.http}",
                "REGRAFT_MODEL_REPOSITORY": f"{folder}/models",
                "REGRAFT_TRITON_TOKEN": "only-for-tests",
            },
        )
        wait(lambda: answers(f"http://127.0.0.1:{triton.http}/v2/health/ready"), made.triton)
        wait(lambda: answers(f"http://127.0.0.1:{port}/health"), made.mlflow)
        yield made


def answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=5):
        return True
    return False


def test_the_five_images_take_data_to_a_served_model(world: World) -> None:
    for step in STEPS:
        code, output = containers.run(step, *world.arguments(), **world.settings(step))
        assert code == 0, f"{step}\n{output}"
        assert "git executable" not in output, step
        assert "FutureWarning" not in output, step
    text = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["a great film"]}
    asked = urllib.request.Request(
        f"http://{world.environment['REGRAFT_TRITON_URLS']}/v2/models/tiny/infer",
        json.dumps({"inputs": [text]}).encode(),
    )
    with urllib.request.urlopen(asked, timeout=30) as answer:
        served = json.loads(answer.read())
    assert served["model_version"] == "1"
    assert "positive" in [value for output in served["outputs"] for value in output["data"]]
    assert [entry.version for entry in world.tiny.ledger.entries()] == [1]


def test_sigterm_reaches_finetune_which_saves_its_work(world: World) -> None:
    world.tiny.declare(epochs=500)
    run = "2026-11-23T04-00"
    code, output = containers.run("validate", *world.arguments(run), **world.settings("validate"))
    assert code == 0, output
    with containers.running("finetune", *world.arguments(run), **world.settings("finetune")) as container:
        wait(lambda: bool(list(Path(world.tiny.store.url).rglob("checkpoints/*/*"))), container)
        assert container.stop() == 75, container.log()


def test_mlflow_and_triton_are_healthy_and_end_on_sigterm(world: World) -> None:
    """The images' own checks look at the usual ports, so these two get those in a network of their own."""
    for name, arguments in {"mlflow": [], "triton": ["--repository=/tmp/models"]}.items():
        with containers.running(name, *arguments) as container:
            wait(lambda container=container: container.health() == "healthy", container)
            assert container.stop() in (0, 143), container.log()


def test_airflow_reads_the_recipes_of_its_image() -> None:
    program = (
        "from airflow.dag_processing.dagbag import DagBag; bag = DagBag('/app/dags');"
        "assert not bag.import_errors, bag.import_errors; print(sorted(bag.dags))"
    )
    pods = {"REGRAFT_STORE": "/tmp/store", "REGRAFT_CLUSTER": "/app/dags/cluster.yaml"}
    code, output = containers.run("airflow", "python", "-c", program, environment=pods)
    assert code == 0, output
    shipped = [path.stem for path in (Path(__file__).parents[2] / "dags/recipes").glob("*.yaml")]
    assert str(sorted([*shipped, "regraft_doctor"])) in output


def test_airflow_makes_its_database_is_healthy_and_ends_on_sigterm(tmp_path: Path) -> None:
    share(tmp_path)
    settings = {"mounts": [tmp_path], "environment": {"AIRFLOW_HOME": str(tmp_path)}}
    code, output = containers.run("airflow", "airflow", "db", "migrate", **settings)
    assert code == 0, output
    with containers.running("airflow", **settings) as container:
        wait(lambda: container.health() == "healthy", container)
        assert container.stop() in (0, 143), container.log()
