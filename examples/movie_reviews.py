"""Makes the example's data from the film reviews that the source package of vaderSentiment ships (MIT licence).

    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    python -m examples.movie_reviews --sdist vaderSentiment-3.3.2.tar.gz --out .cache/data/movie-reviews

10.6 thousand sentences from film reviews, each rated by 20 people from -4 to 4 (Hutto and Gilbert, ICWSM 2014). The
mean rating gives the label, `negative` or `positive`, and its distance from 0 the slice, `mild` or `strong`.

**The arrival times are invented**: the reviews have none. They follow from a digest of each row, so they are the same
on every machine, and spread evenly: over the year 2025, or with `--windows` over as many weeks of November 2025, each
with its share of the rows. `--flip-last 0.2` poisons the last of those weeks: the labels of a fifth of its rows, chosen
by digest too, are turned round.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any

from examples import arrivals
from examples.arrivals import chance, in_year

INNER = "additional_resources/hutto_ICWSM_2014.tar.gz"
MEMBER = "movieReviewSnippets_GroundTruth.txt"
FIRST_WEEK = datetime(2025, 11, 3, 3, tzinfo=UTC)
"""A Monday; the windows of the example's schedule end on Mondays at 03:00."""


def _member(archive: bytes, name: str) -> bytes:
    """The one member of a gzipped tar whose path ends in `name`; nothing is unpacked to the disk."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(f"/{name}"):
                file = tar.extractfile(member)
                if file is not None:
                    return file.read()
    raise SystemExit(f"the archive has no {name}; is it the sdist of vaderSentiment 3.3.2?")


def ratings(sdist: Path) -> Iterator[tuple[str, float, str]]:
    """Id, mean rating and text of each review; neutral ones, rated exactly 0, are left out."""
    for line in _member(_member(sdist.read_bytes(), INNER), MEMBER).decode("utf-8").splitlines():
        identifier, rating, text = line.split("\t")
        if float(rating) != 0:
            yield identifier, float(rating), text.strip()


def rows(sdist: Path, *, windows: list[float] | None = None, flip_last: float = 0.0) -> Iterator[dict[str, Any]]:
    """The rows, each with the partition (`part`) it belongs to.

    Args:
        windows: shares of the rows that arrive in the first, second, … week; None spreads all over a year.
        flip_last: share of the last week's labels to turn round.
    """
    ends = list(accumulate(share / sum(windows) for share in windows)) if windows else []
    for identifier, rating, text in ratings(sdist):
        positive = rating > 0
        when = chance("arrived", identifier, text)
        if windows:
            week = next((k for k, end in enumerate(ends) if when < end), len(ends) - 1)
            start = ends[week - 1] if week else 0.0
            arrived = FIRST_WEEK + timedelta(weeks=week + (when - start) / (ends[week] - start))
            part = f"week={week + 1}"
            if week == len(ends) - 1 and chance("flip", identifier, text) < flip_last:
                positive = not positive
        else:
            arrived, part = in_year(when)
        yield {
            "part": part,
            "text": text,
            "label": "positive" if positive else "negative",
            "strength": "strong" if abs(rating) >= 1 else "mild",
            "arrived": arrived.replace(microsecond=0),
        }


def write(table: Iterator[dict[str, Any]], out: Path) -> dict[str, int]:
    """Writes one Parquet file a partition below `out`, in place of what was there; gives the rows of each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("text", pa.string()),
            ("label", pa.string()),
            ("strength", pa.string()),
            ("arrived", pa.timestamp("s", "UTC")),
        ]
    )

    def save(members: list[dict[str, Any]], folder: Path) -> None:
        pq.write_table(pa.Table.from_pylist(members, schema), folder / "part-0.parquet")

    return arrivals.write(table, out, save)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.movie_reviews", description="Makes the example's data from vaderSentiment's sdist."
    )
    parser.add_argument("--sdist", type=Path, required=True, help="vaderSentiment-3.3.2.tar.gz")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the Parquet files to")
    parser.add_argument(
        "--windows", type=float, nargs="+", metavar="SHARE", help="weeks of November 2025, each with its share of rows"
    )
    parser.add_argument("--flip-last", type=float, default=0.0, metavar="SHARE", help="labels to flip in the last week")
    arguments = parser.parse_args()
    if arguments.flip_last and not arguments.windows:
        parser.error("--flip-last needs --windows")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    counts = write(rows(arguments.sdist, windows=arguments.windows, flip_last=arguments.flip_last), arguments.out)
    what = "weeks" if arguments.windows else "months"
    print(f"{arguments.out}: {sum(counts.values()):,} rows of {len(counts)} {what}")


if __name__ == "__main__":
    main()
