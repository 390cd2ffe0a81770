"""A call of gRPC over HTTP/2 as it is on the wire: no client of gRPC fits into the environment of the tests."""

from __future__ import annotations

import socket
import struct

_DATA, _HEADERS, _SETTINGS, _PING = 0, 1, 4, 6
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1


def call(port: int, method: str, message: bytes = b"", **metadata: str) -> tuple[str, str]:
    """What Triton says to a call: the status of gRPC, empty where there is none, and all of its headers as text.

    Args:
        message: the request as protobuf.
        metadata: headers, with _ for -.
    """
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": f"/inference.GRPCInferenceService/{method}",
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
        **{name.replace("_", "-"): value for name, value in metadata.items()},
    }
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b""))
        connection.sendall(_frame(_HEADERS, _END_HEADERS, 1, block))
        connection.sendall(_frame(_DATA, _END_STREAM, 1, struct.pack(">BI", 0, len(message)) + message))
        said = b""
        while head := _read(connection, 9):
            size, kind, flags = int.from_bytes(head[:3]), head[3], head[4]
            body = _read(connection, size)
            if kind in (_SETTINGS, _PING) and not flags & _ACK:
                connection.sendall(_frame(kind, _ACK, 0, body if kind == _PING else b""))
            if kind == _HEADERS:
                said += body
                if flags & _END_STREAM:
                    break
    _, _, status = said.partition(b"grpc-status")
    return status[1 : 1 + status[0]].decode() if status else "", said.decode(errors="replace")


def _text(text: str) -> bytes:
    """A text of a header, of fewer than 127 bytes, as it is."""
    return bytes([len(text)]) + text.encode()


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3) + struct.pack(">BBI", kind, flags, stream) + body


def _read(connection: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size and (more := connection.recv(size - len(got))):
        got += more
    return got
