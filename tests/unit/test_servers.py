"""What is said of a server by whoever has no client of it."""

from __future__ import annotations

import socket
from threading import Thread

from regraft import security, servers


def test_whoever_answers_without_speaking_http_is_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            for _ in range(3):
                connection, _ = listening.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"\0\0\x18\4\0\0\0\0\0\n")  # as HTTP/2, which gRPC speaks, begins

        thread = Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        assert not servers.ready("mlflow", url)
        assert servers.ask(url) is None
        assert security._asked(url) == (None, "")
        thread.join()
