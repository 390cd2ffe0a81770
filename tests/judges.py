"""The one place where a judge is played: an HTTP server that speaks as OpenAI's, with a bias that is known.

No language model small enough for tests judges anything, and none has a bias that one could be told. All else is real:
the socket, the requests, threads that ask at once.
"""

from __future__ import annotations

import http.server
import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Judge:
    """What it answers, and what it was asked.

    Attributes:
        better: whether people prefer the first of two answers to what was asked, as 1, or the second, as -1; 0: a tie.
        wrong: share of pairs of which it says the opposite, whatever their order.
        first: share of pairs of which it says A, whatever stands there.
        mute: share of requests to which it says something else.
        status: of its answers.
        key: what it wants to be told; None: it takes anybody.
    """

    better: Callable[[str, str, str], int]
    wrong: float = 0.0
    first: float = 0.0
    mute: float = 0.0
    status: int = 200
    key: str | None = None
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)

    def says(self, prompt: str) -> str:
        """Its reply: chance is drawn from the texts, so that it says the same whenever it is asked."""
        found = re.search(r"# Request\n(.*)\n\n# Answer A\n(.*)\n\n# Answer B\n(.*)\n\n# Which", prompt, re.DOTALL)
        assert found, prompt
        asked, one, other = found.groups()
        chance = random.Random(repr((asked, *sorted((one, other)))))
        if chance.random() < self.mute:
            return "I would rather not say."
        if chance.random() < self.first:
            return "**A**"
        better = self.better(asked, one, other) * (-1 if chance.random() < self.wrong else 1)
        return {1: "The better one is A.", -1: "B", 0: "Tie"}[better]


@contextmanager
def at_work(judge: Judge) -> Iterator[Judge]:
    """The judge behind a real server, whose address it then knows."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            judge.asked.append(body)
            known = judge.key is None or self.headers["Authorization"] == f"Bearer {judge.key}"
            status = judge.status if known else 401
            if self.path != "/v1/chat/completions":
                status = 404
            reply: dict[str, Any] = {"error": {"message": f"no such model: {body['model']}"}}
            if status == 200:
                reply = {"choices": [{"message": {"content": judge.says(body["messages"][0]["content"])}}]}
            content = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        judge.url = f"http://127.0.0.1:{server.server_port}/v1"
        try:
            yield judge
        finally:
            server.shutdown()
