"""The rows of text-classification: a text and its label, which is frozen as an index into the recipe's labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from regraft import tally
from regraft.exchange import Check, Read, Seen, drifted
from regraft.rows import Rows, digests, tidy
from regraft.tasks.text_classification.recipe import Data

ROWS = Rows(
    read={"text": "text", "label": "name"},
    target=("label",),
    reasons=("no label", "unknown label"),
    missing={"no label": "a label"},
)


def rows(table: Any, data: Data) -> Read:
    """What the rows of a source are. A blank label is none: CSV has no null."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    label = pc.utf8_trim_whitespace(table["label"])
    label = pc.if_else(pc.equal(label, ""), pa.scalar(None, pa.string()), label)
    index = pc.index_in(label, value_set=pa.array(data.labels, pa.string()))
    return Read(
        text=table["text"],
        target={"label": index.cast(pa.int32())},
        problems=[
            (reason, np.asarray(pc.is_null(of))) for reason, of in zip(ROWS.reasons, (label, index), strict=True)
        ],
        shown=label,
        unknown={"unknown label": label},
    )


def shown(target: Any, data: Data) -> Any:
    """The labels' names."""
    import pyarrow as pa

    return pa.array(data.labels, pa.string()).take(target["label"].combine_chunks())


def known(data: Data) -> Mapping[str, Sequence[str]]:
    """The labels that there are."""
    return {"label": data.labels}


def named(data: Data, values: Sequence[str]) -> str:
    """A clause about labels that the recipe does not know."""
    return f"{', '.join(map(repr, values))}; the recipe knows {list(data.labels)}"


def counts(target: Any, data: Data) -> dict[str, int]:
    """Rows of each label."""
    import numpy as np

    of_index = np.bincount(target["label"].to_numpy(), minlength=len(data.labels))
    return dict(zip(data.labels, of_index.tolist(), strict=True))


def checks(data: Data, seen: Seen) -> Iterator[Check]:
    """Are there enough rows of every label, in every split, and as many as the champion was trained on?"""
    contract, totals = data.contract, seen.totals
    label, count = min(totals.items(), key=lambda item: item[1])
    whole = sum(totals.values())
    share = round(count / whole, 6) if whole else 0.0
    yield Check(
        name="labels",
        key="data.contract.labels.min_share",
        severity=contract.labels.severity,
        observed=share,
        min=contract.labels.min_share,
        rule=f"each label has at least {contract.labels.min_share:.1%} of the rows",
        sentence=f"the label {label!r} has {count:,} of {whole:,} rows ({share:.1%}), "
        f"at least {contract.labels.min_share:.1%} are needed",
    )
    present = {name: sum(n > 0 for n in of_label.values()) for name, of_label in seen.counts.items()}
    fewest = min(present, key=lambda name: present[name])
    sizes = ", ".join(f"{name} {n:,}" for name, n in seen.rows.items())
    yield Check(
        name="splits",
        key="data.splits",
        severity="critical",
        observed=present[fewest],
        min=2,
        rule="train, dev and holdout hold at least two labels each",
        sentence=f"{fewest} holds rows of {present[fewest]} label{'s' * (present[fewest] != 1)}, "
        f"at least 2 are needed (rows: {sizes})",
    )
    if seen.before is not None:
        moved = tally.distance(seen.before, totals)
        yield drifted("label_drift", contract.drift, moved, of="labels", where="the labels")


def seen_by_digest(rows: Any, trained: Any, recipe: Mapping[str, Any]) -> Any:
    """Which rows a model of regraft 0.1 was trained on, which knew label and text together, shape (rows,), bool.

    Args:
        trained: its train_digests.parquet: `digest`.
        recipe: what it read of its recipe, by key.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    label = pa.array(recipe["data.labels"], pa.string()).take(rows["label"].combine_chunks())
    known = digests(pc.binary_join_element_wise(label, tidy(rows["text"].combine_chunks()), "\n"))
    return np.asarray(pc.is_in(pa.array(known, pa.string()), trained["digest"].combine_chunks()), dtype=bool)
