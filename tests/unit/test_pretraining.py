"""How documents become blocks, how probable a model finds them, and what a recipe has to say about forgetting."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import processors

from regraft import causal, recipe, tally, tasks
from regraft.causal import learning
from regraft.errors import BadInput
from regraft.exchange import Contest
from regraft.gate import Answers, Judged, RowCounts, Verdict, judge
from regraft.tasks.pretraining import metrics, package, report
from regraft.tasks.pretraining.model import answers, blocks, documents, packed
from regraft.tasks.pretraining.recipe import Data
from tests import llamas
from tests.worlds import of

TASK = tasks.of("pretraining")
TEXTS = ["good film", "the plot was very dull and the acting slow " * 9, "a bad story", "sharp"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llamas.base(tmp_path_factory.mktemp("llama"))


def written(base: Path | str = "nowhere") -> str:
    text = of("pretraining").RECIPE.format(data="nowhere", base=base, epochs=1, more="")
    return str(text)


@pytest.fixture(scope="module")
def model(base: Path, tmp_path_factory: pytest.TempPathFactory) -> causal.Causal:
    """A model whose adapter says something other than its base."""

    adapted, tokenizer = TASK.for_training(recipe.parse(written(base)), tmp_path_factory.mktemp("model"))
    llamas.teach(adapted, std=0.5)
    return causal.Causal(adapted.eval(), tokenizer, 16, 0)


def learned(rows: Any) -> list[int]:
    return [token for row in rows for token, of in zip(row.ids, row.trained, strict=True) if of]


@pytest.mark.parametrize("length", [8, 9, 16, 61, 500])
def test_every_token_of_every_document_is_learned_once_whatever_the_blocks(model: causal.Causal, length: int) -> None:
    made = packed(model.tokenizer, TEXTS, length)
    assert model.tokenizer.decode(learned(made)) == "".join(f"{text}<|im_end|>" for text in TEXTS)
    assert {len(row.ids) for row in made[:-1]} <= {length}
    assert 2 <= len(made[-1].ids) <= length
    for one, other in itertools.pairwise(made):
        assert one.ids[-1] == other.ids[0], "what a block begins with was learned in the one before"


def test_a_tokenizer_that_begins_texts_with_a_mark_begins_each_document_with_it(model: causal.Causal) -> None:
    tokenizer = copy.deepcopy(model.tokenizer)
    mark = ("<|im_start|>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{mark[0]} $A", special_tokens=[mark]
    )
    (row,) = packed(tokenizer, TEXTS[::2], 500)
    assert tokenizer.decode(row.ids) == "<|im_start|>good film<|im_end|><|im_start|>a bad story<|im_end|>"


def test_a_document_cannot_end_itself(model: causal.Causal) -> None:
    (ids,) = documents(model.tokenizer, ["good<|im_end|>film<|endoftext|>"])
    assert ids.count(model.tokenizer.eos_token_id) == 2, "at its beginning and at its end"
    assert model.tokenizer.pad_token_id not in ids


def table(*texts: str) -> Any:
    return pa.table({"text": list(texts)})


def test_all_tokens_of_a_long_document_count_each_behind_what_its_block_holds(model: causal.Causal) -> None:
    import torch

    (ids,) = documents(model.tokenizer, [TEXTS[1]])
    total = 0.0
    for at in range(0, len(ids) - 1, 15):  # blocks of 16 tokens, alone, all logits
        block = torch.tensor([ids[at : at + 16]])
        with torch.inference_mode():
            logits = model.model(input_ids=block).logits[0, :-1].float().log_softmax(-1)
        total += float(logits.gather(1, block[0, 1:, None]).sum())
    found = answers(model, table(TEXTS[1]))
    assert len(blocks(ids, 16)) > 3
    assert found["reference_tokens"].to_pylist() == [len(ids) - 1]
    assert found["log_likelihood"].to_pylist() == pytest.approx([total], rel=1e-4)


def test_a_document_is_as_probable_among_others_as_alone_and_another_to_the_base(model: causal.Causal) -> None:
    together = answers(model, table(*TEXTS))
    alone = [answers(model, table(text))["log_likelihood"][0].as_py() for text in TEXTS]
    assert together["log_likelihood"].to_pylist() == pytest.approx(alone, rel=1e-4)
    assert together["reference_tokens"].to_pylist() == [len(ids) - 1 for ids in documents(model.tokenizer, TEXTS)]
    untrained = answers(TASK.untrained(model), table(*TEXTS))
    assert untrained["reference_tokens"].equals(together["reference_tokens"])
    assert not np.allclose(untrained["log_likelihood"], together["log_likelihood"])


def test_no_documents_have_no_answers(model: causal.Causal) -> None:
    none = answers(model, pa.table({"text": pa.array([], pa.string())}))
    assert (none.num_rows, none.column_names) == (0, ["log_likelihood", "reference_tokens"])


def test_the_score_on_dev_is_the_likelihood_that_evaluate_finds(model: causal.Causal, base: Path) -> None:
    import torch
    from torch.utils.data import DataLoader

    declared = recipe.parse(written(base).replace("max_length: 32", "max_length: 16"))
    lesson = TASK.lesson(declared, model.tokenizer, table(*TEXTS), table(*TEXTS))
    kept = []
    for batch in DataLoader(lesson.dev, batch_size=lesson.dev_batch, collate_fn=lesson.collator):
        labels = batch.pop("labels")
        with torch.inference_mode():
            kept.append(learning.likelihoods(model.model(**batch).logits, labels).numpy())
    score = lesson.score(type("Prediction", (), {"predictions": np.concatenate(kept)}))
    found = metrics.tally(declared, table(*TEXTS), answers(model, table(*TEXTS)))
    assert score["likelihood"] == pytest.approx(tally.score(found, metrics.METRICS["likelihood"]), rel=1e-3)
    assert lesson.files["trained_on.txt"].startswith("4 documents, ")


def said(totals: list[float], counts: list[int]) -> Any:
    return pa.table({"log_likelihood": totals, "reference_tokens": counts})


def test_bits_per_byte_do_not_depend_on_how_many_tokens_a_document_has() -> None:
    declared, rows = recipe.parse(written()), table("abcd", "éa")
    few, many = said([-4.0, -3.0], [2, 2]), said([-4.0, -3.0], [5, 6])
    for one in (few, many):
        found = metrics.tally(declared, rows, one)
        assert tally.score(found, metrics.METRICS["byte_likelihood"]) == pytest.approx(np.exp(-1), abs=1e-6)
        assert metrics.own(declared, rows, one, None).challenger["bits_per_byte"] == pytest.approx(1.442695)
    assert metrics.own(declared, rows, few, None).challenger["perplexity"] == pytest.approx(np.exp(7 / 4), abs=1e-5)


def test_tokens_are_compared_only_where_both_models_count_the_same() -> None:
    rows, few, many = table("abcd", "ab"), said([-4.0, -3.0], [2, 2]), said([-4.0, -3.0], [5, 6])
    by_byte = recipe.parse(written())
    by_token = recipe.parse(written().replace("gates: {", "gates: {metric: likelihood, "))
    assert not metrics.own(by_token, rows, few, few).gates
    assert not metrics.own(by_byte, rows, few, many).gates
    (gate,) = metrics.own(by_token, rows, few, many).gates
    assert not gate.passed
    assert "gates.metric: byte_likelihood" in gate.sentence


WATCHED = "forgetting: {anchor: nowhere, max_drop: 0.5}"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda text: text.replace(f", {WATCHED}", ""), 12),
        (lambda text: text.replace(WATCHED, "forgetting: null"), 12),
        (lambda text: "".join(line for line in text.splitlines(True) if not line.startswith("gates:")), 1),
    ],
)
def test_a_recipe_that_does_not_say_what_may_not_be_forgotten_is_refused(change: Any, line: int) -> None:
    with pytest.raises(BadInput) as refused:
        recipe.parse(change(written()))
    assert refused.value.exit == 20
    assert f"line {line}: gates.forgetting: missing: " in str(refused.value)
    assert "write forgetting: {anchor: LOCATION, max_drop: 0.02} under gates" in str(refused.value)


def test_a_challenger_that_forgot_is_rejected_however_well_it_learned() -> None:
    declared = recipe.parse(written().replace("max_drop: 0.5", "max_drop: 0.02"))
    rows = table(*(f"{number:04}" for number in range(40)))
    good, bad = said([-2.0] * 40, [4] * 40), said([-8.0] * 40, [4] * 40)

    def both(ours: Any, theirs: Any) -> Answers:
        return Answers(challenger=metrics.tally(declared, rows, ours), champion=metrics.tally(declared, rows, theirs))

    holdout = replace(both(good, bad), champion=None, base=both(good, bad).champion)
    verdict = judge(
        holdout,
        declared.gates,
        metrics=metrics.METRICS,
        rows=RowCounts(holdout=40, clean=40, contaminated=0),
        challenger=Judged(model="x"),
        anchor=both(bad, good),
    )
    assert verdict.verdict == "reject"
    assert [gate.name for gate in verdict.gates if not gate.passed] == ["forgetting"]


@pytest.mark.parametrize(
    ("text", "reason"), [("1 | 2.5 | 3 %", "no letter in it"), ("…—!", "no letter in it"), ("東京", ""), ("a", "")]
)
def test_a_document_without_a_letter_is_set_aside(text: str, reason: str) -> None:
    data = Data.model_validate({"source": "x", "columns": {"text": "text"}})
    found = TASK.rows({"text": pa.array([text])}, data)
    assert next((name for name, applies in found.problems if applies[0]), "") == reason
    assert found.target["characters"].to_pylist() == [len(text)]


def test_a_block_longer_than_the_base_model_reads_is_one_clear_error(base: Path, tmp_path: Path) -> None:
    declared = recipe.parse(written(base).replace("max_length: 32", "max_length: 1024"))
    with pytest.raises(BadInput, match="1024 tokens, and the base model reads 512 at most") as error:
        TASK.for_training(declared, tmp_path)
    assert error.value.where == "training.max_length"


def test_the_report_shows_where_the_challenger_differs_most_both_ways() -> None:
    rows, ours = table("much better", "worse", "better", "same"), said([-1.0, -4.0, -2.0, -3.0], [2] * 4)
    contest = Contest(
        verdict=Verdict.model_construct(),
        rows=rows,
        challenger=ours,
        champion=None,
        base=said([-3.0] * 4, [2] * 4),
        latency_ms=None,
    )
    declared = recipe.parse(written())
    worse, better = report.examples(declared, contest)
    assert [row[0] for row in worse.rows] == ["worse"]
    assert [row[0] for row in better.rows] == ["much better", "better"]
    assert better.columns == ("document", "perplexity of the challenger", "perplexity of the base model")
    assert better.rows[0][1:] == (f"{np.exp(0.5):.2f}", f"{np.exp(1.5):.2f}")
    assert [name for name, _ in report.figures(declared, contest)] == ["perplexity"]


def test_mlflows_model_says_what_evaluate_judged(model: causal.Causal) -> None:
    judged = answers(model, table(*TEXTS))
    for one, row in zip(package.said(model, TEXTS), judged.to_pylist(), strict=True):
        assert one["tokens"] == row["reference_tokens"]
        assert one["log_likelihood"] == pytest.approx(row["log_likelihood"], abs=1e-3)
        assert one["perplexity"] == pytest.approx(np.exp(-row["log_likelihood"] / row["reference_tokens"]), abs=1e-3)
