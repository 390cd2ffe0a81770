"""What of the rows a model would be trained on, looked at before it is: of tasks that do not learn all they see."""

from __future__ import annotations

import itertools
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from components.validate import text
from regraft import bases, locations, sources, tasks
from regraft.errors import BadInput
from regraft.exchange import MARKS, UNTAUGHT, Check, Mask
from regraft.step import Context, Work

TOKENIZER_FILES = (".json", ".jinja", ".model", "vocab.txt", "merges.txt")
"""What a tokenizer and its chat template are made from, and no weights."""
INPUT = "chat_template"
CUT = 0.05
"""Share of rows whose answer is cut from which on that is a warning."""
BATCHES = (8, 16, 32, 64)
"""Rows of a batch, of which it is said how far rows fill them and how many steps an epoch then has."""
SHOWN = 4000
"""Characters of a row that is shown."""


def inputs(context: Context) -> dict[str, str]:
    """Digest of the files that the base model's tokenizer is made from."""
    base = context.recipe.base_model
    if not hasattr(tasks.of(context.recipe.task), "mask"):
        return {}
    if base.revision or locations.champion(base.source):
        return {INPUT: bases.pinned(context)["base_model"]}
    return {INPUT: sources.digest(base.source, TOKENIZER_FILES)}


def of(context: Work, tokenizer: Any, sample: Any) -> Mask | None:
    """What of a sample of the frozen rows is trained on; None without a tokenizer.

    Args:
        tokenizer: as `tokenizer` gives it.

    Raises:
        BadInput: the task cannot be learned from such a tokenizer, or with such settings.
    """
    task = tasks.of(context.recipe.task)
    found: Mask | None = None if tokenizer is None else task.mask(context.recipe, tokenizer, sample)
    return found


def tokenizer(context: Work) -> Any:
    """The base model's tokenizer, of tasks that do not learn all they see; None, which is said, where only training
    can load it."""
    if INPUT not in context.inputs:
        return None
    folder = context.scratch / "tokenizer"
    base = context.recipe.base_model
    name, options = base.source.removeprefix("hf://"), {"revision": base.revision} if base.revision else {}
    if locations.champion(base.source):
        name = str(bases.tokenizer_files(context, folder, digest=context.inputs[INPUT]))
    elif not base.revision:
        found = sources.look(base.source, TOKENIZER_FILES)
        system, name = sources.opened(base.source)
        if "file" not in system.protocol:
            found, name = sources.download(base.source, name, found, folder), str(folder)
        if sources.combined(sources.digests(base.source, found)) != context.inputs[INPUT]:
            raise BadInput(
                "its files changed since this step began",
                where=base.source,
                state="nothing was put out",
                next="repeat the command",
            )
    try:
        return tasks.of(context.recipe.task).tokenizer(name, **options)
    except BadInput:
        raise
    except Exception as error:  # code of its own, a file of another format or a damaged one: tokenizers raises anything
        why = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        print(f"warning: what is learned of a row is looked at in training only: {why}", file=sys.stderr, flush=True)
        return None


def checks(mask: Mask) -> Iterator[Check]:
    """Is what is trained on the answer, has each row some of it, and how much of it is cut?"""
    from components.validate.contract import share

    count, wrong = len(mask.lengths), mask.wrong
    known = f"where the answer is {wrong[1]!r}, it would train on {wrong[0]!r}" if wrong else "answers are as they are"
    yield Check(
        name="mask",
        key="base_model.source",
        severity="critical",
        observed=int(wrong is not None),
        max=0,
        rule="what the chat template shows as an answer is the answer",
        sentence=f"in what the chat template makes of {count:,} rows of a sample, {known}",
    )
    why = "they are cut, or the chat template leaves it out"
    for name, rows, most, what in (
        ("untaught", mask.untaught, UNTAUGHT, f"have no token to learn: {why}"),
        ("cut", mask.cut, CUT, f"lack a part of their answer: {why}"),
    ):
        found = share(len(rows), count)
        yield Check(
            name=name,
            key="training.max_length",
            severity="critical" if name == "untaught" else "warning",
            observed=found,
            max=most,
            rule=f"at most {most:.0%} of the rows {what}",
            sentence=f"{len(rows):,} of {count:,} rows of a sample ({found:.1%}) {what}, at most {most:.0%} may",
        )


def described(mask: Mask) -> list[str]:
    """Some rows as the model sees them, and how to read them, for Data Docs."""
    learns = f"As the model sees them; what it learns stands between {' and '.join(MARKS)}:"
    return [learns, *(text.masked(row, SHOWN) for row in mask.shown)]


def filled(lengths: Sequence[int], size: int, *, train: int) -> float:
    """About which share of the tokens in finetune's batches are of rows, and no padding.

    It takes rows of like length together: of 50 batches at a time, or of a quarter of all rows where that is less.

    Args:
        lengths: tokens of each row of a sample, in an order by chance.
        size: rows of a batch.
        train: how many rows there are to train on.
    """
    at_once = size * max(1, min(train // (4 * size), 50))
    groups = [sorted(lengths[at : at + at_once]) for at in range(0, len(lengths), at_once)]
    batches = [group[at : at + size] for group in groups for at in range(0, len(group), size)]
    whole = sum(len(batch) * batch[-1] for batch in batches)
    return round(sum(lengths) / whole, 4) if whole else 1.0


def document(mask: Mask, *, train: int) -> dict[str, Any]:
    """What validation.json says of it; personal data in what is shown has its kind in its place.

    Args:
        train: how many rows there are to train on.
    """
    import numpy as np

    lengths, learned = np.asarray(mask.lengths or [0]), sum(mask.learned)
    half, most, longest = (int(np.percentile(lengths, share)) for share in (50, 95, 100))
    return {
        "rows": len(mask.lengths),
        "tokens": {"half": half, "95 %": most, "longest": longest, "all": int(lengths.sum()), "learned": learned},
        "untaught": len(mask.untaught),
        "cut": len(mask.cut),
        "shown": [text.masked(row, SHOWN) for row in mask.shown],
        "turns": _counted(map(len, mask.turns)),
        "roles": _counted(itertools.chain(*mask.turns)),
        "batches": [
            {"rows": size, "filled": filled(mask.lengths, size, train=train), "steps": math.ceil(train / size)}
            for size in BATCHES
        ],
    }


def _counted(values: Iterable[str | int]) -> dict[str, int]:
    """How often each value occurs, the most frequent first; equally frequent ones in their order."""
    return {str(value): n for value, n in sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))}
