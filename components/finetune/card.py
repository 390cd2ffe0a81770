"""The model card, in the Hugging Face Hub's format: metadata in YAML on top, prose below."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from components.finetune import replay
from regraft import bases, escaped, sources, tasks
from regraft.step import Work

TEMPLATE = """\
---
{head}
---

# {name}

An adapter ({kind}, rank {r}) on {base}, trained by regraft. It holds no base weights: load both.

## Data

{rows} rows for training, in the file with SHA-256 `{data}`{replayed}; texts longer than {max_length} tokens are cut.

{task}

## Scores on dev

{scores}

The scores that decide about promotion are those of the step evaluate, on rows that neither training nor early stopping
saw; they are in the run's report and in MLflow.

## Training

{training}
"""


def render(context: Work, scores: dict[str, float], *, rows: int) -> str:
    """The card's text: no times, no paths of this machine, so that a rerun gives the same bytes.

    Args:
        scores: metrics on dev by name.
        rows: how many rows were trained on.
    """
    recipe, older = context.recipe, replay.count(context, rows)
    base = recipe.base_model
    hub_name = base.source.removeprefix("hf://") if base.source.startswith("hf://") else None
    head = ModelCardData(
        model_name=recipe.name,
        library_name="peft",
        pipeline_tag=recipe.task,
        base_model=hub_name,
        license=_license(base.source),
        tags=["regraft", recipe.adapter.kind],
        eval_results=[
            EvalResult(
                task_type=recipe.task,
                dataset_type=recipe.name,
                dataset_name=f"{recipe.name} (dev)",
                metric_type=name,
                metric_value=round(value, 6),
            )
            for name, value in sorted(scores.items())
            if name != "loss"
        ],
    )
    return TEMPLATE.format(
        head=head.to_yaml().strip(),
        name=recipe.name,
        kind=recipe.adapter.kind,
        r=recipe.adapter.r,
        base=escaped.code(base.source) + _finetune(context),
        rows=rows - older,
        replayed=f", and {older} of earlier windows" if older else "",
        data=context.inputs["train"],
        max_length=recipe.training.max_length,
        task=tasks.of(recipe.task).card(recipe),
        scores="\n".join(f"- {name}: {value:.4f}" for name, value in sorted(scores.items())),
        training="\n".join(f"- {key}: {value}" for key, value in recipe.training.model_dump(mode="json").items()),
    )


def _finetune(context: Work) -> str:
    """Which finetune the base model was made from, where it is another recipe's champion."""
    _, _, identity = context.inputs.get(bases.CHAMPION, "").partition("/")
    return f" (by finetune `{identity[:12]}`, merged)" if identity else ""


def _license(source: str) -> str | None:
    """The licence that a base model on this disk declares in a card of its own; an adapter on it follows it."""
    if "://" in source and not source.startswith("package://"):
        return None
    file = Path(sources.expand(source)) / "README.md"
    try:
        declared = ModelCard.load(file).data.get("license") if file.is_file() else None
    except ValueError:  # its YAML head is broken
        return None
    return str(declared) if declared else None
