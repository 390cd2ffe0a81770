"""Challenger against champion on one holdout: fetches both, scores them, leaves out what one of them has seen, judges.

evaluate asks for it in every run; promote once more when the champion changed after the verdict.
"""

from __future__ import annotations

import statistics
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from regraft import gate, pipeline, reading, sources, tasks
from regraft.errors import AlreadyExists, BadInput, NotFound
from regraft.ledger import Entry
from regraft.parts import Columns, Data, Training
from regraft.recipe import Recipe
from regraft.step import Context, recipe_of, result_of
from regraft.store import Manifest, sha256


@dataclass
class Contestant:
    """A finetune's model: loaded only when an answer is not in the store yet."""

    context: Context
    recipe: Recipe
    manifest: Manifest

    @cached_property
    def classifier(self) -> Any:
        import torch

        files = self.context.fetch(self.manifest, "adapter", "tokenizer")
        base = self.recipe.base_model
        if sources.base_model_digest(base.source, base.revision) != self.manifest.inputs["base_model"]:
            raise BadInput(
                f"its files changed: it is not the base model that model {self.manifest.identity[:12]} was trained on",
                where=base.source,
                state="the champion stays",
                next="bring back those files, for instance by installing the version of the package that had them",
            )
        folder = self.context.scratch / f"base-{self.manifest.identity[:12]}"
        classifier = tasks.of(self.recipe.task).load(self.recipe, files, folder)
        if pipeline.resources(self.context.recipe, self.context.step).gpu and torch.cuda.is_available():
            classifier.model.to("cuda")
        return classifier

    def probabilities(self, texts: list[str], digest: str) -> Any:
        """Answers of shape (texts, labels), kept in the store by model and digest of the texts."""
        import io

        import pyarrow as pa
        import pyarrow.parquet as pq

        key = f"scores/{self.manifest.identity}-{digest}.parquet"
        store = self.context.store
        try:
            table = pq.read_table(io.BytesIO(store.read(key)))
        except NotFound:
            answers = tasks.of(self.recipe.task).probabilities(self.classifier, texts)
            table = pa.table({f"p{i}": answers[:, i] for i in range(answers.shape[1])})
            file = io.BytesIO()
            pq.write_table(table, file)
            with suppress(AlreadyExists):  # a twin of this run had the same answers
                store.create(key, file.getvalue())
        return _matrix(table)

    def trained_on(self) -> set[str]:
        """Digests of the rows that it was trained on."""
        import pyarrow.parquet as pq

        files = self.context.fetch(self.manifest, "train_digests.parquet")
        return set(pq.read_table(files / "train_digests.parquet")["digest"].to_pylist())

    def latency_ms(self, texts: list[str]) -> float:
        """Median milliseconds of one text at a time, after a first one that does not count."""
        task = tasks.of(self.recipe.task)
        times = []
        for text in texts[:31]:
            started = time.perf_counter()
            task.probabilities(self.classifier, [text])
            times.append((time.perf_counter() - started) * 1000)
        return statistics.median(times[1:] or times)


@dataclass(frozen=True, kw_only=True)
class Contest:
    """A verdict and what it was made from, row by row (clean rows only)."""

    verdict: gate.Verdict
    answers: gate.Answers
    texts: list[str]
    digests: list[str]
    latency_ms: float | None


def decide(
    context: Context, *, model: Manifest, opponent: Entry | None, data: Manifest, measure_latency: bool = False
) -> Contest:
    """The verdict on a challenger against the champion that `opponent` names.

    Args:
        model: the challenger's finetune.
        opponent: the ledger's entry of the champion; None when there is none.
        data: the validate result whose holdout both are scored on.
        measure_latency: whether to load the challenger and measure it; its gate is left out otherwise.

    Raises:
        BadInput: the champion knows other labels, so the two cannot be compared; or a base model has changed.
    """
    import numpy as np
    import pyarrow.parquet as pq

    holdout = pq.read_table(context.fetch(data, "holdout.parquet") / "holdout.parquet")
    digest = data.outputs["holdout.parquet"].sha256
    texts = holdout["text"].to_pylist()
    challenger = Contestant(context, context.recipe, model)
    champion = _champion(context, opponent) if opponent else None

    context.progress(0.1, "scoring the challenger")
    ours = challenger.probabilities(texts, digest)
    seen = challenger.trained_on()
    theirs = None
    if champion:
        context.progress(0.4, "scoring the champion")
        theirs = champion.probabilities(texts, digest)
        seen |= champion.trained_on()
    row_digests = holdout["digest"].to_pylist()
    clean = np.array([row not in seen for row in row_digests], dtype=bool)
    latency = challenger.latency_ms(texts) if measure_latency and texts else None
    context.progress(0.8, "judging")
    answers = gate.Answers(
        labels=holdout["label"].to_numpy().astype(np.int64)[clean],
        challenger=ours[clean],
        champion=theirs[clean] if theirs is not None else None,
        slices={
            f"{name.removeprefix('slice.')}={value}": (holdout[name].to_numpy() == value)[clean]
            for name in holdout.column_names
            if name.startswith("slice.")
            for value in holdout[name].unique().to_pylist()
        },
    )
    verdict = gate.judge(
        answers,
        context.recipe.gates,
        rows=gate.Rows(holdout=len(texts), clean=int(clean.sum()), contaminated=int((~clean).sum())),
        challenger=model.identity,
        champion=opponent.model if opponent else None,
        version=opponent.version if opponent else None,
        anchor=_anchor(context.recipe, challenger, champion),
        latency_ms=latency,
    )
    kept = np.flatnonzero(clean)
    return Contest(
        verdict=verdict,
        answers=answers,
        texts=[texts[i] for i in kept],
        digests=[row_digests[i] for i in kept],
        latency_ms=latency,
    )


def _champion(context: Context, entry: Entry) -> Contestant:
    """The champion as it was trained: base model and length may have changed since.

    The run's recipe says where the base model is. Since a rerun with another recipe overwrites that file, all that
    the model was trained with comes from its manifest.
    """
    manifest = result_of(context.store, "finetune", entry.model)
    trained = manifest.document["recipe"]
    labels = tuple(trained["data.labels"])
    if labels != context.recipe.data.labels:
        raise BadInput(
            f"the champion, version {entry.version}, knows the labels {list(labels)}, not "
            f"{list(context.recipe.data.labels)}: the two cannot be compared",
            where="data.labels",
            state="the champion stays",
            next="give the recipe another name: with other labels it is another model",
        )
    declared = recipe_of(context.store, entry.run)
    as_trained = {
        "data": declared.data.model_copy(update={"labels": labels}),
        "training": Training.model_validate(trained["training"]),
    }
    return Contestant(context, declared.model_copy(update=as_trained), manifest)


def anchor(declared: Recipe) -> Data | None:
    """The fixed anchor set as a source of rows, with columns and labels of data.source; None without one."""
    if declared.gates.forgetting is None:
        return None
    columns = Columns(text=declared.data.columns.text, label=declared.data.columns.label)
    return Data(
        source=declared.gates.forgetting.anchor,
        columns=columns,
        labels=declared.data.labels,
        quoting=declared.data.quoting,
    )


def _anchor(declared: Recipe, challenger: Contestant, champion: Contestant | None) -> gate.Answers | None:
    """What both say of the fixed anchor set; None without one, or without a champion."""
    import numpy as np

    source = anchor(declared)
    if source is None or champion is None:
        return None
    texts, labels = _read_anchor(source)
    digest = sha256(texts)  # not of the file: another column of it may be the text tomorrow
    return gate.Answers(
        labels=np.array(labels, dtype=np.int64),
        challenger=challenger.probabilities(texts, digest),
        champion=champion.probabilities(texts, digest),
    )


def _read_anchor(source: Data) -> tuple[list[str], list[int]]:
    """Texts and label indices of an anchor set. A row that validate would set aside is an error: the set is fixed.

    Raises:
        BadInput: a row has no text or no known label, or cannot be read.
    """
    texts: list[str] = []
    labels: list[int] = []
    files = reading.files(source)
    for table, _ in reading.batches(source, files):
        for row in table.select(["text", "label", "malformed", "file", "row"]).to_pylist():
            place = f"row {row['row']} of {sources.written(Path(files[row['file'] - 1][1]).name)}"
            label = (row["label"] or "").strip()
            try:
                text = (row["text"] or b"").decode()
            except UnicodeDecodeError:
                text, row["malformed"] = "", f"{place} is not UTF-8"
            problem = row["malformed"] or (f"{place} has no text" if not text.strip() else "")
            if not problem and label not in source.labels:
                named = f"the label {label[:50]!r}, which is not in data.labels" if label else "no label"
                problem = f"{place} has {named}"
            if problem:
                raise BadInput(
                    f"cannot be used as an anchor set: {problem}",
                    where=source.source,
                    next="mend that row, or gates.forgetting.anchor in the recipe",
                )
            texts.append(text)
            labels.append(source.labels.index(label))
    return texts, labels


def _matrix(table: Any) -> Any:
    import numpy as np

    return np.column_stack([table[name].to_numpy() for name in table.column_names]).astype(np.float64)
