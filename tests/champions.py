"""Champions for tests of deploy: a tiny random BERT in the store and the ledger, as the steps before would leave it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from components.deploy import export
from regraft import recipe as recipes
from regraft import sources, tasks
from regraft.causal.conversations import written
from regraft.digests import sha256
from regraft.encoders import Encoder
from regraft.ledger import Entry, Ledger
from regraft.parts import Recipe
from regraft.processor import computes_in_bf16
from regraft.step import result_of
from regraft.store import Store

RUN = "2026-11-24T00-00"
WORDS = "a an the good bad great awful film plot was is not very dull bright slow sharp story acting".split()  # noqa: SIM905
GOOD, BAD = ("good", "great", "bright", "sharp"), ("bad", "awful", "dull", "slow")
NEITHER = [word for word in WORDS if word not in GOOD + BAD]
BF16 = computes_in_bf16() and not os.environ.get("ONEDNN_MAX_CPU_ISA")
"""Whether OpenVINO serves in bf16 here. It refuses to where it is made to compute as a lesser processor does."""
TEXTS = [" ".join(WORDS[(7 * i + j * (i + 3)) % len(WORDS)] for j in range(3 + i % 9)) for i in range(40)]

RECIPE = """\
name: tiny
task: text-classification
data:
  source: nowhere
  columns: {{text: text, label: label}}
  labels: [negative, positive]
base_model: {{source: {base}}}
adapter: {{r: 4}}
training: {{max_length: 16}}
serving: {serving}
"""


def base(folder: Path) -> Path:
    """A BERT of 2 layers with random weights and its tokenizer, as `from_pretrained` reads it."""
    torch.manual_seed(0)
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=2,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def recipe_file(
    folder: Path, base_model: Path, serving: str = "{precision: fp32, parity: 0.001, latency_budget_ms: 2000}"
) -> Path:
    """The recipe of the tiny model."""
    file = folder / "recipe.yaml"
    file.write_text(RECIPE.format(base=base_model, serving=serving))
    return file


def promote(store: Store, recipe: Recipe, scratch: Path, version: int) -> Entry:
    """Makes version N champion: a trained model as of `trained`, then a ledger entry."""
    model, ledger = trained(store, recipe, scratch, version), Ledger(store)
    return ledger.append(
        ledger.head(), kind="promote", version=version, model=model, run=RUN, evaluation="e" * 64, reason="test"
    )


def hand_over(store: Store, recipe: Recipe, scratch: Path, version: int, **more: str) -> None:
    """Leaves version N for deploy to make the first champion, as promote does where there is none.

    Args:
        more: further metrics of promote.
    """
    model = trained(store, recipe, scratch, version)
    (scratch / "promote").mkdir(exist_ok=True)
    metrics = {"version": version, "champion": None, "reason": "test", **more}
    promoted = sha256(["promoted", version, *more])
    inputs = {"model": model, "evaluation": "e" * 64}
    publish(store, "promote", promoted, scratch / "promote", inputs=inputs, metrics=metrics)
    point(store, "promote", promoted)


def trained(store: Store, recipe: Recipe, scratch: Path, version: int) -> str:
    """Identity of version N's finetune: its own random adapter and head, published as finetune does."""
    scratch = scratch / f"promote-{version}"
    model = sha256(f"model {version}")
    if store.manifest(f"finetune/{model}") is None:
        adapted, tokenizer = tasks.of(recipe.task).for_training(recipe, scratch / "base")
        torch.manual_seed(version)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "classifier" in name or "lora" in name:
                    weight.normal_(std=0.5)
        out = scratch / "finetune"
        adapted.save_pretrained(out / "adapter", safe_serialization=True)
        tokenizer.save_pretrained(out / "tokenizer")
        pq.write_table(pa.table({"input": pa.array([], pa.string())}), out / "train_digests.parquet")
        base = sources.base_model_digest(recipe.base_model.source, recipe.base_model.revision)
        publish(store, "finetune", model, out, inputs={"base_model": base})
    holdout = sha256("holdout")
    if store.manifest(f"validate/{holdout}") is None:
        out = scratch / "validate"
        out.mkdir(parents=True)
        rows = {**_rows(recipe.task), "digest": [sha256(text) for text in TEXTS]}
        pq.write_table(pa.table(rows), out / "holdout.parquet")
        publish(store, "validate", holdout, out)
        point(store, "validate", holdout)
    return model


def _rows(task: str) -> dict[str, list[object]]:
    """Columns of a holdout of TEXTS."""
    if task == "chat":
        answer = written({"role": "assistant", "content": "good story"})
        return {"text": [written(conversation(text)) for text in TEXTS], "answer": [answer] * len(TEXTS)}
    return {"text": [*TEXTS], "label": [i % 2 for i in range(len(TEXTS))]}


def conversation(text: str) -> list[dict[str, str]]:
    """One in which a user has said something."""
    return [{"role": "user", "content": text}]


def publish(
    store: Store,
    step: str,
    identity: str,
    folder: Path,
    *,
    inputs: Mapping[str, str] | None = None,
    metrics: Mapping[str, object] | None = None,
) -> None:
    """A step's result in the store."""
    about = {
        "document": {"inputs": dict(inputs or {})},
        "metrics": dict(metrics or {}),
        "created_at": datetime.now(UTC),
    }
    store.publish(f"{step}/{identity}", folder, {"step": step, "identity": identity, **about})


def repository(folder: Path, recipe: Recipe, precision: str) -> Encoder:
    """Makes the folder `models`, from which Triton serves version 1, and returns the model that is in it."""
    store = Store(str(folder / "store"), recipe.name)
    entry = promote(store, recipe, folder, 1)
    files = store.fetch(f"finetune/{entry.model}", result_of(store, "finetune", entry.model), folder / "model")
    classifier: Encoder = tasks.of(recipe.task).load(recipe, files, folder / "scratch")
    served = folder / "models" / recipe.name
    export.build(recipe, entry, classifier, served / "1", precision=precision, settings="test")
    (served / "config.pbtxt").write_text(export.config(recipe, [1]))
    return classifier


def point(store: Store, step: str, identity: str) -> None:
    """The run's pointer to a step's result."""
    pointer = {"step": step, "run": RUN, "state": "done", "identity": identity}
    store.replace(f"runs/{RUN}/{step}.json", json.dumps(pointer).encode())


def load_recipe(file: Path) -> Recipe:
    return recipes.load(file)
