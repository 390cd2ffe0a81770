"""The languages of a sample of the rows, and how far they lie from those of the champion's data.

py3langid, whose model is in its package, knows 142 of them by ISO 639's codes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from regraft import tally
from regraft.exchange import Check, drifted
from regraft.parts import Data

UNKNOWN = "unknown"
SURE = 0.5
"""How probable a text's language has to be, or it is UNKNOWN: a word or two, a number, a name."""
READ = 2_000
"""Characters of a text that its language is told by."""


def counts(texts: Iterable[str]) -> dict[str, int]:
    """How many texts are in each language, the most frequent first."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    found = Counter(name if chance >= SURE else UNKNOWN for name, chance in (model.classify(t[:READ]) for t in texts))
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def checks(data: Data, now: Mapping[str, int], before: Mapping[str, int] | None) -> Iterator[Check]:
    """Are texts in languages that the recipe names, and in those that the champion was trained on?

    Args:
        now, before: what `counts` says of this data, and of the champion's, where that is known.
    """
    from components.validate.contract import share

    limit, drift = data.contract.languages, data.contract.drift
    if limit is not None:
        told = {name: n for name, n in now.items() if name != UNKNOWN}
        others = {name: n for name, n in told.items() if name not in limit.only}
        number, of, allowed = sum(others.values()), sum(told.values()), ", ".join(limit.only)
        named = ", ".join(f"{n:,} {name}" for name, n in [*others.items()][:5])
        what = f"are in other languages than {allowed}"
        yield Check(
            name="languages",
            key="data.contract.languages",
            severity=limit.severity,
            observed=share(number, of),
            max=limit.max,
            rule=f"at most {limit.max:.1%} of the rows of a sample {what}",
            sentence=f"{number:,} of {of:,} rows of a sample ({share(number, of):.1%}) {what}"
            f"{f' ({named})' if named else ''}, at most {limit.max:.1%} may",
        )
    if before is not None:
        moved = tally.distance(before, now)
        yield drifted("language_drift", drift, moved, of="a sample's languages", where="the languages")


def balance(now: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, dict[str, float]]:
    """Share of each language in this data and in the champion's, where that is known; by profiles of `profile`."""
    sides = {"this data": now["languages"]}
    if before and before.get("languages"):  # regraft 0.1 did not count them
        sides["champion's data"] = before["languages"]
    names = list(dict.fromkeys(name for of in sides.values() for name in of))
    return {side: {name: of.get(name, 0) / max(1, sum(of.values())) for name in names} for side, of in sides.items()}
