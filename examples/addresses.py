"""Makes an example of token classification from the addresses that the source package of usaddress ships (MIT licence).

    pip download --no-deps --no-binary usaddress usaddress==0.5.16
    python -m examples.addresses --sdist usaddress-0.5.16.tar.gz --out .cache/data/addresses

1,578 postal addresses of the United States whose words people labelled for usaddress (copyright 2014 The Atlanta
Journal Constitution); its addresses that a program made are left out. Its labels become eight, `PARTS`; words that have
none of them, such as a country or what joins two streets, are in no entity. `kind` is the slice: the first that the
address has of a `box`, a `name` and a `unit`, else `plain`.

**The arrival times**, over the year 2025, **are invented**: the addresses have none (examples/arrivals.py).
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from examples import arrivals
from examples.arrivals import chance, in_year

FILES = (
    "labeled.xml",
    "us50_messiest_manual_label.xml",
    "us50_train_tagged.xml",
    "multi_word_state_addresses.xml",
)
"""Those in the folder `training` that people labelled. Of an address that comes again, the first counts."""

PARTS = {
    "AddressNumber": "number",
    "StreetName": "street",
    "suffix": "street",
    "Occupancy": "unit",
    "Subaddress": "unit",
    "USPSBox": "box",
    "PlaceName": "place",
    "StateName": "state",
    "Zip": "zip",
    "Recipient": "name",
    "BuildingName": "name",
    "LandmarkName": "name",
}
"""Our label of each of usaddress' that begins so. Words of one label side by side are one entity."""

EDGES = ' ,;:()"'
"""What is no part of an entity at its ends, though it may stand inside, as in `M Street, NW`."""


def addresses(sdist: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Text and entities of each address, in the order of the archive's files; each text once."""
    texts = set()
    with tarfile.open(sdist) as tar:
        paths = {Path(name).name: name for name in tar.getnames() if Path(name).parent.name == "training"}
        for name in FILES:
            file = tar.extractfile(paths[name]) if name in paths else None
            if file is None:
                raise SystemExit(f"the archive has no training/{name}; is it the sdist of usaddress 0.5.16?")
            for address in ElementTree.fromstring(file.read()):  # noqa: S314  expat bounds what an entity expands to
                text, entities = _read(address)
                if text not in texts:
                    texts.add(text)
                    yield text, entities


def _read(address: ElementTree.Element) -> tuple[str, list[dict[str, Any]]]:
    """Text and entities of one address, whose elements are words or what is between them."""
    text, entities = "", list[dict[str, Any]]()
    pieces = [(address.text, "")]
    for word in address:
        pieces += (word.text, word.tag), (word.tail, "")
    for piece, tag in pieces:
        start = len(text)
        text = re.sub(r"\s+", " ", text + (piece or "")).lstrip()
        label = next((label for begin, label in PARTS.items() if tag.startswith(begin)), None)
        inner = text[start:].strip(EDGES)
        if label is None or not inner:
            continue
        start = text.index(inner, start)
        before = entities[-1] if entities else None
        if before and before["label"] == label and not _parted(text[before["end"] : start], label):
            before["end"] = start + len(inner)
        else:
            entities.append({"start": start, "end": start + len(inner), "label": label})
    return text.rstrip(), entities


def _parted(between: str, label: str) -> bool:
    """Whether what stands between two words of a label makes them two entities: `Building 1, Suite 100` is two."""
    return bool(between.strip() if label == "unit" else between.strip(EDGES + "#"))


def _kind(entities: list[dict[str, Any]]) -> str:
    labels = {entity["label"] for entity in entities}
    return next((kind for kind in ("box", "name", "unit") if kind in labels), "plain")


def rows(sdist: Path) -> Iterator[dict[str, Any]]:
    """The rows, each with the partition (`part`) it belongs to."""
    for text, entities in addresses(sdist):
        arrived, part = in_year(chance("arrived", text))
        yield {
            "part": part,
            "text": text,
            "entities": entities,
            "kind": _kind(entities),
            "arrived": arrived.isoformat(),
        }


if __name__ == "__main__":
    makes = "an example of token classification from usaddress' sdist"
    arrivals.command("addresses", rows, makes=makes, archive="usaddress-0.5.16.tar.gz")
