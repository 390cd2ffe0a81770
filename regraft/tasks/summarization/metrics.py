"""How good summaries are: ROUGE beside what all answers in words are measured by.

ROUGE (Lin, 2004) is the mean over rows of the F1 of each, as torchmetrics computes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from regraft.causal import scoring
from regraft.causal.scoring import broken
from regraft.gate import Own
from regraft.tally import Metric, Tally
from regraft.tasks.summarization.recipe import Recipe

__all__ = ["LIBRARIES", "METRICS", "broken", "comparable", "own", "tally"]

LIBRARIES = {
    "validate": ("transformers",),
    **dict.fromkeys(("evaluate", "promote", "deploy"), ("sacrebleu", "snowballstemmer", "torchmetrics")),
}
ROUGE = ("rouge1", "rouge2", "rougeL")

METRICS: Mapping[str, Metric] = {
    **{name: scoring.mean(place) for place, name in enumerate(ROUGE)},
    "chrf": scoring.chrf,
    "likelihood": scoring.likelihood,
}


def words(language: str) -> Callable[[str], list[str]]:
    """What takes a text apart for ROUGE."""
    if language == "characters":
        return lambda text: [character for character in text.lower() if not character.isspace()]
    if language == "words":
        return lambda text: re.findall(r"\w+", text.lower())
    stem = _stemmer(language)
    return lambda text: stem(re.findall(r"\w+", text.lower()))


@lru_cache
def _stemmer(language: str) -> Callable[[list[str]], list[str]]:
    import snowballstemmer

    stems: Callable[[list[str]], list[str]] = snowballstemmer.stemmer(language).stemWords
    return stems


def rouge(recipe: Recipe, said: Sequence[str], right: Sequence[str]) -> Any:
    """F1 of each of ROUGE, shape (rows, 3), in whole `scoring.UNIT`."""
    import numpy as np
    from torchmetrics.functional.text.rouge import rouge_score

    apart, out = words(recipe.data.language), np.zeros((len(said), len(ROUGE)), dtype=np.int64)
    for number, pair in enumerate(zip(said, right, strict=True)):
        found = rouge_score(*pair, rouge_keys=ROUGE, tokenizer=apart, normalizer=str)
        out[number] = [round(float(found[f"{name}_fmeasure"]) * scoring.UNIT) for name in ROUGE]
    return out


def tally(recipe: Recipe, rows: Any, answers: Any) -> Tally:
    """Of each row its F1 of three ROUGE, and what `scoring.tally` has of all answers."""
    right = rows["summary"].to_pylist()
    return scoring.tally(rouge(recipe, answers["answer"].to_pylist(), right), right, answers)


def faults(recipe: Recipe, rows: Any, answers: Any) -> dict[str, list[bool]]:
    """Of each kind of fault, which answers have it."""
    return scoring.faults(rows["text"].to_pylist(), answers, apart=recipe.data.language != "characters")


def own(recipe: Recipe, rows: Any, challenger: Any, champion: Any) -> Own:
    """Perplexity of the references, and the gates of what answers must not be."""
    found, right = faults(recipe, rows, challenger), rows["summary"].to_pylist()
    return Own(
        challenger={"perplexity": scoring.perplexity(challenger)},
        champion={"perplexity": None if champion is None else scoring.perplexity(champion)},
        gates=tuple(scoring.gates(recipe.gates, found, challenger, right)),
    )


def comparable(recipe: Recipe, other: Recipe) -> str | None:
    """Summaries can be compared however they were asked for."""
    return None
