"""Challenger against champion on one holdout: fetches both, scores them, leaves out what one of them has seen, judges.

evaluate asks for it in every run; promote once more when the champion changed after the verdict.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from regraft import base_model, bases, gate, pipeline, reading, settings, snapshot, sources, tasks
from regraft.digests import sha256
from regraft.errors import BadInput
from regraft.exchange import Contest, Examples
from regraft.ledger import Entry
from regraft.manifest import Manifest
from regraft.memo import Memo
from regraft.parts import Recipe
from regraft.step import Context, bound
from regraft.store import Store

LATENCY_SECONDS = 30


def kept_answers(store: Store, task: str) -> Memo:
    """What models answered to the rows they were judged on, as Parquet."""
    return Memo(store=store, kind="scores", code="regraft.contest", task=task)


@dataclass
class Finetuned:
    """A finetune's model: loaded only when an answer is not in the store yet."""

    context: Context
    recipe: Recipe
    manifest: Manifest

    @cached_property
    def model(self) -> Any:
        import torch

        files = self.context.fetch(self.manifest, "adapter", "tokenizer", base_model.RECORD)
        folder = self.context.scratch / f"base-{self.manifest.identity[:12]}"
        bases.as_trained(self.context.store, self.recipe, folder, files, self.manifest)
        loaded = tasks.of(self.recipe.task).load(self.recipe, files, folder)
        if pipeline.resources(self.context.recipe, self.context.step).gpu and torch.cuda.is_available():
            loaded.model.to("cuda")
        return loaded

    def answers(self, asked: Any, digest: str, *, trained: bool = True) -> Any:
        """Answers to rows, a table, kept in the store by model and digest of the rows.

        Args:
            trained: False asks the base model as it was.
        """
        import pyarrow.parquet as pq

        def answered() -> bytes:
            task, file = tasks.of(self.recipe.task), io.BytesIO()
            model = self.model if trained else task.untrained(self.model)
            pq.write_table(task.answers(model, asked), file)
            return file.getvalue()

        def read(kept: bytes) -> Any:
            answers = pq.read_table(io.BytesIO(kept))
            if len(answers) != len(asked):
                raise ValueError(f"{len(asked)} rows have {len(answers)} answers")
            return answers

        memo = kept_answers(self.context.store, self.recipe.task)
        made_from = {"texts": digest, "model" if trained else "base model of": self.manifest.digest}
        return memo.get(self.manifest.identity, made_from, answered, read)

    def seen(self, holdout: Any) -> Any:
        """Which rows have an input that it was trained on, or a champion below it was; shape (rows,), bool."""
        import numpy as np
        import pyarrow.parquet as pq

        seen, name = np.zeros(holdout.num_rows, dtype=bool), "train_digests.parquet"
        for store, each in bases.lineage(self.context.store, self.manifest):
            folder = self.context.scratch / "finetune" / each.identity[:16]
            files = store.fetch(f"finetune/{each.identity}", each, folder, only=(name,))
            seen |= tasks.seen(self.recipe.task, holdout, pq.read_table(files / name), each.document)
        return seen

    def latency_ms(self, asked: Any) -> float:
        """Median milliseconds of one row at a time, after a first one that does not count: of 30, or as many as fit
        into LATENCY_SECONDS."""
        task = tasks.of(self.recipe.task)
        times: list[float] = []
        for number in range(min(31, asked.num_rows)):
            row = asked.slice(number, 1)
            started = time.perf_counter()
            task.answers(self.model, row)
            times.append((time.perf_counter() - started) * 1000)
            if len(times) > 1 and sum(times) > LATENCY_SECONDS * 1000:
                break
        return statistics.median(times[1:] or times)


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
    task, recipe = tasks.of(context.recipe.task), context.recipe
    challenger = Finetuned(context, recipe, model)
    champion = _champion(context, opponent, model) if opponent else None

    context.progress(0.1, "scoring the challenger")
    ours = challenger.answers(holdout, digest)
    trained_on = challenger.seen(holdout)
    theirs, base = None, None
    if champion:
        context.progress(0.4, "scoring the champion")
        theirs = champion.answers(holdout, digest)
        trained_on |= champion.seen(holdout)
    elif hasattr(task, "untrained"):
        context.progress(0.4, "scoring the base model")
        base = challenger.answers(holdout, digest, trained=False)
    latency = challenger.latency_ms(holdout) if measure_latency and holdout.num_rows else None
    context.progress(0.8, "judging")
    clean, ours = holdout.filter(~trained_on), ours.filter(~trained_on)
    theirs, base = (None if side is None else side.filter(~trained_on) for side in (theirs, base))
    answers = gate.Answers(
        challenger=task.tally(recipe, clean, ours),
        champion=None if theirs is None else task.tally(recipe, clean, theirs),
        base=None if base is None else task.tally(recipe, clean, base),
        broken=task.broken(ours),
        slices={
            f"{name.removeprefix('slice.')}={value}": np.asarray(clean[name].to_numpy() == value)
            for name in holdout.column_names
            if name.startswith("slice.")
            for value in holdout[name].unique().to_pylist()
        },
    )
    own = task.own(recipe, clean, ours, theirs)
    gates, shown = _probed(recipe, challenger, champion)
    other = {"base model": base} if theirs is None else {"champion": theirs}
    gates_of_judge, worse = _judged(context.store, recipe, clean, {"challenger": ours, **other})
    verdict = gate.judge(
        answers,
        recipe.gates,
        metrics=task.METRICS,
        rows=gate.RowCounts(holdout=holdout.num_rows, clean=clean.num_rows, contaminated=int(trained_on.sum())),
        challenger=gate.Judged(model=model.identity, digest=model.digest),
        champion=gate.Judged(model=opponent.model, digest=champion.manifest.digest, version=opponent.version)
        if opponent and champion
        else None,
        anchor=_anchor(recipe, challenger, champion),
        latency_ms=latency,
        own=replace(own, gates=(*own.gates, *gates, *gates_of_judge)),
    )
    return Contest(
        verdict=verdict,
        rows=clean,
        challenger=ours,
        champion=theirs,
        base=base,
        latency_ms=latency,
        probed=(*shown, *worse),
    )


def _champion(context: Context, entry: Entry, challenger: Manifest) -> Finetuned:
    """The champion as it was trained: base model and length may have changed since.

    Where it has the challenger's base model, that is where the challenger's recipe says: it may have moved.
    """
    manifest = bound(context.store, entry)
    declared = snapshot.of_model(context.store, entry.model, entry.run)
    if why := tasks.of(context.recipe.task).comparable(context.recipe, declared):
        raise BadInput(
            f"the champion, version {entry.version}, {why}: the two cannot be compared",
            where="data",
            state="the champion stays",
            next="give the recipe another name: it is another model",
        )
    if manifest.inputs.get("base_model") == challenger.inputs.get("base_model"):
        declared = declared.model_copy(update={"base_model": context.recipe.base_model})
    return Finetuned(context, declared, manifest)


def probes(declared: Recipe) -> Mapping[str, reading.Source]:
    """The sets of prompts that models are asked beside the holdout, by name; none where the task has no such."""
    task = tasks.of(declared.task)
    return task.probes(declared) if hasattr(task, "probes") else {}


def _probed(
    declared: Recipe, challenger: Finetuned, champion: Finetuned | None
) -> tuple[list[gate.Gate], list[Examples]]:
    """The gates of all probes, against the champion and against the base model; and answers that hold no longer."""
    task, gates, lost = tasks.of(declared.task), list[gate.Gate](), list[Examples]()
    for name, source in probes(declared).items():
        prompts = [prompt for table in _whole(source) for prompt in table["prompt"].to_pylist()]
        asked = task.prompted(declared, name, prompts)
        digest = sha256(asked["text"].to_pylist())
        others = {"champion": champion.answers(asked, digest)} if champion else {}
        others["base model"] = challenger.answers(asked, digest, trained=False)
        found, no_longer = task.probed(declared, name, prompts, challenger.answers(asked, digest), others)
        gates += found
        lost.append(no_longer)
    return gates, lost


def compared(declared: Recipe) -> reading.Source | None:
    """The pairs of answers that people compared, where the recipe has a judge; None where it has none."""
    task = tasks.of(declared.task)
    return task.compared(declared) if hasattr(task, "compared") else None


def judge_is_off() -> str | None:
    """Why no judge is asked; None where one is. Raises BadInput where its address is none."""
    return None if settings.judge() else f"off: {settings.JUDGE} is not set, so no judge compared answers"


def _judged(
    store: Store, declared: Recipe, rows: Any, sides: Mapping[str, Any]
) -> tuple[list[gate.Gate], list[Examples]]:
    """The gate of the recipe's judge, and answers of the challenger that it finds worse."""
    import pyarrow as pa

    source = compared(declared)
    if source is None or not rows.num_rows:
        return [], []
    if why := judge_is_off():
        return [gate.Gate(name="judge (off)", passed=True, sentence=why)], []
    # what it replied depends on no library of ours, and it may cost money to ask
    code = tasks.of(declared.task).compared.__module__
    memo = Memo(store=store, kind="judged", code=code, task=declared.task, libraries=())
    people, keep = pa.concat_tables(_whole(source)), partial(memo.get, "pair")
    gates, worse = tasks.of(declared.task).judged(declared, rows, sides, people, keep)
    return gates, worse


def _whole(source: reading.Source) -> Iterator[Any]:
    """The tables of a source of which each row counts. Raises BadInput where one cannot be read."""
    for table, _ in reading.batches(source, reading.files(source)):
        if wrong := next((why for why in table["malformed"].to_pylist() if why), None):
            raise BadInput(wrong, where=source.location, next="mend that row")
        yield table


def _anchor(declared: Recipe, challenger: Finetuned, champion: Finetuned | None) -> gate.Answers | None:
    """What both say of the fixed anchor set; the base model where there is no champion, and it answers by itself."""
    source, task = tasks.anchor(declared), tasks.of(declared.task)
    if source is None or (champion is None and not hasattr(task, "untrained")):
        return None
    asked = _read_anchor(declared, source)
    digest = sha256(asked["text"].to_pylist())  # not of the file: another column of it may be the text tomorrow
    ours = challenger.answers(asked, digest)
    theirs = champion.answers(asked, digest) if champion else challenger.answers(asked, digest, trained=False)
    return gate.Answers(challenger=task.tally(declared, asked, ours), champion=task.tally(declared, asked, theirs))


def _read_anchor(declared: Recipe, source: reading.Source) -> Any:
    """Text and target of an anchor set, a table. A row that validate would set aside is an error: the set is fixed.

    Raises:
        BadInput: a row is no row of the task, or cannot be read.
    """
    import numpy as np
    import pyarrow as pa

    tables, files = [], reading.files(source)
    for table, _ in reading.batches(source, files):
        read, _ = tasks.read(declared.task, table, declared.data)
        wrong = np.any([applies for _, applies in read.problems], axis=0)
        if wrong.any():
            at = int(wrong.argmax())
            raise BadInput(
                f"cannot be used as an anchor set: {_problem(declared, table.slice(at, 1), files)}",
                where=source.location,
                next="mend that row, or gates.forgetting.anchor in the recipe",
            )
        tables.append(pa.table({"text": read.text, **read.target}))
    return pa.concat_tables(tables)


def _problem(declared: Recipe, row: Any, files: list[tuple[Any, str, int]]) -> str:
    """What is wrong with a row of an anchor set, a table of one, and where it is."""
    (why,) = row["malformed"].to_pylist()
    if why is not None:
        return str(why)
    read, _ = tasks.read(declared.task, row, declared.data)
    reason = next(reason for reason, applies in read.problems if applies[0])
    unknown = f" {read.unknown[reason][0].as_py()[:50]!r}" if reason in read.unknown else ""
    (number,), (file,) = row["row"].to_pylist(), row["file"].to_pylist()
    return f"row {number} of {sources.written(Path(files[file - 1][1]).name)}: {reason}{unknown}"
