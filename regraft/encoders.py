"""Encoders, and decoders that are read as such: a base model, an adapter and a head over its outputs; ONNX; batches.

The family of tasks that give labels to texts or to their tokens. A task says which head, and what its outputs are.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from regraft import adapters, base_model, serving, sources
from regraft.errors import BadInput
from regraft.parts import Recipe

Head = Literal["SequenceClassification", "TokenClassification"]
"""What is learned over the base model's outputs: an answer to the text, or one to each of its tokens."""
TYPES = {"SequenceClassification": "SEQ_CLS", "TokenClassification": "TOKEN_CLS"}
"""What peft calls them."""

EXAMPLE = ("Anna wrote from Lisbon that all went well.", "Nobody has answered her since Monday.")
"""Texts that nobody sent us, to show how a model is asked: whoever may read MLflow reads them."""

_HEADS = {"SequenceClassification": ("pre_classifier",), "TokenClassification": ("classifier", "score")}
"""Of heads, what is trained whole and peft would adapt all the same: DistilBERT's, whose name ends as that of a
classifier, and those over tokens, which it does not look for."""


@dataclass(frozen=True)
class Encoder:
    """A model ready for inference: base, adapter and head in fp32, in eval mode."""

    model: Any
    tokenizer: Any
    max_length: int


def _base(recipe: Recipe, folder: Path, *, head: Head, outputs: Sequence[str]) -> tuple[Any, Any]:
    """The base model with a new head and its tokenizer. The head is random: seed before calling."""
    names = dict(enumerate(outputs))
    own = {"problem_type": "single_label_classification"} if head == "SequenceClassification" else {}
    model, loaded, tokenizer = adapters.base(
        recipe,
        folder,
        loader=f"AutoModelFor{head}",
        **own,  # the base model may have had another
        ignore_mismatched_sizes=True,  # of a head for other labels; see _only_the_head_is_fresh
        num_labels=len(names),
        id2label=names,
        label2id={output: i for i, output in names.items()},
        dtype="float32",
    )
    _only_the_head_is_fresh(model, loaded, where=recipe.base_model.source)
    return model, tokenizer


def _only_the_head_is_fresh(model: Any, loaded: dict[str, Any], *, where: str) -> None:
    """Raises BadInput where weights of the trunk are of another shape, or missing and so random, or left out."""
    prefix = f"{model.base_model_prefix}."
    other = sorted(str(key[0] if isinstance(key, tuple) else key) for key in loaded["mismatched_keys"])
    if wrong := [name for name in other if name.startswith(prefix)]:
        raise BadInput(
            f"the weights have other shapes than config.json says: {sources.some(wrong)}",
            where=where,
            next="give config.json the values of the model that was saved, or save the model again",
        )
    trunk = {name for name, _ in model.named_parameters() if name.startswith(prefix)}
    # what the architecture can do without is not among the missing keys; a pooler is part of the head that is trained
    missing = sorted(name for name in trunk & set(loaded["missing_keys"]) if "pooler" not in name.split("."))
    if missing:
        raise BadInput(
            f"the weights are not those of a {model.config.model_type} as config.json says:"
            f" {sources.some(missing)} are missing, and would be random",
            where=where,
            next="give config.json the values of the model that was saved, or download the base model anew",
        )
    layers = {base_model.layer(name.removeprefix(prefix)) for name in trunk} - {None}
    lists = {layer[0] for layer in layers if layer}
    for name in sorted(loaded["unexpected_keys"]):
        layer = base_model.layer(name.removeprefix(prefix))
        if layer and layer[0] in lists and layer not in layers:
            raise base_model.other_depth(f"fewer layers than the weights have: {name} would be left out", where=where)


def for_training(recipe: Recipe, folder: Path, *, head: Head, outputs: Sequence[str]) -> tuple[Any, Any]:
    """The base model with a fresh adapter and head, seeded by the recipe, and its tokenizer.

    Args:
        folder: where a base model in a bucket is downloaded to.
        outputs: names of the head's outputs.
    """
    from transformers import set_seed

    set_seed(recipe.training.seed)
    model, tokenizer = _base(recipe, folder, head=head, outputs=outputs)
    exclude = [name for name in _HEADS[head] if hasattr(model, name)]
    return adapters.over(recipe, model, task_type=TYPES[head], exclude=exclude), tokenizer


def load(recipe: Recipe, model: Path, folder: Path, *, head: Head, outputs: Sequence[str]) -> Encoder:
    """The model of a finetune, from the files it published.

    Args:
        model: folder with `adapter/` and `tokenizer/`.
        folder: where a base model in a bucket is downloaded to.
    """
    from peft import PeftModel
    from transformers import set_seed

    set_seed(recipe.training.seed)
    base, its = _base(recipe, folder, head=head, outputs=outputs)
    adapted = PeftModel.from_pretrained(base, str(model / "adapter"), use_safetensors=True)
    tokenizer = adapters.tokenizer(recipe, model, its)
    return Encoder(adapted.merge_and_unload().eval(), tokenizer, recipe.training.max_length)


def outputs_of(encoder: Encoder, token_ids: Sequence[Sequence[int]], size: int = 64) -> Iterator[tuple[list[int], Any]]:
    """Row numbers and raw scores of each batch: shape (rows, outputs), or (rows, width, outputs) for tokens."""
    import torch

    device = next(encoder.model.parameters()).device
    with torch.inference_mode():
        for rows in adapters.by_length([len(ids) for ids in token_ids], size):
            batch = encoder.tokenizer.pad({"input_ids": [token_ids[i] for i in rows]}, return_tensors="pt")
            yield rows, encoder.model(**batch.to(device)).logits.float().cpu().numpy()


def build(recipe: Recipe, encoder: Encoder, folder: Path, *, program: Path) -> dict[str, Any]:
    """Writes the files of a version directory; gives what the program reads of serving.json beside what all tasks say.

    model.py         the family's program, see `serving/encoder.py`
    task.py          the task's part of it
    model.onnx       the merged model in ONNX; or torch/, its safetensors and config.json
    tokenizer.json   the tokenizer, run inside the server

    Args:
        program: the task's part.

    Raises:
        BadInput: the model or tokenizer cannot be served this way.
    """
    tokenizer = encoder.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise BadInput(
            "the tokenizer has no tokenizer.json, which serving needs", next="choose a base model with a fast tokenizer"
        )
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    backend.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "model.py").write_bytes(Path(serving.__file__).with_name("encoder.py").read_bytes())
    (folder / "task.py").write_bytes(program.read_bytes())
    if recipe.serving.backend == "onnx":
        export_onnx(encoder.model, folder / "model.onnx")
    else:
        encoder.model.save_pretrained(folder / "torch", safe_serialization=True)
    return {
        "architecture": type(encoder.model).__name__,
        "max_length": encoder.max_length,
        "pad_id": tokenizer.pad_token_id,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
    }


def tensors(outputs: Mapping[str, str]) -> str:
    """Inputs and outputs, as config.pbtxt has them.

    Args:
        outputs: type and dimensions of each, such as "TYPE_FP32 dims: [ 2 ]".
    """
    described = [f'  {{ name: "{name}" data_type: {of} }}' for name, of in outputs.items()]
    return 'input [ { name: "text" data_type: TYPE_STRING dims: [ 1 ] } ]\noutput [\n' + ",\n".join(described) + "\n]\n"


def request(rows: Any) -> list[Any]:
    """Inputs of a request, for tritonclient."""
    import numpy as np
    import tritonclient.http

    texts = rows["text"].to_pylist()
    tensor = tritonclient.http.InferInput("text", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()] for text in texts], dtype=np.object_))
    return [tensor]


def asked(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Inputs of Triton's JSON for one row."""
    return [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [row["text"]]}]


# ONNX files are protocol buffers, which end at 2 GiB; larger models keep their weights beside the file.
PROTOBUF_LIMIT = 1_900_000_000


def export_onnx(model: Any, file: Path) -> None:
    """Exports a model to ONNX with dynamic batch and sequence axes, from input_ids and attention_mask to logits.

    The exporter notes the source line of each node, with paths of this machine; they are taken out, so that the bytes
    depend on the model only.
    """
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which nobody needs here

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
            return logits

    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    # Two tensors: given one tensor twice, the exporter takes the two inputs for one.
    ids, mask = torch.ones((2, 8), dtype=torch.int64), torch.ones((2, 8), dtype=torch.int64)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program: Any = torch.onnx.export(
                Logits().eval(),
                (ids, mask),
                dynamo=True,
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                dynamic_shapes={"input_ids": axes, "attention_mask": axes},
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise BadInput(
                f"the model cannot be exported to ONNX: {str(error).splitlines()[0]}",
                where="serving.backend",
                next="set serving.backend to torch in the recipe",
            ) from error
    graph = program.model
    described: list[Any] = [graph, graph.graph, *graph.functions.values(), *graph.graph.initializers.values()]
    for value in described:
        value.metadata_props.clear()
    for node in graph.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for output in node.outputs:
            output.metadata_props.clear()
    for value in (*graph.graph.inputs, *graph.graph.outputs):
        value.metadata_props.clear()
    large = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()) > PROTOBUF_LIMIT
    program.save(str(file), external_data=large)
