"""Sends requests to one server for some seconds, as so many clients of which each waits for its answer: closed loop.

    python -m benchmarks._load URL BODIES --clients 8 --seconds 5 [--ramp 1]

BODIES is a file with one JSON body a line; the clients go through them in turn. Prints JSON. A process of its own, with
no HTTP library: bytes of requests are made before, and an answer costs some ten microseconds, so that on a machine
with few cores the server is measured and not its client. What it used itself is printed too.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path


class Refused(Exception):
    """The server answered otherwise than with 200."""


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    """One request over an open connection: the body of its answer. Raises Refused."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = head.partition("content-length:")[2].partition("\r\n")[0]
    body = await reader.readexactly(int(length))  # all servers here say the length
    status = head.partition("\r\n")[0]
    if " 200" not in status:
        raise Refused(f"{status}: {body[:300].decode(errors='replace')}")
    return body


async def client(
    host: str, port: int, requests: Iterator[bytes], until: float, answered: list[tuple[float, float]]
) -> None:
    """Asks until the time is over; notes when each answer came and how long it took."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        while (started := time.perf_counter()) < until:
            await ask(reader, writer, next(requests))
            ended = time.perf_counter()
            answered.append((ended, ended - started))
    finally:
        writer.close()


async def load(url: str, bodies: list[bytes], *, clients: int, seconds: float, ramp: float) -> dict[str, object]:
    """What was answered between `ramp` and the end, when all clients are at work all the time.

    Returns:
        answered: requests in those seconds; sent: requests in all; latencies: seconds of each of the former;
        cpu_seconds: what the clients themselves used for all.
    """
    parts = urllib.parse.urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    requests = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
    turn, answered = itertools.cycle(requests), list[tuple[float, float]]()
    begin, before = time.perf_counter() + ramp, time.process_time()
    work = (client(parts.hostname or "", parts.port or 80, turn, begin + seconds, answered) for _ in range(clients))
    await asyncio.gather(*work)
    counted = [took for ended, took in answered if begin <= ended <= begin + seconds]
    used = time.process_time() - before
    return {"answered": len(counted), "sent": len(answered), "latencies": counted, "cpu_seconds": used}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--ramp", type=float, default=1.0)
    given = parser.parse_args()
    bodies = given.bodies.read_bytes().splitlines()
    try:
        found = asyncio.run(load(given.url, bodies, clients=given.clients, seconds=given.seconds, ramp=given.ramp))
    except (Refused, OSError, asyncio.IncompleteReadError) as error:
        print(f"{given.url}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
