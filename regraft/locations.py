"""What the locations of a recipe may name: who writes one is not who runs it, and must not read by it what is theirs.

The operator lists the variables and the protocols (`settings.variables`, `settings.protocols`). Locations of the
operator's own, such as the store's, are not looked at here.
"""

from __future__ import annotations

import errno
import importlib.util
import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regraft import fields, names, settings
from regraft.errors import BadInput
from regraft.parts import Schedule

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
CHAMPION = "champion://"
_METADATA = tuple(
    map(ipaddress.ip_network, ("fd00:ec2::/32", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"))
)
"""Where clouds tell a machine its secrets, beside link-local addresses: AWS, Alibaba, Azure and Oracle."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")


def allowed(location: str, environment: Mapping[str, str] = os.environ) -> str:
    """What a location of a recipe names: its variables put in, once.

    Raises:
        BadInput: it names a variable or a protocol that the operator does not list, a variable that is not set, or two
            protocols; or what comes out is no location.
    """
    listed = settings.variables(environment)

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in listed:  # whether it is set is nobody's business either
            raise BadInput(
                f"recipes may not name the variable {name}, only {', '.join(listed)}",
                where=location,
                next=f"write the place itself, or, where it holds no secret, export REGRAFT_VARIABLES={name}",
            )
        text = environment.get(name, match[2])
        if text is None:
            raise BadInput(
                f"the environment variable {name} is not set",
                where=location,
                next=f"export {name}=... here as where the steps run, or write ${{{name}:-default}} in the recipe",
            )
        return text

    url = place(_VARIABLE.sub(value, location), where=location)
    if "::" in url:
        raise BadInput(
            "chains protocols by ::, and a recipe names one place by one protocol",
            where=location,
            next="unpack or copy the files, and name where they lie",
        )
    if champion(url) is not None:
        raise BadInput(
            "names a champion, and no place: only base_model.source may, without a variable",
            where=location,
            next=f"write base_model: {{source: {CHAMPION}NAME}}",
        )
    protocol, protocols = protocol_of(url), settings.protocols(environment)
    if protocol not in protocols:
        what = "paths of the machine" if protocol == "file" else f"{protocol}://"
        raise BadInput(
            f"recipes may not name {what} here, only {', '.join(protocols)}",
            where=location,
            next=f"name a bucket, or have it listed: export REGRAFT_PROTOCOLS={','.join((*protocols, protocol))}",
        )
    return url


def variables(location: str) -> list[str]:
    """The names of the variables in a location."""
    return [match[1] for match in _VARIABLE.finditer(location)]


def place(url: str, *, where: str | None = None) -> str:
    """A URL or path in which there is no variable, or none any more. Raises BadInput where it is none."""
    try:
        return fields.resolved(url)
    except ValueError as error:
        raise BadInput(settings.public(str(error)), where=where or settings.public(url)) from error


def champion(location: str) -> str | None:
    """The recipe whose champion a base model is, champion://NAME; None where it is a place."""
    return location.removeprefix(CHAMPION) if location.startswith(CHAMPION) else None


def protocol_of(url: str) -> str:
    """By what fsspec would open a URL or path; `file` for paths."""
    protocol, mark, _ = url.partition("://")
    if not mark:
        return "data" if url.startswith("data:") else "file"
    return "file" if protocol == "local" else protocol


def package(url: str, *, where: str) -> str:
    """The path of package://NAME/PATH. The package is found and not imported, since that would run its code.

    Raises:
        BadInput: there is none, or the path leads out of it.
    """
    name, _, path = url.removeprefix("package://").partition("/")
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # such as __main__, which has none
        spec = None
    # Without an origin it is any folder that lies on Python's path, such as one of the working directory.
    if spec is None or not spec.origin or not spec.submodule_search_locations:
        raise BadInput(
            f"no installed package is imported as {name!r}", where=where, next="pip install the package that ships it"
        )
    below = names.inside(path.removesuffix("/"), where=where) if path else ""
    return str(Path(next(iter(spec.submodule_search_locations))) / below)


def asset(schedule: Schedule, environment: Mapping[str, str] = os.environ) -> str:
    """The name of the asset that a location is to Airflow: the location as it is written, since everybody sees it.

    Raises:
        BadInput: it is watched, and may not be named; or it is not, and has a variable, though its name is all it is.
    """
    location = str(schedule.asset)
    if schedule.watch:
        allowed(location, environment)
    elif variables(location):
        raise BadInput(
            "has a variable, and Airflow's assets go by their names: no other DAG would call its own so",
            where=location,
            next="write the name itself, or watch: true, to look at the place that the variable leads to",
        )
    return location


def as_written(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """A text in which places stand by the variables that recipes name them by: what those hold is not for all who read
    a log or the store."""
    try:
        listed = settings.variables(environment)
    except BadInput:  # which is what the text says
        listed = settings.VARIABLES
    spelled: dict[str, str] = {}
    for name in listed:
        held = environment.get(name, "").rstrip("/").lower()
        rest = held.partition("://")[2]
        for part in (held, rest if "/" in rest else ""):
            if len(part) > 5:  # what is shorter is part of any word
                spelled.setdefault(part, f"${{{name}}}")
    longest = sorted(map(re.escape, spelled), key=len, reverse=True)
    pattern = re.compile("|".join([r"\$\{[^}]*\}", *longest]), re.IGNORECASE)  # clients write hosts small
    return pattern.sub(lambda found: spelled.get(found[0].lower(), found[0]), text)


async def outward(**options: Any) -> Any:
    """The client with which fsspec opens http:// and https://, as its option get_client: it connects to no address of
    this machine's own, or at which clouds tell secrets. A redirect is one more connection, and a name's address is
    looked at when it is known."""
    import aiohttp

    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=_socket), **options)


def _socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, number, _, (host, *_) = address
    if _own(host):
        raise PermissionError(errno.EACCES, "it has an address of this machine's own, or of its cloud's metadata")
    return socket.socket(family=family, type=kind, proto=number)


def _own(address: str) -> bool:
    """Whether an IP address is this machine's alone, or one at which clouds tell secrets."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64 or ip in _COMPATIBLE:
            inner = inner or ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner and _own(str(inner)):
            return True
    special = ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast
    return special or any(ip in network for network in _METADATA)
