"""Models of entities: what is trained is what is loaded, packed for MLflow and asked, whatever the tokenizer."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, pipeline

from regraft import tasks
from regraft.encoders import Encoder
from regraft.errors import BadInput
from regraft.tasks.token_classification import program
from regraft.tasks.token_classification.lesson import tagged
from regraft.tasks.token_classification.recipe import Recipe, tags
from regraft.tasks.token_classification.rows import canonical, spans
from tests.worlds import token_classification as world

TASK = tasks.of("token-classification")


@pytest.fixture
def recipe(tiny_base: Path) -> Recipe:
    text = world.RECIPE.format(data="nowhere", base=tiny_base, epochs=1, more="")
    return Recipe.model_validate(yaml.safe_load(text))


def frozen(recipe: Recipe, count: int) -> Any:
    """Rows as validate freezes them."""
    made = world.rows(count)
    table = {"text": pa.array([row["text"] for row in made])}
    found = TASK.rows({**table, "entities": pa.array([json.dumps(row["entities"]) for row in made])}, recipe.data)
    assert not any(applies.any() for _, applies in found.problems)
    return pa.table({"text": found.text, **found.target})


def trained(recipe: Recipe, folder: Path, *, padding: str = "right") -> tuple[Any, Encoder]:
    """A model with weights that matter, as training would give it, and what is loaded of it."""
    model, tokenizer = TASK.for_training(recipe, folder / "base")
    tokenizer.padding_side = padding
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.1)
    model.save_pretrained(folder / "model/adapter")
    tokenizer.save_pretrained(folder / "model/tokenizer")
    return model.eval(), TASK.load(recipe, folder / "model", folder / "base")


@pytest.mark.parametrize("padding", ["right", "left"])
def test_a_loaded_model_answers_as_the_trained_one(recipe: Recipe, padding: str, tmp_path: Path) -> None:
    model, loaded = trained(recipe, tmp_path, padding=padding)
    rows = frozen(recipe, 40)
    said = TASK.answers(loaded, rows)
    for text, tokens in zip(rows["text"].to_pylist(), said["tokens"].to_pylist(), strict=True):
        encoded = loaded.tokenizer(text, truncation=True, max_length=16, return_tensors="pt")
        with torch.inference_mode():
            logits = model(input_ids=encoded["input_ids"]).logits[0].numpy()[1:-1]
        expected = program.tokens(tags(recipe), [(one["start"], one["end"]) for one in tokens], logits)
        assert [one["tag"] for one in tokens] == [tag for _, _, tag, _, _ in expected]
        np.testing.assert_allclose([one["probability"] for one in tokens], [each[3] for each in expected], atol=1e-4)


def test_answers_are_those_of_transformers_own_pipeline(recipe: Recipe, tmp_path: Path) -> None:
    _, loaded = trained(recipe, tmp_path)
    rows = frozen(recipe, 40)
    reader = pipeline("token-classification", model=loaded.model, tokenizer=loaded.tokenizer)
    found = 0
    said = TASK.answers(loaded, rows)["entities"].to_pylist()
    for text, entities in zip(rows["text"].to_pylist(), said, strict=True):
        theirs = reader(text, aggregation_strategy="simple")
        assert spans(entities) == [(one["start"], one["end"], one["entity_group"]) for one in theirs]
        scores = [one["score"] for one in json.loads(entities)]
        np.testing.assert_allclose(scores, [one["score"] for one in theirs], atol=1e-4)
        found += len(theirs)
    assert found > 40, "hardly an entity was found, so this test shows nothing"


def test_a_lesson_tags_tokens_and_counts_what_is_cut_off_as_missed(recipe: Recipe, tiny_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    long = "the " * 20 + "bad plot"
    dev = pa.table(
        {
            "text": ["a good story", long],
            "entities": [canonical([(2, 12, "PRAISE")]), canonical([(80, 88, "BLAME")])],
        }
    )
    lesson = TASK.lesson(recipe, tokenizer, frozen(recipe, 3), dev)
    assert lesson.dev[0]["labels"] == [-100, 0, 1, 2, -100]
    assert tags(recipe)[1:3] == ["B-PRAISE", "I-PRAISE"]
    batch = lesson.collator([lesson.dev[0], lesson.dev[1]])
    assert batch["labels"].shape == batch["input_ids"].shape == (2, 16)
    label_ids = batch["labels"].numpy()
    logits = np.eye(5)[np.maximum(label_ids, 0)]
    score = lesson.score(SimpleNamespace(predictions=logits, label_ids=label_ids))
    assert score == pytest.approx({"precision": 1, "recall": 0.5, "span_f1": 2 / 3, "span_f1_macro": 0.5}, abs=1e-6)


def test_what_is_trained_on_may_come_several_times(recipe: Recipe, tiny_base: Path) -> None:
    lesson = TASK.lesson(recipe, AutoTokenizer.from_pretrained(tiny_base), frozen(recipe, 3), frozen(recipe, 2))
    train = lesson.train([2, 2, 0])
    lesson.collator([train[0], train[1]])  # takes labels out of what it is given
    assert train[0] == train[1]
    assert len(train[2]["input_ids"]) == lesson.lengths[0]


def test_a_tokenizer_without_places_is_refused(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SimpleNamespace(is_fast=False)
    monkeypatch.setattr("regraft.encoders.for_training", lambda *_, **__: (None, slow))
    with pytest.raises(BadInput, match="cannot say where in a text its tokens are"):
        TASK.for_training(recipe, tmp_path)


def byte_level() -> Tokenizer:
    """As GPT-2's: white space belongs to the word that follows, and a character may be several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(["ada met acme"] * 3, trainers.BpeTrainer(initial_alphabet=alphabet, vocab_size=270))
    return tokenizer


def sentence_pieces() -> Tokenizer:
    """As T5's: white space is a character of its own, and letters are brought into one form."""
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), *((letter, -3.0) for letter in "▁adametcmbofi1é")], 0, False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


@pytest.mark.parametrize("make", [byte_level, sentence_pieces])
@pytest.mark.parametrize(
    "words", [["ada", "met", "acme"], ["🜁🜂", "é", "ﬁdo"], ["ada", "①", "é🜁"], ["日本", "acme", "🜁"]]
)
def test_entities_of_words_survive_any_tokenizer(make: Any, words: list[str]) -> None:
    text, at, found = "  ".join(words) + " \n", 0, []
    for word, label in zip(words, ("PER", "", "ORG"), strict=True):
        start = text.index(word, at)
        at = start + len(word)
        found += [(start, at, label)] if label else []
    encoding = make().encode(text)
    parts = [(start, end) for _, start, end in program.extents(text, encoding.offsets, encoding.special_tokens_mask)]
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(parts))
    named = [(*part, tag, 1.0, 1.0) for part, tag in zip(parts, tagged(parts, found), strict=True)]
    assert spans(json.dumps(program.entities(named))) == found


@pytest.mark.slow
def test_what_mlflow_loads_back_is_proven(
    recipe: Recipe, mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    _, loaded = trained(recipe, tmp_path)
    rows = frozen(recipe, 8)
    rows = pa.concat_tables([rows, pa.table({"text": ["the " * 30 + "bad"], "entities": ["[]"]})])
    log, proof = TASK.logged(recipe, loaded, rows)
    with mlflow.start_run():
        uri = log(name="tiny", pip_requirements=["mlflow"], tags={}).model_uri
    assert proof(uri) is None
    with torch.no_grad():
        loaded.model.classifier.bias[0] += 5
    _, other = TASK.logged(recipe, loaded, rows)
    assert "other logits" in (other(uri) or "")


def test_no_rows_have_no_answers(recipe: Recipe, tmp_path: Path) -> None:
    _, loaded = trained(recipe, tmp_path)
    none = TASK.answers(loaded, frozen(recipe, 1).slice(0, 0))
    assert (none.num_rows, none.column_names) == (0, ["entities", "tokens"])
