"""Text in, label and probabilities out: the program that Triton's Python backend runs for one model version.

It stands alone: it reads only the files beside it and needs numpy, tokenizers and, by what `serving.json` says,
onnxruntime (fp32), openvino (bf16), or torch and transformers. All texts that the dynamic batcher has put together are
tokenised at once, sorted by length and run in parts, so that short texts are not padded to the longest of their batch.
No way of computing here lets an answer depend on the texts that share the batch.
"""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer

# A pass through the model costs about as much as this many padding tokens; with more to save, a batch is cut in two.
PASS_TOKENS = 48

# OpenVINO builds a program for each shape, so widths come in steps: a few programs serve all lengths.
BF16_STEP = 16

# Characters of a text that are read, for each token that is kept. Nobody's words are so long; it keeps one huge text
# from holding up the requests that share its batch.
CHARACTERS_PER_TOKEN = 256


class TritonPythonModel:
    """The class that Triton looks for."""

    def initialize(self, args):
        """Loads the version's files and answers a first request of each size, so that no client pays for it."""
        folder = Path(args["model_repository"]) / args["model_version"]
        self.serving = json.loads((folder / "serving.json").read_text(encoding="utf-8"))
        self.labels = np.array([label.encode() for label in self.serving["labels"]], dtype=np.object_)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.serving["max_length"], direction=self.serving["truncation_side"])
        self.characters = self.serving["max_length"] * CHARACTERS_PER_TOKEN
        self.step = BF16_STEP if self.serving["precision"] == "bf16" else 1
        self.run = _runner(self.serving)(folder, self.serving)
        for size in (1, 8, self.serving["max_batch_size"]):
            self.probabilities(["warm up " * size] * size)
        self.metric = _age(args["model_name"], args["model_version"], self.serving["data_end"])

    def execute(self, requests):
        """Answers all requests of a batch; one that cannot be read gets an error of its own."""
        texts, spans = [], []
        for request in requests:
            values = pb_utils.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1)
            try:
                decoded = [self.read(value) for value in values]
            except UnicodeDecodeError as error:
                spans.append(f"text is not valid UTF-8: {error.reason} at byte {error.start}")
                continue
            spans.append((len(texts), len(texts) + len(decoded)))
            texts += decoded
        scores = self.probabilities(texts)
        best = self.labels[scores.argmax(axis=1)] if texts else None
        responses = []
        for span in spans:
            if isinstance(span, str):
                error = pb_utils.TritonError(span, pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse(output_tensors=[], error=error))
                continue
            rows = slice(*span)
            outputs = [
                pb_utils.Tensor("label", best[rows].reshape(-1, 1)),
                pb_utils.Tensor("probabilities", scores[rows]),
            ]
            responses.append(pb_utils.InferenceResponse(output_tensors=outputs))
        return responses

    def read(self, value):
        """The part of one text that can matter, from its bytes."""
        text = value.decode("utf-8")
        if len(text) <= self.characters:
            return text
        return text[: self.characters] if self.serving["truncation_side"] == "right" else text[-self.characters :]

    def probabilities(self, texts):
        """Probability of each label, shape (texts, labels), fp32."""
        if not texts:
            return np.zeros((0, len(self.labels)), dtype=np.float32)
        encoded = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts)]
        logits = np.empty((len(texts), len(self.labels)), dtype=np.float32)
        for rows in parts([len(ids) for ids in encoded]):
            longest = max(len(encoded[row]) for row in rows) or 1
            width = min(-(-longest // self.step) * self.step, self.serving["max_length"])
            ids = np.full((len(rows), width), self.serving["pad_id"], dtype=np.int64)
            mask = np.zeros((len(rows), width), dtype=np.int64)
            for position, row in enumerate(rows):
                length = len(encoded[row])
                span = slice(0, length) if self.serving["padding_side"] == "right" else slice(width - length, width)
                ids[position, span] = encoded[row]
                mask[position, span] = 1
            logits[rows] = self.run(ids, mask)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)


def parts(lengths):
    """Row numbers, sorted by length and cut where padding would cost more than another pass."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    current = []
    for row in order:
        waste = (lengths[row] - lengths[current[-1]]) * len(current) if current else 0
        if waste > PASS_TOKENS:
            yield current
            current = []
        current.append(row)
    if current:
        yield current


def _age(model, version, data_end):
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


def _runner(serving):
    if serving["backend"] == "torch":
        return _torch
    return _openvino if serving["precision"] == "bf16" else _onnx


def _openvino(folder, serving):
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


def _onnx(folder, serving):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = serving["threads"]
    options.inter_op_num_threads = 1
    # Spinning threads take the CPU from the tokenizer and from Triton's own threads.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[0]


def _torch(folder, serving):
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(serving["threads"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForSequenceClassification.from_pretrained(
        str(folder / "torch"), use_safetensors=True, local_files_only=True, dtype="float32"
    )
    model.to(device).eval()

    def run(ids, mask):
        with torch.inference_mode():
            tensors = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
            return model(**{name: tensor.to(device) for name, tensor in tensors.items()}).logits.float().cpu().numpy()

    return run
