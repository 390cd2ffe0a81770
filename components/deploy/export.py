"""Builds a version directory: everything that Triton needs to serve one champion, to the byte the same on every build.

model.py         the program, see `serving/model.py`
model.onnx       the merged model in ONNX; or torch/, its safetensors and config.json
tokenizer.json   the tokenizer, run inside the server
serving.json     labels, lengths and which model this is
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from pathlib import Path
from typing import Any

from regraft import pipeline
from regraft.errors import BadInput
from regraft.ledger import Entry
from regraft.processor import computes_in_bf16
from regraft.recipe import Recipe
from regraft.store import sha256
from regraft.tasks.text_classification import Classifier

CONFIG = """\
name: "{{ name }}"
backend: "python"
max_batch_size: {{ serving.max_batch_size }}
input [ { name: "text" data_type: TYPE_STRING dims: [ 1 ] } ]
output [
  { name: "label" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "probabilities" data_type: TYPE_FP32 dims: [ {{ labels }} ] }
]
instance_group [ { count: {{ serving.instances }} kind: KIND_CPU } ]
dynamic_batching { max_queue_delay_microseconds: {{ (serving.queue_delay_ms * 1000) | int }} }
version_policy { specific { versions: [ {{ versions | join(", ") }} ] } }
"""


def config(recipe: Recipe, versions: list[int]) -> str:
    """The text of config.pbtxt: how Triton serves the model, and which of its versions."""
    import jinja2

    # autoescape would turn text into HTML; every value here is a number or a name that the recipe has checked
    template = jinja2.Template(CONFIG, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    return template.render(
        name=recipe.name, serving=recipe.serving, labels=len(recipe.data.labels), versions=sorted(versions)
    )


def precisions(recipe: Recipe) -> tuple[str, ...]:
    """The ways to compute that a deploy tries in turn, the fastest first; the last one has to hold.

    By measurement (`make bench BENCH=serving`): OpenVINO's bf16 takes half the time of ONNX Runtime's fp32 where the
    processor computes in bf16. Dynamic int8 would be faster still, but its answers depend on the batch.
    """
    wanted = recipe.serving.precision
    if recipe.serving.backend == "torch" or wanted == "fp32" or (wanted == "auto" and not computes_in_bf16()):
        return ("fp32",)
    return ("bf16", "fp32")


def build(recipe: Recipe, entry: Entry, classifier: Classifier, folder: Path, *, precision: str, settings: str) -> Path:
    """Writes the version directory of a champion.

    Args:
        classifier: the champion, as `regraft.tasks` loads it.
        precision: one of `precisions`.
        settings: digest of what else the directory is built by.
        folder: an empty folder, not visible to Triton.

    Raises:
        BadInput: the model or tokenizer cannot be served this way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = classifier.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise BadInput(
            "the tokenizer has no tokenizer.json, which serving needs", next="choose a base model with a fast tokenizer"
        )
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    backend.save(str(folder / "tokenizer.json"), pretty=False)
    program = Path(__file__).parent / "serving" / "model.py"
    (folder / "model.py").write_bytes(program.read_bytes())
    if recipe.serving.backend == "onnx":
        export_onnx(classifier.model, folder / "model.onnx")
    else:
        classifier.model.save_pretrained(folder / "torch", safe_serialization=True)
    description = {
        "model": entry.model,
        "version": entry.version,
        "settings": settings,
        "data_end": int(pipeline.run_time(entry.run).timestamp()),
        "labels": list(recipe.data.labels),
        "max_length": classifier.max_length,
        "max_batch_size": recipe.serving.max_batch_size,
        "backend": recipe.serving.backend,
        "precision": precision,
        "threads": recipe.serving.threads,
        "pad_id": tokenizer.pad_token_id,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
    }
    description["digest"] = sha256({"serving": description, "files": digests(folder)})
    (folder / "serving.json").write_text(json.dumps(description, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return folder


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a version directory, serving.json left out."""
    found = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "serving.json"):
        with file.open("rb") as content:
            found[file.relative_to(folder).as_posix()] = hashlib.file_digest(content, "sha256").hexdigest()
    return found


# ONNX files are protocol buffers, which end at 2 GiB; larger models keep their weights beside the file.
PROTOBUF_LIMIT = 1_900_000_000


def export_onnx(model: Any, file: Path) -> None:
    """Exports a classifier to ONNX with dynamic batch and sequence axes, from input_ids and attention_mask to logits.

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
            program = torch.onnx.export(
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
    for value in (graph, graph.graph, *graph.functions.values(), *graph.graph.initializers.values()):
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
