"""The examples' data: the same on every machine, cut into windows for the demo, labelled where people labelled it."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from examples import addresses, arrivals
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


LABELLED = {
    "labeled.xml": """
        <AddressNumber>12</AddressNumber> <AddressNumberSuffix>1/2</AddressNumberSuffix> <StreetNamePreDirectional>N.
        </StreetNamePreDirectional> <StreetName>Elm</StreetName> <StreetNamePostType>St.,</StreetNamePostType>
        <StreetNamePostDirectional>NW,</StreetNamePostDirectional> <PlaceName>Salt</PlaceName>
        <PlaceName>Lake</PlaceName> <PlaceName>City,</PlaceName> <StateName>UT</StateName> <ZipCode>84107</ZipCode>
        <CountryName>USA</CountryName>
    """,
    "us50_messiest_manual_label.xml": """
        <SubaddressType>Building</SubaddressType> <SubaddressIdentifier>1</SubaddressIdentifier>,
        <OccupancyType>Suite</OccupancyType> <OccupancyIdentifier>#</OccupancyIdentifier>
        <OccupancyIdentifier>100;</OccupancyIdentifier> <StreetName>5th</StreetName>
        <IntersectionSeparator>&amp;</IntersectionSeparator> <StreetName>6th</StreetName>
    """,
    "us50_train_tagged.xml": """
        <Recipient>Doe,</Recipient> <Recipient>Inc.</Recipient> <USPSBoxType>Box</USPSBoxType># <USPSBoxID>7</USPSBoxID>
    """,
    "multi_word_state_addresses.xml": """
        <StreetName>12</StreetName> <StreetName>1/2 N. Elm St., NW, Salt Lake City, UT 84107 USA</StreetName>
    """,
    "synthetic_osm_data_xml.xml": "<PlaceName>Nowhere</PlaceName>",
}


@pytest.fixture
def usaddress(tmp_path: Path) -> Path:
    """A source package like usaddress', with an address a file; the fourth is the first again, labelled otherwise."""
    path = tmp_path / "usaddress-0.5.16.tar.gz"
    path.write_bytes(
        packed(
            {
                f"usaddress-0.5.16/training/{name}": f"<All><One>{address}</One></All>".encode()
                for name, address in LABELLED.items()
            }
        )
    )
    return path


def test_words_of_one_part_are_one_entity_without_the_punctuation_at_its_ends(usaddress: Path) -> None:
    named = {
        row["text"]: (row["kind"], [(e["label"], row["text"][e["start"] : e["end"]]) for e in row["entities"]])
        for row in addresses.rows(usaddress)
    }
    assert named == {
        "12 1/2 N. Elm St., NW, Salt Lake City, UT 84107 USA": (
            "plain",
            [
                ("number", "12 1/2"),
                ("street", "N. Elm St., NW"),
                ("place", "Salt Lake City"),
                ("state", "UT"),
                ("zip", "84107"),
            ],
        ),
        "Building 1, Suite # 100; 5th & 6th": (
            "unit",
            [("unit", "Building 1"), ("unit", "Suite # 100"), ("street", "5th"), ("street", "6th")],
        ),
        "Doe, Inc. Box# 7": ("box", [("name", "Doe, Inc."), ("box", "Box# 7")]),
    }


def test_entities_lie_in_their_order_and_never_overlap(usaddress: Path) -> None:
    for row in addresses.rows(usaddress):
        for one, other in itertools.pairwise(row["entities"]):
            assert one["start"] < one["end"] <= other["start"] < other["end"] <= len(row["text"])


def test_the_addresses_are_the_same_to_the_byte_each_time_and_lie_in_the_month_they_arrived(
    usaddress: Path, tmp_path: Path
) -> None:
    for name in ("one", "two", "one"):
        arrivals.write(addresses.rows(usaddress), tmp_path / name)
    one, two = (
        {str(file.relative_to(tmp_path / name)): file.read_bytes() for file in (tmp_path / name).rglob("*.jsonl")}
        for name in ("one", "two")
    )
    assert one == two
    written = [(path, json.loads(line)) for path, lines in one.items() for line in lines.splitlines()]
    assert len(written) == 3
    for path, row in written:
        assert path == f"month={datetime.fromisoformat(row['arrived']):%Y-%m}/part-0.jsonl"


def test_an_archive_without_the_addresses_is_turned_away(tmp_path: Path) -> None:
    (tmp_path / "other.tar.gz").write_bytes(packed({"other/training/labeled.xml": b"<All/>"}))
    with pytest.raises(SystemExit, match=r"no training/us50_messiest_manual_label\.xml; is it the sdist of usaddress"):
        list(addresses.rows(tmp_path / "other.tar.gz"))
