"""A language model as MLflow keeps it: an adapter, a tokenizer, and the place of the base model."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from regraft import base_model
from regraft.causal import Causal, Tuned, tokenizer
from regraft.causal.answering import of_references
from regraft.causal.prompts import Encoded

SAME = 1e-3
"""Most that a token's mean log-probability may differ in a model that was loaded back: sums come in another order."""
EXAMPLE = ["Anna wrote from Lisbon that all went well. She has found a flat by the river, and starts work on Monday."]
"""How a model is asked that takes texts."""


def logged(
    recipe: Tuned,
    model: Causal,
    *,
    said: Callable[[Causal, list[Any]], list[Any]],
    inputs: list[Any],
    right: Callable[[Causal], list[Encoded]],
    example: Any,
    chat: bool = False,
) -> tuple[Callable[..., Any], Callable[[str], str | None]]:
    """What logs a model in MLflow, and the proof of what was logged.

    MLflow keeps adapter, tokenizer and regraft's own code, which asks the model as evaluate did. A base model of this
    machine or of the Hub is kept by its place alone, `base_model` of the model's configuration, which whoever loads it
    may give another; one from a bucket is kept whole.

    Args:
        said: what a model answers to inputs; MLflow's program finds it by its module and name.
        inputs: some, by whose answers a model that was loaded back is compared.
        right: what a model is shown, whose probability is compared too; none where the answers are such.
        example: an input that nobody sent us, to show how it is asked: whoever may read MLflow reads it.
        chat: whether it is asked and answers in OpenAI's form, MLflow's llm/v1/chat; the example proves that form.
    """
    import mlflow

    import regraft

    declared, its = recipe.base_model, model.model.get_base_model()
    by_place = bool(declared.revision) or base_model.at_hand(recipe) is not None
    settings = {
        "name": recipe.name,
        "answers": [said.__module__, said.__name__],
        "told": model.told,
        "base_model": its.config.name_or_path if by_place else None,
        "revision": declared.revision,
        "max_length": model.max_length,
        "max_tokens": model.max_tokens,
    }

    def log(*, name: str, pip_requirements: list[str], tags: dict[str, str]) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            model.model.save_pretrained(f"{folder}/adapter", safe_serialization=True)
            model.tokenizer.save_pretrained(f"{folder}/tokenizer")
            return mlflow.pyfunc.log_model(
                name=name,
                python_model=str(Path(__file__).with_name("mlflow_chat.py" if chat else "mlflow_model.py")),
                artifacts={"model": folder} | ({} if by_place else {"base": its.config.name_or_path}),
                code_paths=[str(Path(regraft.__file__).parent)],
                model_config=settings,
                input_example=example,
                pip_requirements=[*pip_requirements, *_own_requirements()],
                tags=tags,
                **(_chat_form() if chat else {}),
            )

    expected, probable = said(model, inputs), _of_a_token(model, right)
    alone = said(model, [example]) if chat else []

    def proof(uri: str) -> str | None:
        loaded = mlflow.pyfunc.load_model(uri)
        program = loaded.unwrap_python_model()
        answers = program.said(program.model, inputs) if chat else loaded.predict(inputs)
        again = _of_a_token(program.model, right)
        for text in alone:
            if (form := loaded.predict(example)["choices"][0]["message"]["content"]) != text:
                return f"answers {form!r} in OpenAI's form instead of {text!r}"
        for one, other in zip(answers, expected, strict=True):
            if one != other:
                return f"answers {one!r} instead of {other!r}"
        for now, before in zip(again, probable, strict=True):
            if abs(now - before) > SAME:
                return f"finds a reference's tokens of log-probability {now:.4f} on average instead of {before:.4f}"
        return None

    return log, proof


def _chat_form() -> dict[str, Any]:
    """What tells MLflow, and who asks it, that a model is asked and answers as OpenAI's chat completions."""
    from mlflow.models import ModelSignature
    from mlflow.types.llm import CHAT_MODEL_INPUT_SCHEMA, CHAT_MODEL_OUTPUT_SCHEMA

    signature = ModelSignature(inputs=CHAT_MODEL_INPUT_SCHEMA, outputs=CHAT_MODEL_OUTPUT_SCHEMA)
    return {"signature": signature, "metadata": {"task": "llm/v1/chat"}}


def of_mlflow(context: Any) -> tuple[Causal, Callable[[Causal, list[Any]], list[Any]]]:
    """A model that MLflow kept, and what it answers to inputs, see `logged`.

    Args:
        context: what MLflow gives its programs.
    """
    base, settings = context.artifacts.get("base"), context.model_config
    module, name = settings["answers"]
    model = opened(Path(context.artifacts["model"]), settings, base=Path(base) if base else None)
    return model, getattr(importlib.import_module(module), name)


def _of_a_token(model: Causal, right: Callable[[Causal], list[Encoded]]) -> list[float]:
    """Log-probability (natural) of a token that is right, the mean of each row."""
    return [total / max(count, 1) for total, count in of_references(model, right(model))]


def _own_requirements() -> list[str]:
    """What regraft's own code has to find where the model is loaded."""
    plain = (word for word in importlib.metadata.requires("regraft") or () if "extra ==" not in word)
    names = [re.split(r"[^\w.-]", word, maxsplit=1)[0] for word in plain]
    return [f"{name}=={importlib.metadata.version(name)}" for name in (*names, "peft", "pyarrow")]


def opened(folder: Path, settings: Mapping[str, Any], *, base: Path | None) -> Causal:
    """A model that MLflow kept, see `logged`.

    Args:
        base: its base model, where that was kept whole.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    model = AutoModelForCausalLM.from_pretrained(
        str(base or settings["base_model"]),
        revision=settings["revision"] or "main",
        dtype="bfloat16" if on_gpu else "float32",
        trust_remote_code=False,
        use_safetensors=True,
    )
    adapted = PeftModel.from_pretrained(model, str(folder / "adapter"), use_safetensors=True).eval()
    return Causal(
        adapted, tokenizer(str(folder / "tokenizer")), settings["max_length"], settings["max_tokens"], settings["told"]
    )
