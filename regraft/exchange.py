"""What tasks and steps hand each other: rows that were read, what is checked and learned, a contest, examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from regraft.gate import Verdict
from regraft.parts import DriftCheck, Severity

COLOURS = {"challenger": "#2f6fde", "champion": "#8a8f98"}
"""Of the two models in pictures."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """What a task makes of rows of a source.

    Attributes:
        text: their texts, a string array; null or blank where there is none.
        target: the columns of ROWS.target; whatever where a row has a problem.
        problems: reasons of ROWS and which rows each applies to, shape (rows,); the first that applies counts.
        shown: the target as people read it, a string array.
        unknown: of the rows that are set aside for a reason, the value that nobody knows.
        words: what near-duplicates, splits and drift of words go by, a string array, where that is not all of the text.
    """

    text: Any
    target: Mapping[str, Any]
    problems: Sequence[tuple[str, Any]]
    shown: Any
    unknown: Mapping[str, Any] = field(default_factory=dict)
    words: Any = None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was counted of frozen rows.

    Attributes:
        rows: rows of each split.
        counts: of each split, what the task counts.
        totals: the same of all splits together.
        before: the same of all the data that the champion was trained on; None where there is none.
    """

    rows: Mapping[str, int]
    counts: Mapping[str, Mapping[str, int]]
    totals: Mapping[str, int]
    before: Mapping[str, int] | None


@dataclass(frozen=True, kw_only=True)
class Check:
    """One condition of the contract.

    Attributes:
        key: the key of the recipe that sets the limit.
        rule: what must hold, for Data Docs.
        sentence: what was found.
        passed: what Great Expectations says; None before it was asked.
    """

    name: str
    key: str
    severity: Severity
    observed: float
    min: float | None = None
    max: float | None = None
    rule: str
    sentence: str
    passed: bool | None = None


def drifted(name: str, limit: DriftCheck, moved: float, *, of: str, where: str, more: str = "") -> Check:
    """The condition that something lies near the champion's training data.

    Args:
        moved: Jensen-Shannon distance between both.
        of, where: what lies there, after "the distance of" and before "lie"; `more` follows the sentence.
    """
    return Check(
        name=name,
        key="data.contract.drift.max",
        severity=limit.severity,
        observed=moved,
        max=limit.max,
        rule=f"the Jensen-Shannon distance of {of} from the champion's training data is at most {limit.max}",
        sentence=f"{where} lie {moved:.3f} from the champion's training data, at most {limit.max} may be{more}",
    )


@dataclass(frozen=True, kw_only=True)
class Mask:
    """What of rows a model is trained on, where that is not all it sees.

    Attributes:
        lengths: tokens of each row.
        learned: of them, those that are trained on.
        untaught, cut: positions of rows that teach nothing, and of those that teach a part of what is right.
        wrong: of the first row that teaches something else, what it teaches, and what is right.
        shown: some rows as the model sees them; what is trained on stands between MARKS.
        turns: of rows that are conversations, who speaks in each turn.
    """

    lengths: Sequence[int]
    learned: Sequence[int]
    untaught: Sequence[int]
    cut: Sequence[int]
    wrong: tuple[str, str] | None
    shown: Sequence[str]
    turns: Sequence[Sequence[str]] = ()


MARKS = ("⟦", "⟧")
"""Around what is trained on."""
UNTAUGHT = 0.01
"""Largest share of rows that may teach nothing."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What the one training loop needs of a task.

    Attributes:
        lengths: tokens of each row that is trained on.
        train: those rows as a dataset, in a given order: positions, of which one may come several times.
        dev: the rows that checkpoints are chosen by, as a dataset.
        collator: makes a batch of items.
        score: metrics of what the trainer predicted for `dev`, among them that of `chosen_by`.
        loss: of the model's outputs, where it is not the model's own; see transformers.Trainer's compute_loss_func.
        reduced: what is kept of a batch's logits for `score`, where it is not all of them.
        dev_batch: rows of `dev` that are scored at once.
        files: what a finetune puts out beside adapter and tokenizer: contents by name.
        knowing: makes the lesson that is meant, where it depends on what the model says before it is trained.
    """

    lengths: list[int]
    train: Callable[[list[int]], Any]
    dev: Any
    collator: Any
    score: Callable[[Any], dict[str, float]]
    files: Mapping[str, str]
    loss: Callable[..., Any] | None = None
    reduced: Callable[[Any, Any], Any] | None = None
    dev_batch: int = 64
    knowing: Callable[[Any], Lesson] | None = None


@dataclass(frozen=True, kw_only=True)
class Contest:
    """A verdict and what it was made from, row by row (clean rows only).

    Attributes:
        rows: frozen rows.
        challenger, champion: answers to them; None where there is no champion.
        base: answers of the base model, where that is what a first challenger has to be better than.
        probed: answers to the task's probes that hold no longer, and those that its judge finds worse.
    """

    verdict: Verdict
    rows: Any
    challenger: Any
    champion: Any
    latency_ms: float | None
    base: Any = None
    probed: Sequence[Examples] = ()


Keep = Callable[[Mapping[str, str], Callable[[], bytes], Callable[[bytes], Any]], Any]
"""What is kept in the store of some inputs, by their digests, or else is made now: `Memo.get` of one name."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Rows worth reading.

    Attributes:
        count: how many there are; `rows` may be fewer.
        rows: a text for each of the columns.
    """

    title: str
    count: int
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
