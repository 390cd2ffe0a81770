"""The example's data: the same on every machine, and cut into windows for the demo."""

from __future__ import annotations

import io
import tarfile
from datetime import timedelta
from pathlib import Path

import pytest

from examples.movie_reviews import FIRST_WEEK, INNER, MEMBER, rows, write


def packed(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return content.getvalue()


@pytest.fixture
def sdist(tmp_path: Path) -> Path:
    """A source package like vaderSentiment's, with 1000 rated reviews and a neutral one."""
    ratings = [(i % 40 - 20) / 10 + 0.05 for i in range(1000)] + [0.0]
    lines = "".join(f"{i}\t{rating:.2f}\tReview number {i}\r\n" for i, rating in enumerate(ratings))
    path = tmp_path / "vaderSentiment-3.3.2.tar.gz"
    path.write_bytes(packed({f"vaderSentiment-3.3.2/{INNER}": packed({f"hutto/{MEMBER}": lines.encode()})}))
    return path


def test_labels_and_slices_follow_from_the_ratings(sdist: Path) -> None:
    found = {row["text"]: row for row in rows(sdist)}
    assert len(found) == 1000
    assert (found["Review number 0"]["label"], found["Review number 0"]["strength"]) == ("negative", "strong")
    assert (found["Review number 20"]["label"], found["Review number 20"]["strength"]) == ("positive", "mild")
    assert all(row["part"] == f"month={row['arrived']:%Y-%m}" for row in found.values())


def test_the_files_are_the_same_to_the_byte_each_time(sdist: Path, tmp_path: Path) -> None:
    for name in ("one", "two", "one"):
        write(rows(sdist), tmp_path / name)
    one, two = (
        {str(file.relative_to(tmp_path / name)): file.read_bytes() for file in (tmp_path / name).rglob("*.parquet")}
        for name in ("one", "two")
    )
    assert one == two
    assert len(one) == 12


def test_each_window_is_a_week_and_only_the_last_has_flipped_labels(sdist: Path) -> None:
    honest = {row["text"]: row for row in rows(sdist, windows=[0.2, 0.5, 0.3])}
    poisoned = {row["text"]: row for row in rows(sdist, windows=[0.2, 0.5, 0.3], flip_last=0.2)}
    sizes = [sum(row["part"] == f"week={week}" for row in honest.values()) for week in (1, 2, 3)]
    assert sizes == [pytest.approx(share, abs=50) for share in (200, 500, 300)]
    for row in honest.values():
        week = int(row["part"].removeprefix("week="))
        assert FIRST_WEEK + timedelta(weeks=week - 1) <= row["arrived"] < FIRST_WEEK + timedelta(weeks=week)
    flipped = [text for text, row in honest.items() if poisoned[text]["label"] != row["label"]]
    assert all(honest[text]["part"] == "week=3" for text in flipped)
    assert len(flipped) == pytest.approx(0.2 * sizes[2], abs=20)


def test_another_archive_is_turned_away(tmp_path: Path) -> None:
    (tmp_path / "other.tar.gz").write_bytes(packed({"other/readme": b""}))
    with pytest.raises(SystemExit, match="is it the sdist of vaderSentiment"):
        list(rows(tmp_path / "other.tar.gz"))
