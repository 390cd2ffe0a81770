"""The data page: what a person wants to see of a validation, as one HTML file that opens offline.

It knows what is shown of a row from the task's interface alone. What looks like personal data stands there as its kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from components.validate import charts, language
from components.validate import text as texts
from components.validate.freeze import Frozen
from components.validate.profile import LENGTHS, lengths, word_drift
from components.validate.quarantine import FIRST, Quarantine
from components.validate.rows import EXCERPT, SPLITS, Totals
from regraft import views
from regraft.parts import Data

SENTENCE = 600
"""Characters of what a check says."""
PAIRED = 400
"""Characters of a text beside one that nearly equals it."""
NAMES = 100
"""What the task counts, as far as a table lists it."""


@dataclass(frozen=True, kw_only=True)
class Validated:
    """What was found out of the data.

    Attributes:
        now, before: profiles of this data and of that which the champion was trained on.
        tokens: tokens of the texts of the sample.
        end: end of the data window.
    """

    totals: Totals
    frozen: Frozen
    now: Mapping[str, Any]
    before: Mapping[str, Any] | None
    tokens: Sequence[int]
    end: datetime | None


def pictures(data: Data, found: Validated) -> dict[str, Any]:
    """The page's pictures by name, as far as there is something to draw."""
    totals, frozen = found.totals, found.frozen
    drawn: dict[str, Any] = {}
    fates = {
        "outside the window": totals.outside_window,
        "set aside": totals.counted - totals.reasons[""],
        "duplicates": frozen.duplicates,
        "withheld": frozen.withheld,
        **frozen.rows,
    }
    if totals.read:
        drawn["fates"] = charts.bars({"rows": fates}, form="{:,.0f}")
    if found.end is not None and totals.days[:-1].any():
        drawn["arrivals"] = charts.arrivals(totals.days, found.end)
    balance = {side: shares for side, (_, shares) in _balance(frozen, found.before).items() if any(shares.values())}
    if "this data" in balance:
        drawn["balance"] = charts.bars(balance, form="{:.1%}")
    if found.now["languages"]:
        drawn["languages"] = charts.bars(language.balance(found.now, found.before), form="{:.1%}")
    if totals.lengths.any():
        drawn["characters"] = charts.lengths(totals.lengths, data.contract.characters, unit="characters")
    if any(found.tokens):
        drawn["tokens"] = charts.lengths(lengths([n for n in found.tokens if n]), data.contract.tokens, unit="tokens")
    if found.before is not None and (words := word_drift(found.before, found.now)[1]):
        drawn["words"] = charts.moves(words)
    return drawn


def render(
    recipe: str,
    data: Data,
    found: Validated,
    *,
    document: Mapping[str, Any],
    quarantine: Quarantine,
    drawn: Mapping[str, Any],
    identity: str,
) -> str:
    """The page's HTML.

    Args:
        document: validation.json.
        drawn: what `pictures` gives.
    """
    totals, frozen, before = found.totals, found.frozen, found.before
    checks = [{**check, "sentence": texts.masked(check["sentence"], SENTENCE)} for check in document["checks"]]
    return views.page(
        "components.validate",
        "data.html.j2",
        recipe=recipe,
        document=document,
        checks=checks,
        failed=[check for check in checks if not check["passed"]],
        before=before,
        balance=list(_lines(frozen, before)),
        named=NAMES,
        counted=len(frozen.totals),
        splits=SPLITS,
        characters=_at_most(totals.lengths),
        tokens=sorted(found.tokens),
        limits=data.contract.characters,
        aside=list(_aside(quarantine)),
        first=FIRST,
        pairs=[_pair(*pair) for pair in frozen.pairs],
        personal={kind: totals.personal[kind] for kind in (*texts.PII, "any")},
        good=totals.reasons[""],
        pictures=drawn,
        identity=identity,
    )


def _balance(frozen: Frozen, before: Mapping[str, Any] | None) -> dict[str, tuple[Mapping[str, int], dict[str, float]]]:
    """What the task counts, and the share of each, in this data and the champion's; what is most frequent first."""
    sides = {"this data": frozen.totals}
    if before is not None:
        sides["champion's data"] = before.get("counts", before.get("labels"))  # regraft 0.1 counted only labels
    names = sorted({name for of in sides.values() for name in of}, key=lambda name: (-frozen.totals.get(name, 0), name))
    return {
        side: (counts, {name: counts.get(name, 0) / max(1, sum(counts.values())) for name in names})
        for side, counts in sides.items()
    }


def _lines(frozen: Frozen, before: Mapping[str, Any] | None) -> Iterator[tuple[str, list[str]]]:
    """A name that the task counts, its number and share in all and before, and its number in each split."""
    sides = _balance(frozen, before)
    for name in [*sides["this data"][1]][:NAMES]:
        numbers = [f"{counts.get(name, 0):,} ({shares[name]:.1%})" for counts, shares in sides.values()]
        yield texts.masked(name, EXCERPT), numbers + [f"{frozen.counts[split][name]:,}" for split in SPLITS]


def _at_most(counts: Any) -> dict[str, int]:
    """Lengths that no more than half of the texts, 5 % and none go beyond, from counts of `profile.lengths`."""
    import numpy as np

    if not np.any(counts):
        return {}
    sums, ends = np.cumsum(counts), [*(edge - 1 for edge in LENGTHS[1:]), 2 * LENGTHS[-1]]
    shares = {"half": 0.5, "95 %": 0.95, "all": 1.0}
    return {name: int(ends[int(np.searchsorted(sums, share * sums[-1]))]) for name, share in shares.items()}


def _aside(quarantine: Quarantine) -> Iterator[dict[str, Any]]:
    """Each reason with its first rows, the most frequent reason first."""
    for reason, count in sorted(quarantine.counts.items(), key=lambda item: (-item[1], item[0])):
        rows = quarantine.first[reason]
        shown = [name for name in rows[0] if name not in ("file", "row")]
        yield {
            "reason": reason,
            "count": count,
            "columns": ("file", "row", *shown),
            "rows": [
                (row["file"], row["row"], *(texts.masked(row[name] or "", EXCERPT) for name in shown)) for row in rows
            ],
        }


def _pair(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, Any]:
    """Two rows as cells, and how many of their pairs of neighbouring words they have in common."""
    import pyarrow as pa

    from regraft.rows import tidy

    spelled = texts.words(tidy(pa.array([one["text"], other["text"]]))).spelled.to_pylist()
    mine, theirs = ({*zip(["", *words], words, strict=False)} for words in map(str.split, spelled))
    columns = sorted(one, key=lambda name: name == "text")
    return {
        "common": len(mine & theirs) / len(mine | theirs),
        "columns": columns,
        "rows": [[texts.masked(row[name] or "", PAIRED) for name in columns] for row in (one, other)],
    }
