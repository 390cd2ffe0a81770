"""What a recipe may name: its writer reads neither the operator's variables, nor files, nor what the network tells.

Each attack is answered by a canary that must not come out: neither sent, nor read, nor said, nor run.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from regraft import locations, settings, sources
from regraft.errors import BadInput, Exit, RegraftError
from regraft.parts import Schedule
from tests.unit.test_cli import MINIMAL, regraft
from tests.worlds import Tiny

CANARY = "canary-of-the-operator"


@contextmanager
def listening(answers: dict[str, tuple[int, dict[str, str], bytes]]) -> Iterator[tuple[str, list[str]]]:
    """An HTTP server on this machine, with what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            code, headers, body = answers.get(self.path, (404, {}, b""))
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body if self.command == "GET" else b"")

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("written", ["http://{host}/${{OUR_KEY}}.csv", "http://{host}/${{OUR_KEY:-x}}.csv"])
def test_no_secret_of_the_environment_is_sent_away(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("OUR_KEY", CANARY)
    monkeypatch.setenv("REGRAFT_PROTOCOLS", "https,http,file")
    with listening({}) as (host, asked):
        with pytest.raises(BadInput, match="may not name the variable OUR_KEY") as raised:
            sources.look(written.format(host=host), (".csv",))
        assert asked == []
    assert "REGRAFT_VARIABLES=OUR_KEY" in str(raised.value.next)
    assert CANARY not in str(raised.value)


@pytest.mark.parametrize(
    "ask",
    [
        lambda location: sources.look(location, (".csv",)),
        lambda location: sources.base_model_digest(location, None),
        lambda location: sources.base_model_digest(location, "0" * 40),
        lambda location: sources.pretrained(location, "0" * 40, Path("nowhere")),
        lambda location: locations.asset(Schedule(asset=location, watch=True)),
    ],
    ids=["data", "base model", "model of the Hub", "loaded", "asset"],
)
@pytest.mark.parametrize("name", ["OUR_KEY", "AIRFLOW__CORE__FERNET_KEY", "AIRFLOW_CONN_DB", "HOME"])
def test_no_location_puts_in_a_variable_that_is_not_listed(
    monkeypatch: pytest.MonkeyPatch, name: str, ask: Callable[[str], Any]
) -> None:
    monkeypatch.setenv(name, f"/{CANARY}")
    with pytest.raises(BadInput, match=f"may not name the variable {name}") as raised:
        ask(f"${{{name}}}/x")
    assert CANARY not in str(raised.value)


def test_a_default_that_ends_in_a_dollar_does_not_spell_a_second_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REGRAFT_VARIABLES", "OUR_PLACE")
    monkeypatch.setenv("OUR_PLACE", str(tmp_path))
    monkeypatch.delenv("REGRAFT_DATA", raising=False)
    assert locations.allowed("${REGRAFT_DATA:-$}{OUR_PLACE}") == "${OUR_PLACE}"
    with pytest.raises(BadInput):
        sources.pretrained("${REGRAFT_DATA:-$}{OUR_PLACE}", None, tmp_path)


@pytest.mark.parametrize("listed", ["OUR-KEY", "$OUR_KEY", "AIRFLOW__CORE__FERNET_KEY", "AIRFLOW_CONN_DB"])
def test_the_operators_list_is_checked_before_any_work(listed: str) -> None:
    with pytest.raises(BadInput) as raised:
        settings.check({"REGRAFT_VARIABLES": f"OUR_BUCKET,{listed}"})
    assert raised.value.where == "REGRAFT_VARIABLES"
    with pytest.raises(BadInput, match="is no protocol"):
        settings.check({"REGRAFT_PROTOCOLS": "s3,gs://"})


def everything_in(folder: Path) -> bytes:
    return b"\n".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("scheme", ["", "file://", "nobody://", "s3:///", "nobody_knows://"])
def test_neither_log_nor_store_shows_what_a_listed_variable_holds(tmp_path: Path, tiny_base: Path, scheme: str) -> None:
    tiny, secret = Tiny(tmp_path / "world", tiny_base), tmp_path / CANARY
    secret.mkdir()
    (secret / "other.txt").touch()
    tiny.recipe.write_text(tiny.recipe.read_text().replace(str(tiny.data), '"${OUR_PLACE}/*.csv"'))
    held = f"{scheme}{secret if scheme in ('', 'file://') else CANARY}/"
    listed = {"REGRAFT_VARIABLES": "OUR_PLACE", "REGRAFT_PROTOCOLS": "file,nobody,s3"}
    code, said = tiny.step("validate", OUR_PLACE=held, **listed)
    assert code == Exit.BAD_INPUT, said
    assert "${OUR_PLACE}" in said
    assert CANARY.encode() not in said.encode() + everything_in(tiny.folder / "store")


@pytest.mark.slow
def test_what_is_trained_does_not_tell_where_its_data_and_base_model_lay(
    tmp_path: Path, tiny_base: Path, mlflow_server: str
) -> None:
    tiny = Tiny(tmp_path / "world", tiny_base, {"MLFLOW_TRACKING_URI": mlflow_server})
    places = {"REGRAFT_DATA": tmp_path / f"{CANARY}-1", "REGRAFT_BASE_MODEL": tmp_path / f"{CANARY}-2"}
    places["REGRAFT_DATA"].mkdir()
    tiny.data.rename(places["REGRAFT_DATA"] / "data.jsonl")
    places["REGRAFT_BASE_MODEL"].symlink_to(tiny_base)
    text = tiny.recipe.read_text().replace(str(tiny.data), "${REGRAFT_DATA}/data.jsonl")
    tiny.recipe.write_text(text.replace(str(tiny.base), '"${REGRAFT_BASE_MODEL}"'))
    for step in ("validate", "finetune", "evaluate"):
        code, said = tiny.step(step, **{name: str(place) for name, place in places.items()})
        assert code == Exit.DONE, said
        assert CANARY not in said
    assert CANARY.encode() not in everything_in(tiny.folder / "store")


def test_check_shows_a_base_model_as_the_recipe_names_it(tmp_path: Path) -> None:
    file, base = tmp_path / "recipe.yaml", tmp_path / CANARY
    base.mkdir()
    file.write_text(MINIMAL[: MINIMAL.index("base_model")] + "base_model: {source: '${REGRAFT_BASE_MODEL}'}\n")
    done = regraft("check", file, REGRAFT_BASE_MODEL=str(base))
    assert done.returncode == Exit.BAD_INPUT
    assert "${REGRAFT_BASE_MODEL}" in done.stderr
    assert CANARY not in done.stdout + done.stderr


def test_check_says_all_that_a_recipe_may_not_name_with_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    text = MINIMAL.replace("source: s3://bucket/reviews/*.parquet", "source: http://host/${OUR_KEY}.csv")
    file.write_text(text + "gates: {forgetting: {anchor: 'reference://x::file:///run/secrets/token'}}\n")
    done = regraft("check", file, OUR_KEY=CANARY)
    assert done.returncode == Exit.BAD_INPUT
    assert "line 4: data.source: recipes may not name the variable OUR_KEY" in done.stderr
    assert "line 9: gates.forgetting.anchor: chains protocols" in done.stderr
    assert CANARY not in done.stdout + done.stderr


def test_check_goes_by_the_clusters_settings(tmp_path: Path) -> None:
    file, cluster = tmp_path / "recipe.yaml", tmp_path / "cluster.yaml"
    file.write_text(MINIMAL.replace("source: s3://bucket/reviews/*.parquet", "source: /run/secrets/token"))
    assert regraft("check", file).returncode == Exit.DONE, "steps are processes here"
    cluster.write_text("environment: {REGRAFT_PROTOCOLS: s3}\n")
    done = regraft("check", file, "--cluster", cluster)
    assert done.returncode == Exit.BAD_INPUT
    assert "line 4: data.source: recipes may not name paths of the machine here, only s3" in done.stderr


@pytest.mark.parametrize(
    "written",
    ["reference://{0}::file://{1}", "simplecache::file://{1}", "dir://::file://{1}", "zip://x::{1}", "{1}::x"],
)
def test_no_chain_reads_a_file_through_another_protocol(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, written: str
) -> None:
    token = tmp_path / "token.csv"
    token.write_text(CANARY)
    written = written.format("x", token)
    monkeypatch.setenv("REGRAFT_PROTOCOLS", "file,reference,simplecache,dir,zip")
    monkeypatch.setenv("REGRAFT_DATA", written)
    monkeypatch.delenv("REGRAFT_BASE_MODEL", raising=False)
    for location in (written, "${REGRAFT_DATA}", "${REGRAFT_BASE_MODEL:-" + written + "}"):
        with pytest.raises(BadInput, match="chains protocols") as raised:
            sources.look(location, (".csv",))
        assert CANARY not in str(raised.value)


@pytest.mark.parametrize(
    "location",
    ["http://host/x", "https://host/x", "ftp://host/x", "memory://x", "data:,x", "github://a:b@/x", "HTTP://host/x"],
)
def test_only_protocols_that_the_operator_lists_are_opened(monkeypatch: pytest.MonkeyPatch, location: str) -> None:
    monkeypatch.delenv("REGRAFT_PROTOCOLS", raising=False)
    monkeypatch.setattr(sources, "filesystem", lambda *_, **__: pytest.fail("it was opened"))
    for ask in (sources.look, lambda source: sources.base_model_digest(source, None)):
        with pytest.raises(BadInput, match="recipes may not name") as raised:
            ask(location)
        assert "REGRAFT_PROTOCOLS" in str(raised.value.next)


@pytest.mark.parametrize("variable", ["KUBERNETES_SERVICE_HOST", "REGRAFT_CLUSTER"])
@pytest.mark.parametrize("place", ["{0}", "file://{0}", "local://{0}", "file:{0}", "${{REGRAFT_DATA:-{0}}}"])
def test_no_recipe_reads_files_of_a_pod_or_of_who_starts_pods(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str, variable: str
) -> None:
    token = tmp_path / "token.csv"
    token.write_text(f"{CANARY}\n")
    monkeypatch.delenv("REGRAFT_DATA", raising=False)
    monkeypatch.delenv("REGRAFT_PROTOCOLS", raising=False)
    assert sources.look(place.format(token), (".csv",)).paths == [str(token)], "steps are processes"
    monkeypatch.setenv(variable, "10.0.0.1")
    with pytest.raises(BadInput, match="may not name paths of the machine"):
        sources.look(place.format(token), (".csv",))
    monkeypatch.setenv("REGRAFT_PROTOCOLS", "s3,file")  # of a volume with data
    assert sources.look(place.format(token), (".csv",)).paths == [str(token)]


OWN = [
    *("127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]"),
    *("169.254.169.254", "169.254.170.2", "[fe80::1]", "[fd00:ec2::254]", "[64:ff9b::a9fe:a9fe]", "0xa9fea9fe"),
    *("100.100.100.200", "168.63.129.16", "[::ffff:169.254.169.254]", "169.254.169.254:80", "[::127.0.0.1]"),
]


@pytest.mark.parametrize("host", OWN)
def test_http_reaches_no_address_of_the_machine_or_of_its_clouds_metadata(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("REGRAFT_PROTOCOLS", "http,https")
    said = "chains protocols" if "::" in host else "address of this machine's own, or of its cloud's metadata"
    for scheme in ("http", "https"):
        with pytest.raises(BadInput, match=said):
            sources.look(f"{scheme}://{host}/latest/meta-data/x.csv", (".csv",))


def test_a_name_that_leads_there_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_PROTOCOLS", "https")
    metadata = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 443))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [metadata])
    with pytest.raises(BadInput, match="address of this machine's own, or of its cloud's metadata"):
        sources.look("https://rows.example/x.csv", (".csv",))


@pytest.mark.parametrize("address", ["::1", "::", "fe80::1%eth0", "fd00:ec2::254", "64:ff9b::a9fe:a9fe", "::7f00:1"])
def test_a_name_may_have_no_such_address_of_ipv6_either(address: str) -> None:
    with pytest.raises(PermissionError):
        locations._socket((socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, 80, 0, 0)))


def content(location: str) -> object:
    """What a step would read of a location of one file."""
    ((system, path),) = sources.files(location, (".csv",))
    with sources.reading(location):
        return system.cat_file(path)


def test_http_reads_what_the_operator_lists_and_follows_no_redirect_to_its_own_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The listed server stands in for one outside: only its address on this machine counts as one that is not ours."""
    monkeypatch.setenv("REGRAFT_PROTOCOLS", "http")
    table, secret = b"text,label\nfine,a\n", CANARY.encode()
    with listening({"/token.csv": (200, {}, secret)}) as (inner, asked_inside):
        answers = {
            "/a.csv": (200, {}, table),
            "/b.csv": (302, {"Location": f"http://{inner.replace('127.0.0.1', '127.0.0.2')}/token.csv"}, b""),
            "/c.csv": (302, {"Location": "http://169.254.169.254/latest/meta-data"}, b""),
        }
        with listening(answers) as (outer, asked):
            own = locations._own
            monkeypatch.setattr(locations, "_own", lambda address: address != "127.0.0.1" and own(address))
            assert content(f"http://{outer}/a.csv") == table
            for name in ("b", "c"):
                with pytest.raises(RegraftError):
                    content(f"http://{outer}/{name}.csv")
                assert f"/{name}.csv" in asked, "it was asked, and led away"
        assert asked_inside == []


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that says so when it is imported, with data and a neighbour."""
    folder = tmp_path / "site" / "our_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n")
    (folder / "rows.csv").write_text("text,label\n")
    (folder.parent / "token.csv").write_text(CANARY)
    (folder.parent / "a_folder").mkdir()
    (folder.parent / "a_folder" / "token.csv").write_text(CANARY)
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def test_a_package_is_found_without_being_imported(package: Path, tmp_path: Path) -> None:
    assert sources.look("package://our_package/rows.csv").paths == [str(package / "rows.csv")]
    with pytest.raises(BadInput):
        sources.look("package://our_package.keys/rows.csv")
    assert not (tmp_path / "imported").exists()
    assert "our_package" not in sys.modules


@pytest.mark.parametrize("path", ["our_package/../token.csv", "our_package//{0}/token.csv", "a_folder/token.csv"])
def test_package_names_nothing_beside_the_package(package: Path, path: str) -> None:
    location = "package://" + path.format(package.parent)
    for written in (location, "${REGRAFT_BASE_MODEL:-" + location + "}"):
        with pytest.raises(BadInput) as raised:
            sources.look(written)
        assert CANARY not in str(raised.value)


def test_what_the_operator_names_is_not_restricted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from regraft.store import Store

    monkeypatch.setenv("REGRAFT_PROTOCOLS", "s3")
    store = Store(f"file://{tmp_path}/store", "reviews")
    store.replace("x.json", json.dumps(CANARY).encode())
    assert store.read_json("x.json") == CANARY
