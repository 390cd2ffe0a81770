"""What validate freezes of a source's rows: a text, and its entities as JSON of one form, so that Arrow sorts them.

Each row's JSON is read in Python, about 10 µs an entity: a batch has 16,384 rows at most, and a text with entities is
dear to make, so that sets of them are small.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from regraft import tally
from regraft.exchange import Check, Read, Seen, drifted
from regraft.rows import Rows
from regraft.tasks.token_classification.recipe import Data

NONE, DAMAGED, RANGE, OVERLAP, UNKNOWN = REASONS = (
    "no entities",
    "damaged entities",
    "span out of range",
    "overlapping spans",
    "unknown label",
)

ROWS = Rows(
    read={"text": "text", "entities": "value", "tokens": "value", "tags": "value"},
    target=("entities",),
    reasons=REASONS,
    missing={NONE: "entities"},
)

Span = tuple[int, int, str]
"""Start, end and label."""


class Row(NamedTuple):
    """A row as it is read: `entities` are of use where there is no problem."""

    text: str | None
    entities: str | None
    problem: str | None = None
    unknown: str | None = None


def rows(table: Any, data: Data) -> Read:
    """Text and entities of each row of a batch.

    Args:
        table: string arrays by key of `data.columns`: text, entities; or tokens, tags.
    """
    import numpy as np

    labels = frozenset(data.labels)
    pair, read = (("text", "entities"), _of_text) if data.columns.text else (("tokens", "tags"), _of_words)
    one, other = (table[name].to_pylist() for name in pair)
    found = [read(value, target, labels) for value, target in zip(one, other, strict=True)]
    problems = np.array([row.problem or "" for row in found], dtype=object)
    return Read(
        text=_strings(row.text for row in found),
        target={"entities": _strings(row.entities for row in found)},
        problems=[(reason, problems == reason) for reason in REASONS],
        shown=_strings(row.entities or value for row, value in zip(found, other, strict=True)),
        unknown={UNKNOWN: _strings(row.unknown for row in found)},
    )


def _strings(values: Iterable[str | None]) -> Any:
    """An array of them. Half a character, as JSON can spell it, is none in UTF-8; what replaces it is as long."""
    import pyarrow as pa

    return pa.array([value and value.encode("utf-8", "replace").decode() for value in values], pa.string())


def _of_text(text: str | None, value: str | None, known: frozenset[str]) -> Row:
    """A row of text and entities."""
    if _blank(value):
        return Row(text, None, NONE)
    found = _json(value)
    if not isinstance(found, list) or not all(_is_entity(one) for one in found):
        return Row(text, None, DAMAGED)
    return _judged(text, [(one["start"], one["end"], one["label"]) for one in found], known)


def _of_words(tokens: str | None, tags: str | None, known: frozenset[str]) -> Row:
    """A row of words and tags."""
    words = [] if _blank(tokens) else _json(tokens)
    if not _are_strings(words):
        return Row(tokens, None, DAMAGED)  # a text, so that it is not said to be missing
    text = " ".join(words)
    if _blank(tags):
        return Row(text, None, NONE)
    named = _json(tags)
    spans = _merged(words, named) if _are_strings(named) and len(named) == len(words) else None
    return Row(text, None, DAMAGED) if spans is None else _judged(text, spans, known)


def _merged(words: Sequence[str], tags: Sequence[str]) -> list[Span] | None:
    """The spans of words with a space between each two, by their tags; None where a tag has no place there."""
    spans: list[Span] = []
    at, before = 0, ""
    for word, tag in zip(words, tags, strict=True):
        kind, _, label = tag.partition("-")
        if kind == "B" and label:
            spans.append((at, at + len(word), label))
        elif kind == "I" and label and label == before:
            spans[-1] = (spans[-1][0], at + len(word), label)
        elif tag != "O":
            return None
        at, before = at + len(word) + 1, label
    return spans


def _judged(text: str | None, spans: Sequence[Span], known: frozenset[str]) -> Row:
    spans = sorted(spans)
    if any(not 0 <= start < end <= len(text or "") for start, end, _ in spans):
        return Row(text, None, RANGE)
    if any(one[1] > other[0] for one, other in itertools.pairwise(spans)):
        return Row(text, None, OVERLAP)
    entities = canonical(spans)
    if unknown := next((label for _, _, label in spans if label not in known), None):
        return Row(text, entities, UNKNOWN, unknown)
    return Row(text, entities)


def canonical(spans: Sequence[Span]) -> str:
    """Entities as a frozen row has them, from sorted spans."""
    found = [{"start": start, "end": end, "label": label} for start, end, label in spans]
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


def spans(entities: str) -> list[Span]:
    """Start, end and label of entities in JSON, as a frozen row or an answer has them."""
    return [(one["start"], one["end"], one["label"]) for one in json.loads(entities)]


def _blank(value: str | None) -> bool:
    """CSV has no null: a blank value is none."""
    return value is None or not value.strip() or value.strip() == "null"


def _json(value: str | None) -> Any:
    try:
        return json.loads(value or "")
    except (ValueError, RecursionError):
        return None


def _is_entity(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(type(value.get(key)) is int for key in ("start", "end"))  # true is an int to isinstance
        and isinstance(value.get("label"), str)
    )


def _are_strings(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def shown(target: Any, data: Data) -> Any:
    """The entities of frozen rows as a person reads them."""
    return target.column("entities").combine_chunks()


def known(data: Data) -> Mapping[str, Sequence[str]]:
    """No column has a fixed set of values."""
    return {}


def named(data: Data, values: Sequence[str]) -> str:
    """A clause about labels that the recipe does not know."""
    return f"{', '.join(map(repr, values))}; the recipe knows {list(data.labels)}"


def counts(target: Any, data: Data) -> dict[str, int]:
    """Entities of each label. They are counted in the JSON: a quote inside a value has a backslash before it."""
    import pyarrow.compute as pc

    column = target.column("entities")
    ends = {label: f'"label":{json.dumps(label, ensure_ascii=False)}}}' for label in data.labels}
    return {label: pc.sum(pc.count_substring(column, end), min_count=0).as_py() for label, end in ends.items()}


def checks(data: Data, seen: Seen) -> Iterator[Check]:
    """Are there entities of every label, in every split, in the shares that the champion knew?"""
    contract, totals = data.contract, seen.totals
    label, count = min(totals.items(), key=lambda item: item[1])
    total = sum(totals.values())
    share = round(count / total, 6) if total else 0.0
    yield Check(
        name="labels",
        key="data.contract.labels.min_share",
        severity=contract.labels.severity,
        observed=share,
        min=contract.labels.min_share,
        rule=f"each label has at least {contract.labels.min_share:.1%} of the entities",
        sentence=f"the label {label!r} has {count:,} of {total:,} entities ({share:.1%}), "
        f"at least {contract.labels.min_share:.1%} are needed",
    )
    held = {name: sum(of_split.values()) for name, of_split in seen.counts.items()}
    fewest = min(held, key=lambda name: held[name])
    sizes = ", ".join(f"{name} {count:,} in {seen.rows[name]:,} rows" for name, count in held.items())
    yield Check(
        name="splits",
        key="data.splits",
        severity="critical",
        observed=held[fewest],
        min=1,
        rule="train, dev and holdout hold at least one entity each",
        sentence=f"{fewest} holds {held[fewest]:,} entities, at least 1 is needed ({sizes})",
    )
    if seen.before is not None:
        moved = tally.distance(seen.before, totals)
        yield drifted("label_drift", contract.drift, moved, of="entities' labels", where="the entities' labels")
