"""Variables of the environment as people write them: what is wrong is named before any work."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.deploy import replica, replicas, rollout
from regraft import pipeline, settings, stack, step, tracking
from regraft import recipe as recipes
from regraft.errors import BadInput, Exit, Temporary
from regraft.store import Store
from tests import champions

RECIPE = champions.RECIPE.format(base="nowhere", serving="{}")


@pytest.mark.parametrize(
    ("uri", "what"),
    [
        ("file:///tmp/mlruns", "does not begin with http://"),
        ("127.0.0.1:5000", "does not begin with http://"),
        ("mlflow.example", "does not begin with http://"),
        ("sqlite:///mlflow.db", "does not begin with http://"),
        ("http://", "names no server"),
        ("http://host:99999", "there is no port 99999"),
        ("http://host:port", "is not HOST:PORT"),
        ("http://host:\uff18\uff10", "is not HOST:PORT"),
        ("http://[::1:5000", "is no URL"),
        ("http://[v1.x]:5000", "there is no host v1.x"),
        ("http://a..b:1", "there is no host a..b"),
        ("http://.a:1", "there is no host .a"),
        ("http://a*b:1", "there is no host"),
        ("http://" + "a" * 70 + ":1", "there is no host aaa"),
        ("http://a host:5000", "names no server"),
        ("http://host:5000/#/experiments/0", "has more behind"),
        (" \n", "no MLflow server is configured"),
    ],
)
def test_what_is_no_address_of_mlflow_is_refused(uri: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(BadInput, match=what) as raised:
        tracking.connect()
    assert raised.value.where == "MLFLOW_TRACKING_URI"
    assert "export MLFLOW_TRACKING_URI=http://HOST:5000" in str(raised.value.next)


@pytest.mark.parametrize("password", ["secret", "its@secret"])
def test_a_password_in_an_address_is_not_shown(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"ftp://me:{password}@host")
    with pytest.raises(BadInput) as raised:
        settings.mlflow()
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("around", ["{}\n", " {} ", "{}/"])
def test_what_is_around_the_address_of_mlflow_does_not_matter(
    around: str, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", around.format(mlflow_server))
    assert tracking.connect().get_experiment("0").name == "Default"


@pytest.mark.parametrize("host", ["localhost", "b\u00fccher.example", "a_b.", "[::1]", "me:its@secret@host", "a" * 63])
def test_names_of_all_kinds_are_those_of_servers(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://{host}:5000/prefix")
    assert settings.mlflow() == f"https://{host}:5000/prefix"


@pytest.mark.parametrize("token", ["secret\nline", "secret \u20ac"])
def test_a_token_that_http_does_not_send_is_no_matter_of_time_and_is_not_shown(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
    with pytest.raises(BadInput, match="no request to the MLflow server can be made") as raised:
        tracking.connect()
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "login", [("me", "5 \u20ac", None), ("me", "secret", "token"), (None, None, "token"), ("me", None, None)]
)
def test_mlflow_is_sent_what_its_own_client_sends(
    login: tuple[str | None, ...], mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests
    from mlflow import MlflowClient

    for part, value in zip(("USERNAME", "PASSWORD", "TOKEN"), login, strict=True):
        if value:
            monkeypatch.setenv(f"MLFLOW_TRACKING_{part}", value)
    sent = []
    request = requests.Session.request
    monkeypatch.setattr(
        requests.Session, "request", lambda *given, **named: sent.append(named["headers"]) or request(*given, **named)
    )
    MlflowClient(mlflow_server).search_experiments(max_results=1)
    assert sent[-1].get("Authorization") == settings.mlflow_login().get("Authorization")


class Other(http.server.BaseHTTPRequestHandler):
    """Some other server: it knows one page, or is ill."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"<html>welcome</html>")

    do_POST = do_GET  # noqa: N815  as http.server wants it

    def log_message(self, *_: object) -> None:
        """Tells nobody."""


@pytest.fixture
def other() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def grpc() -> Iterator[str]:
    """A server that greets in binary, as one of gRPC does."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x7f\xff\xff\xff\r\n")

        threading.Thread(target=greet, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("status", [200, 404, 405])
def test_another_server_than_mlflow_is_told_apart(status: int, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Other, "status", status)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{other}")
    with pytest.raises(BadInput, match="no MLflow server answers") as raised:
        tracking.connect()
    assert raised.value.where == "MLFLOW_TRACKING_URI"


def test_a_wrong_prefix_is_told_apart(mlflow_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{mlflow_server}/mlflow")
    with pytest.raises(BadInput, match="/version answers 404"):
        tracking.connect()


def test_tls_with_a_server_that_has_none_is_told_apart(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://{other}")
    with pytest.raises(BadInput, match="TLS fails"):
        tracking.connect()


def test_a_server_that_is_ill_or_away_may_come_back(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(Other, "status", 503)
    for server in (other, "127.0.0.1:9"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{server}")
        with pytest.raises(Temporary):
            tracking.connect()


@pytest.mark.parametrize(
    ("urls", "what"),
    [
        ("https://127.0.0.1:8000", "plain HTTP"),
        ("grpc://127.0.0.1:8001", "plain HTTP"),
        ("127.0.0.1:99999", "there is no port 99999"),
        ("127.0.0.1:0", "there is no port 0"),
        ("127.0.0.1", "is not HOST:PORT"),
        ("127.0.0.1:http", "is not HOST:PORT"),
        ("127.0.0.1:8000/v2", "is not HOST:PORT"),
        ("127.0.0.1:8000 127.0.0.1:8010", "is not HOST:PORT"),
        ("127.0.0.1:\u0668\u0660\u0660\u0660", "is not HOST:PORT"),
        ("[:::1]:8000", "there is no host :::1"),
        ("a..b:8000", "there is no host a..b"),
        ("127.0.0.1:8000,,127.0.0.1:8010", "has an empty entry"),
        ("127.0.0.1:8000,http://127.0.0.1:8000/", "names 127.0.0.1:8000 twice"),
    ],
)
def test_what_is_no_address_of_triton_is_refused(urls: str, what: str) -> None:
    with pytest.raises(BadInput, match=what) as raised:
        replicas.named(urls)
    assert raised.value.where == "REGRAFT_TRITON_URLS"
    assert "export REGRAFT_TRITON_URLS=127.0.0.1:8000" in str(raised.value.next)


@pytest.mark.parametrize(
    ("urls", "what"),
    [
        ("kubernetes:///triton.ml:99999", "there is no port 99999"),
        ("kubernetes:///triton.ml:\u0668\u0660", "is not HOST:PORT"),
        ("kubernetes:///triton:8000", "kubernetes:///SERVICE.NAMESPACE:PORT"),
        ("kubernetes:///triton.ml", "kubernetes:///SERVICE.NAMESPACE:PORT"),
        ("kubernetes:///" + "a" * 64 + ".ml:8000", "there is no host"),
        ("kubernetes:///triton.ml:8000,127.0.0.1:8000", "kubernetes:///SERVICE.NAMESPACE:PORT"),
    ],
)
def test_what_is_no_address_of_a_service_is_refused(urls: str, what: str) -> None:
    with pytest.raises(BadInput, match=what) as raised:
        replicas.named(urls)
    assert raised.value.where == "REGRAFT_TRITON_URLS"


@pytest.mark.parametrize(
    ("folder", "what"),
    [
        ("s3://bucket/models", "is a URL"),
        (f"{__file__}/models", "is no folder"),
        ("/proc/models", "may not be written"),
    ],
)
def test_a_model_repository_that_deploy_could_not_write_into_is_refused(
    folder: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, _: str(path) != "/proc")  # tests may run as root
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("REGRAFT_TRITON_URLS", "127.0.0.1:8000")
    monkeypatch.setenv("REGRAFT_MODEL_REPOSITORY", folder)
    for look in (lambda: stack.environment(Path("home")), lambda: rollout.target(recipes.parse(RECIPE))):
        with pytest.raises(BadInput, match=what) as raised:
            look()
        assert raised.value.where == "REGRAFT_MODEL_REPOSITORY"


def test_a_folder_for_models_that_only_deploy_sees_is_no_matter_for_the_steps_before() -> None:
    settings.check({"REGRAFT_MODEL_REPOSITORY": "/models"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLFLOW_TRACKING_URI", "127.0.0.1:5000"),
        ("REGRAFT_TRITON_URLS", "https://127.0.0.1:8000"),
        ("REGRAFT_MODEL_REPOSITORY", "gs://bucket/models"),
    ],
)
def test_the_first_step_names_what_is_wrong_for_the_last(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(step.signal, "signal", lambda *_: None)
    unused = lambda *_: None  # noqa: E731  the step does not come as far
    code = step._run(pipeline.step("validate"), tmp_path / "r.yaml", str(tmp_path), "run", unused, unused, None)
    assert code == Exit.BAD_INPUT
    assert f"validate: {name}: {value}" in capsys.readouterr().err.replace("'", "")


def test_addresses_of_triton_are_read_with_http_in_front_and_with_spaces() -> None:
    assert replicas.named(" http://a:8000/ , [::1]:8010\n").find() == ("a:8000", "[::1]:8010")


def test_the_port_of_grpc_is_told_apart_from_a_server_that_is_away(grpc: str) -> None:
    with pytest.raises(BadInput, match="does not speak HTTP; gRPC has port 8001"):
        replica.reach(grpc)
    with pytest.raises(replica.Unreachable):
        replica.reach("127.0.0.1:9")


@pytest.mark.parametrize("status", [200, 404])
def test_another_server_than_triton_is_told_apart(status: int, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Other, "status", status)
    with pytest.raises(BadInput, match="what answers there is not Triton"):
        replica.reach(other)


def test_a_run_looks_at_the_addresses_before_its_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("REGRAFT_TRITON_URLS", "127.0.0.1:99999")
    with pytest.raises(BadInput, match="99999"):
        stack.environment(tmp_path)
    monkeypatch.setenv("REGRAFT_TRITON_URLS", "127.0.0.1:8000")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "127.0.0.1:5000")
    with pytest.raises(BadInput, match="does not begin with"):
        stack.environment(tmp_path)


@pytest.mark.parametrize("endpoint", ["localhost:9000", "minio", "http://minio:99999", "http://minio:9000\n"])
def test_an_address_of_s3_that_is_none_is_refused(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(BadInput) as raised:
        Store("s3://bucket/prefix", "tiny")
    assert raised.value.where == "AWS_ENDPOINT_URL"
    assert "http://HOST:9000" in str(raised.value.next)


def test_a_bucket_without_credentials_is_no_matter_of_time(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(BadInput, match="no credentials") as raised:
        Store(s3, "tiny").replace("key", b"")
    assert "AWS_ACCESS_KEY_ID" in str(raised.value.next)


def test_a_folder_for_scratch_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step.signal, "signal", lambda *_: None)
    for folder in (tmp_path / "gone", Path(__file__), tmp_path / ("x" * 300)):
        monkeypatch.setenv("REGRAFT_SCRATCH", str(folder))
        unused = lambda *_: None  # noqa: E731  the step does not come as far
        code = step._run(pipeline.step("validate"), tmp_path / "r.yaml", str(tmp_path), "run", unused, unused, None)
        assert code == Exit.BAD_INPUT
        assert "REGRAFT_SCRATCH: the folder for temporary files" in capsys.readouterr().err
