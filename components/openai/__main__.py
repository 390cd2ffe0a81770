"""Starts the server."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from aiohttp import web

from components.openai.api import Api, alone
from components.openai.keys import KEYS, Catalogue, Keys
from regraft import escaped, settings
from regraft.errors import BadInput, RegraftError


def main() -> int:
    escaped.stderr()
    parser = argparse.ArgumentParser(
        prog="python -m components.openai",
        description="Answers clients of OpenAI's API with the language models that Triton serves.",
        epilog=f"{KEYS} names the file of the keys; without one, only this machine may ask.",
    )
    parser.add_argument("--repository", type=Path, required=True, help="the model repository, which is only read")
    parser.add_argument("--triton", default="127.0.0.1:8000", help="Triton's HTTP endpoint (default: %(default)s)")
    parser.add_argument("--address", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="(default: %(default)s)")
    arguments = parser.parse_args()
    try:
        keys = Keys.read()
        if not keys and not alone(arguments.address):
            raise BadInput(
                f"whoever reaches {arguments.address} could ask all models, since there are no keys",
                where=KEYS,
                next=f"export {KEYS}=FILE, or leave --address out",
            )
        (triton,) = settings.triton(arguments.triton)
    except RegraftError as error:
        print(f"openai: {error}", file=sys.stderr)
        return int(error.exit)
    api = Api(catalogue=Catalogue(arguments.repository), triton=f"http://{triton}", keys=keys)
    try:
        web.run_app(
            api.application(),
            host=arguments.address,
            port=arguments.port,
            handler_cancellation=True,  # who has gone is not answered any further
            print=lambda *words: None,
            access_log=None,
        )
    except OSError as error:
        where = f"{arguments.address}:{arguments.port}"
        wrong = BadInput(f"cannot listen: {error.strerror}", where=where, next="choose another --address or --port")
        print(f"openai: {wrong}", file=sys.stderr)
        return int(wrong.exit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
