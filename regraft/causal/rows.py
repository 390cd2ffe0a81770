"""What the contract checks of rows that teach answers in words."""

from __future__ import annotations

from collections.abc import Iterator

from regraft import parts, tally
from regraft.exchange import Check, Seen, drifted


def checks(data: parts.Data, seen: Seen, *, these: str) -> Iterator[Check]:
    """Does every split hold rows, and are answers as long as those that the champion was trained on?

    Args:
        seen: the task counts rows by the length of their answer.
        these: what answers are called, such as summaries.
    """
    fewest = min(seen.rows, key=lambda name: seen.rows[name])
    yield Check(
        name="splits",
        key="data.splits",
        severity="critical",
        observed=seen.rows[fewest],
        min=1,
        rule="train, dev and holdout hold a row at least",
        sentence=f"{fewest} holds {seen.rows[fewest]:,} rows, at least 1 is needed",
    )
    if seen.before is not None:
        lengths, moved = f"{these}' lengths", tally.distance(seen.before, seen.totals)
        yield drifted("length_drift", data.contract.drift, moved, of=lengths, where=lengths)
