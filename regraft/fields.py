"""What single values of a recipe may be, so that none is accepted here and fails in a step or on one of the runners.

Each bound is somebody's: Kubernetes', Airflow's, MLflow's, numpy's. Control characters, lone surrogates, tags and keys
that are not text are found before, in the YAML (regraft.yaml_marks); infinite numbers are refused by every part.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated, Any, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import AfterValidator, BeforeValidator, Field

from regraft import cron
from regraft.yaml_marks import did_you_mean

LONGEST_DURATION = timedelta(weeks=5200)
"""A century: dates stay dates, wherever it is subtracted."""


def _plain(value: str) -> str:
    """Text that is not only blanks and neither begins nor ends with one: nobody sees those."""
    if value != value.strip():
        raise ValueError(f"{value!r} begins or ends with white space")
    return value


Text = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_plain)]

Owner = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_plain)]
"""It is a tag of the DAG, and those of Airflow have 100 characters at most."""

Description = Annotated[str, Field(max_length=5000)]
"""MLflow keeps 5000 characters."""


def distinct(values: Iterable[str], these: str, one: str) -> None:
    """Raises ValueError where two values are one to the eye: they differ by white space or in Unicode's form only.

    Args:
        these: what they are, for the sentence, such as labels.
        one: one of them, such as label.
    """
    seen: dict[str, str] = {}
    for value in values:
        visible = "".join(c for c in unicodedata.normalize("NFKC", value) if unicodedata.category(c) != "Cf")
        key = " ".join(visible.split())
        if key in seen:
            how = "" if seen[key] == value else " but for white space or the form of its letters"
            raise ValueError(f"{these} name one {one} twice{how}: {seen[key]!r} and {value!r}")
        seen[key] = value


NAME = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
"""Of a recipe: a DNS label."""

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What numpy takes; torch and transformers take more."""


def _some_rows(value: float) -> float:
    if value < 0.01:
        raise ValueError(f"{value:g} epochs train on next to nothing; at least 0.01")
    return value


Epochs = Annotated[float, Field(gt=0, le=1000), AfterValidator(_some_rows)]

Milliseconds = Annotated[float, Field(gt=0, le=3_600_000)]

Cpu = Annotated[float, Field(ge=0.01, le=1024)]
"""Kubernetes counts thousandths, and a limit of none is no limit."""

Gpus = Annotated[int, Field(ge=0, le=64)]


def _enough(value: str) -> str:
    if value.endswith("Mi") and int(value.removesuffix("Mi")) < 64:
        raise ValueError(f"{value!r} is too little for a process to start; at least 64Mi")
    return value


Memory = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,6}(Mi|Gi)$"), AfterValidator(_enough)]


def _duration(value: Any) -> Any:
    """Turns `12h`, `7d` or `26w` into a timedelta."""
    if isinstance(value, timedelta):
        return value
    match = re.fullmatch(r"([0-9]{1,9})([hdw])", value) if isinstance(value, str) else None
    if not match:
        raise ValueError(f"{value!r} is not a duration; write a number and h, d or w, such as 26w")
    try:
        duration = timedelta(**{{"h": "hours", "d": "days", "w": "weeks"}[match[2]]: int(match[1])})
    except OverflowError:
        duration = timedelta.max
    if not timedelta(0) < duration <= LONGEST_DURATION:
        raise ValueError(f"{value!r} is not a duration from 1h to {LONGEST_DURATION.days // 7}w")
    return duration


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration, json_schema_input_type=Annotated[str, Field(pattern=r"^[0-9]{1,9}[hdw]$")]),
]


def _location(value: str) -> str:
    """A URL or path; credentials inside one are refused, since recipes are committed."""
    if re.search(r"://[^/@\s]*:[^/@\s]*@", value):
        raise ValueError("a URL with credentials in it; secrets come from environment variables")
    if "${" in re.sub(r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}", "", value):
        raise ValueError(f"{value!r} has a ${{ that is no variable; write ${{NAME}} or ${{NAME:-default}}")
    return value if "${" in value else resolved(value)


def resolved(value: str) -> str:
    """A URL or path in which variables are put in. Raises ValueError."""
    if value.startswith("package://") and not re.match(r"package://[A-Za-z_][A-Za-z0-9_]*(/|$)", value):
        raise ValueError(f"{value!r} names no package; write package://NAME/PATH, NAME as in `import NAME`")
    if value.startswith("champion://") and not re.fullmatch(f"champion://{NAME}", value):
        raise ValueError(f"{value!r} names no recipe; write champion://NAME, as its name is written")
    try:
        parts = urlsplit(value)
    except ValueError as error:
        raise ValueError(f"{value!r} is no URL: {error}") from error
    if "://" in value and not parts.scheme:
        raise ValueError(f"{value!r} has no protocol, such as s3://")
    if parts.scheme in ("s3", "s3a", "gs", "gcs") and "://" in value and not parts.netloc:
        raise ValueError(f"{value!r} names no bucket; write {parts.scheme}://BUCKET/PATH")
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:/*", value):
        raise ValueError(f"{value!r} names no place; it is PROTOCOL://PLACE")
    if "://" in value and value != value.encode("utf-8", "replace").decode():
        raise ValueError(f"{value!r} is not UTF-8, as URLs are")
    return value


_PLACE = AfterValidator(_location)
Location = Annotated[str, Field(min_length=1, max_length=1500), AfterValidator(_plain), _PLACE]


def is_location(annotation: Any) -> bool:
    """Whether a field's annotation is that of a location, or None or such."""
    return _PLACE in getattr(annotation, "__metadata__", ()) or any(map(is_location, get_args(annotation)))


def asset(value: str) -> str:
    """What Airflow takes as an asset. Raises ValueError."""
    if value.lower().startswith("airflow:"):
        raise ValueError(f"{value!r}: Airflow keeps the scheme airflow:// for itself; name the data, as s3://bucket/x")
    if value in ("self", "context"):
        raise ValueError(f"{value!r} is a word of Airflow's; name the data, such as s3://bucket/reviews")
    return value


AssetLocation = Annotated[Location, AfterValidator(asset)]

Cron = Annotated[str, AfterValidator(cron.expression)]


def _zone(value: str) -> str:
    """A time zone by its name in the tz database; what only some machines have under that name is refused."""
    try:
        # `right/` counts leap seconds; the other two are whatever a machine is set to.
        if value.split("/")[0] in ("posix", "right", "posixrules", "localtime", "Factory"):
            raise ZoneInfoNotFoundError
        ZoneInfo(value)
    except (ValueError, OSError, ZoneInfoNotFoundError) as error:
        raise ValueError(f"unknown time zone {value!r}{did_you_mean(value, available_timezones())}") from error
    return value


Zone = Annotated[str, AfterValidator(_zone)]
