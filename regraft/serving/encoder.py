"""Text in, answers out: the program that Triton's Python backend runs for one version of an encoder.

It stands alone: it reads only the files beside it, of which `task.py` makes answers of the model's outputs, and needs
numpy, tokenizers and, by what `serving.json` says, onnxruntime (fp32), openvino (bf16), or torch and transformers. All
texts that the dynamic batcher has put together are tokenised at once, sorted by length and run in parts, so that short
texts are not padded to the longest of their batch.
No way of computing here lets an answer depend on the texts that share the batch.
"""

import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer

# A pass through the model costs about as much as this many padding tokens; with more to save, a batch is cut in two.
PASS_TOKENS = 48

# OpenVINO builds a program for each shape, so widths come in steps: a few programs serve all lengths.
BF16_STEP = 16

# Characters of a text that are read, for each token that is kept. Nobody's words are so long; it keeps one huge text
# from holding up the requests that share its batch.
CHARACTERS_PER_TOKEN = 256


Computing = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.float32]]
"""Raw scores, a row a text, of tokens and attention mask, both of shape (texts, width)."""


class TritonPythonModel:
    """The class that Triton looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the version's files and answers a first request of each size, so that no client pays for it."""
        folder = Path(args["model_repository"]) / args["model_version"]
        self.serving = json.loads((folder / "serving.json").read_text(encoding="utf-8"))
        self.task = _task(folder / "task.py")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.serving["max_length"], direction=self.serving["truncation_side"])
        self.characters = self.serving["max_length"] * CHARACTERS_PER_TOKEN
        self.step = BF16_STEP if self.serving["precision"] == "bf16" else 1
        self.run = _runner(self.serving)(folder, self.serving)
        for size in (1, 8, self.serving["max_batch_size"]):
            self.answers(["warm up " * size] * size)
        self.metric = _age(args["model_name"], args["model_version"], self.serving["data_end"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers all requests of a batch; one that cannot be read gets an error of its own."""
        texts: list[str] = []
        spans: list[slice | str] = []  # of a request that cannot be read, why
        for request in requests:
            values = pb_utils.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1)
            try:
                decoded = [self.read(value) for value in values]
            except UnicodeDecodeError as error:
                spans.append(f"text is not valid UTF-8: {error.reason} at byte {error.start}")
                continue
            spans.append(slice(len(texts), len(texts) + len(decoded)))
            texts += decoded
        answers = self.answers(texts)
        responses = []
        for span in spans:
            if isinstance(span, str):
                refused = pb_utils.TritonError(span, pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse(output_tensors=[], error=refused))
                continue
            outputs = [pb_utils.Tensor(name, values[span]) for name, values in answers.items()]
            responses.append(pb_utils.InferenceResponse(output_tensors=outputs))
        return responses

    def read(self, value: bytes) -> str:
        """The part of one text that can matter, from its bytes."""
        text = value.decode("utf-8")
        left = self.serving["truncation_side"] == "left"
        if len(text) <= self.characters or (left and self.task.OFFSETS):  # they count from the start
            return text
        return text[-self.characters :] if left else text[: self.characters]

    def answers(self, texts: list[str]) -> dict[str, npt.NDArray[Any]]:
        """The task's outputs by name, each an array with a row a text."""
        if not texts:
            return {name: values[:0] for name, values in self.answers([""]).items()}
        # To know where in its text each token is takes time, which not every task needs.
        encode = self.tokenizer.encode_batch if self.task.OFFSETS else self.tokenizer.encode_batch_fast
        encodings = encode(texts)
        answers: dict[str, npt.NDArray[Any]] = {}
        for rows in parts([len(encoding.ids) for encoding in encodings]):
            longest = max(len(encodings[row].ids) for row in rows) or 1
            width = min(-(-longest // self.step) * self.step, self.serving["max_length"])
            ids = np.full((len(rows), width), self.serving["pad_id"], dtype=np.int64)
            mask = np.zeros((len(rows), width), dtype=np.int64)
            for position, row in enumerate(rows):
                length = len(encodings[row].ids)
                span = slice(0, length) if self.serving["padding_side"] == "right" else slice(width - length, width)
                ids[position, span] = encodings[row].ids
                mask[position, span] = 1
            outputs = self.task.answers(
                self.serving, [texts[row] for row in rows], [encodings[row] for row in rows], self.run(ids, mask)
            )
            for name, values in zip(self.task.OUTPUTS, outputs, strict=True):
                answers.setdefault(name, np.empty((len(texts), *values.shape[1:]), dtype=values.dtype))[rows] = values
        return answers


def _task(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location("task", file)
    assert spec is not None  # noqa: S101  it is a file of Python
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parts(lengths: list[int]) -> Iterator[list[int]]:
    """Row numbers, sorted by length and cut where padding would cost more than another pass."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    current: list[int] = []
    for row in order:
        waste = (lengths[row] - lengths[current[-1]]) * len(current) if current else 0
        if waste > PASS_TOKENS:
            yield current
            current = []
        current.append(row)
    if current:
        yield current


def _age(model: str, version: str, data_end: float) -> Any:
    """Says among Triton's metrics how old the data is that the version was trained on; None where metrics are off."""
    with suppress(pb_utils.TritonModelException):
        family = pb_utils.MetricFamily(
            name="regraft_data_end_seconds",
            description="End of the data that a version was trained on, in seconds since 1970",
            kind=pb_utils.MetricFamily.GAUGE,
        )
        metric = family.Metric(labels={"model": model, "version": version})
        metric.set(data_end)
        return family, metric
    return None


def _runner(serving: dict[str, Any]) -> Callable[[Path, dict[str, Any]], Computing]:
    if serving["backend"] == "torch":
        return _torch
    return _openvino if serving["precision"] == "bf16" else _onnx


def _openvino(folder: Path, serving: dict[str, Any]) -> Computing:
    import openvino

    options = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": serving["threads"],
        "NUM_STREAMS": 1,
    }
    model = openvino.Core().compile_model(str(folder / "model.onnx"), "CPU", options)
    request = model.create_infer_request()
    return lambda ids, mask: request.infer({"input_ids": ids, "attention_mask": mask})["logits"].copy()


def _onnx(folder: Path, serving: dict[str, Any]) -> Computing:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = serving["threads"]
    options.inter_op_num_threads = 1
    # Spinning threads take the CPU from the tokenizer and from Triton's own threads.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[0]


def _torch(folder: Path, serving: dict[str, Any]) -> Computing:
    import torch
    import transformers

    torch.set_num_threads(serving["threads"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = getattr(transformers, serving["architecture"]).from_pretrained(
        str(folder / "torch"), use_safetensors=True, local_files_only=True, trust_remote_code=False, dtype="float32"
    )
    model.to(device).eval()

    def run(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            tensors = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
            logits = model(**{name: tensor.to(device) for name, tensor in tensors.items()}).logits
        answers: npt.NDArray[np.float32] = logits.float().cpu().numpy()
        return answers

    return run
