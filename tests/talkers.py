"""The one place where a language model is played: a program for Triton that says again what it is told, word by word.

So a test of what stands before Triton knows each answer, and waits for no model. All else is real: the server, its
streams, who hangs up. `slow` words take their time, `bad` ones are refused, and `broken` ones break off.
"""

from __future__ import annotations

import json
from pathlib import Path

CONFIG = """\
name: "{name}"
backend: "python"
model_transaction_policy {{ decoupled: True }}
input [
  {{ name: "{asks}" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "tools" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "max_tokens" data_type: TYPE_INT32 dims: [ 1 ] optional: true }},
  {{ name: "stream" data_type: TYPE_BOOL dims: [ 1 ] optional: true }}
]
output [
  {{ name: "text" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "finish_reason" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "prompt_tokens" data_type: TYPE_INT32 dims: [ 1 ] }},
  {{ name: "completion_tokens" data_type: TYPE_INT32 dims: [ 1 ] }}
]
version_policy {{ specific {{ versions: [ {versions} ] }} }}
"""

PROGRAM = """
import json, threading, time
from pathlib import Path
import numpy as np
import triton_python_backend_utils as pb_utils

LAST = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def tensor(name, value):
    kind = np.int32 if isinstance(value, int) else np.object_
    return pb_utils.Tensor(name, np.array([value if isinstance(value, int) else value.encode()], dtype=kind))


class TritonPythonModel:
    def initialize(self, args):
        self.folder = Path(args["model_repository"])

    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self.say, args=(request, request.get_response_sender())).start()

    def say(self, request, sender):
        given = {name: pb_utils.get_input_tensor_by_name(request, name) for name in ("messages", "text", "max_tokens")}
        given = {name: found.as_numpy().reshape(-1)[0] for name, found in given.items() if found is not None}
        said = json.loads(given["messages"])[-1]["content"] if "messages" in given else given["text"].decode()
        words, most = said.split(" "), int(given.get("max_tokens", 100))
        if said.startswith("bad"):
            error = pb_utils.TritonError("what you ask is bad", pb_utils.TritonError.INVALID_ARG)
            return sender.send(pb_utils.InferenceResponse(output_tensors=[], error=error), flags=LAST)
        for number, word in enumerate(words[:most]):
            if said.startswith("slow"):
                time.sleep(0.1)
            if sender.is_cancelled():
                (self.folder / "hung-up").write_text(f"{number} of {len(words)}")
                return sender.send(flags=LAST)
            text = word if number == 0 else f" {word}"
            sender.send(pb_utils.InferenceResponse(output_tensors=[tensor("text", text)]))
        if said.startswith("broken"):
            return sender.send(flags=LAST)
        counts = {"prompt_tokens": len(words), "completion_tokens": min(most, len(words))}
        ended = {"text": "", "finish_reason": "stop" if len(words) <= most else "length", **counts}
        sender.send(pb_utils.InferenceResponse(output_tensors=[tensor(*one) for one in ended.items()]), flags=LAST)
"""


def put(repository: Path, name: str, *, asks: str, versions: tuple[int, ...]) -> None:
    """Puts a model into a repository.

    Args:
        asks: `messages` or `text`.
    """
    for version in versions:
        folder = repository / name / str(version)
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(PROGRAM)
        (folder / "serving.json").write_text(json.dumps({"asks": asks}))
    text = CONFIG.format(name=name, asks=asks, versions=", ".join(map(str, versions)))
    (repository / name / "config.pbtxt").write_text(text)


def hung_up(repository: Path, name: str) -> str | None:
    """How far an answer had come whose client went; None where none did."""
    file = repository / name / "hung-up"
    return file.read_text() if file.exists() else None
