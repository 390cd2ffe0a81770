"""Rows that hold what looks like instructions to a model: such as would be learned, or would judge by them.

Known phrases and marks only: what is found may be an attack, or be about one. It is counted and shown, for people.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from components.validate.text import marked

SHOWN = 3
"""Rows of each kind that are shown."""
_HIDDEN = "\u200b\u2060-\u2064\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f"
"""Of no width, or that turn the direction of what follows, or tags; not the joiners that scripts and emoji need."""
_SUSPECT = (
    r"(?i)ignor|disregard|forget|overrid|bypass|you are n|(?:act|behave|respond) as| mode\b|prompt|instruction"
    rf"|<\||\[/?INST|<</?SYS|_of_turn>|##|[{_HIDDEN}]"
)
_TOLD = r"(?:previous|prior|above|earlier|preceding|system|original|all)"
_PROMPT = r"(?:prompts?|instructions?|rules|directions|guidelines)"
KINDS = {
    "to ignore what it was told": re.compile(
        r"\b(?:ignore|disregard|forget|override|bypass)\b[^.!?\n]{0,40}"
        rf"\b{_TOLD}\b[^.!?\n]{{0,20}}\b{_PROMPT}\b",
        re.I,
    ),
    "to be another": re.compile(
        r"\byou are (?:now an? |now in |now my |now DAN|now free|no longer (?:an? |bound|restricted))"
        r"|\b(?:act|behave|respond) as (?:if you (?:had|have|were|are) no|an? un(?:restricted|filtered|censored))"
        r"|\b(?:developer|god|DAN|jailbreak) mode\b",
        re.I,
    ),
    "to say what it was told": re.compile(
        r"\b(?:reveal|show|print|repeat|output|display|tell me|give me|what (?:is|are|was|were))\b[^.!?\n]{0,30}"
        rf"\b(?:system {_PROMPT}|(?:your|the) (?:initial |original |hidden |secret ){_PROMPT}|your {_PROMPT})\b",
        re.I,
    ),
    "marks of roles": re.compile(
        r"<\|[a-z_ ]{2,30}\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|#{2,} ?(?:system|instructions?|response) ?:",
        re.I,
    ),
    "characters that nobody sees": re.compile(f"[{_HIDDEN}]"),
}
"""Linear in the text: what an expression may try from one place is bounded."""


def found(said: Any) -> tuple[Counter[str], dict[str, list[str]]]:
    """How many texts hold such, by kind, under `any` those with at least one; and the first of each kind, for people.

    Args:
        said: a string array without nulls.
    """
    import pyarrow.compute as pc

    counts, shown = Counter[str](), dict[str, list[str]]()
    for text in said.filter(pc.match_substring_regex(said, _SUSPECT)).to_pylist():
        places = {kind: place for kind, pattern in KINDS.items() if (place := pattern.search(text))}
        counts.update([*places, *(["any"] if places else [])])
        for kind, place in places.items():
            if len(shown.setdefault(kind, [])) < SHOWN:
                shown[kind].append(_seen(marked(text, *place.span())))
    return counts, shown


def _seen(text: str) -> str:
    """A text in which those characters are written out that nobody sees."""
    return KINDS["characters that nobody sees"].sub(lambda of: f"\\u{ord(of[0]):04x}", text)


def said(counts: Mapping[str, int]) -> str:
    """A clause of how many rows hold which kind."""
    return ", ".join(f"{counts[kind]:,} {kind}" for kind in KINDS if counts[kind])


def document(counts: Mapping[str, int], shown: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What validation.json says of it."""
    kinds = {kind: counts[kind] for kind in KINDS if counts[kind]}
    return {"rows": counts["any"], "kinds": kinds, "shown": {kind: shown[kind] for kind in kinds}}
