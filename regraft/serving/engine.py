"""A prompt in, an answer out piece by piece: the program that Triton's Python backend runs for a language model.

It stands alone: it reads only the files beside it, of which `library/` holds those of regraft that make tokens of what
is asked, and needs numpy, torch and transformers. All requests of a moment share each pass through the model, and a new
one joins them at the next: continuous batching, as transformers has it, in fp32. An answer is greedy, and no other than
it would be alone. A request whose client has gone is computed no further, and one that is wrong gets an error of its
own.
"""

import importlib.util
import itertools
import json
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import triton_python_backend_utils as pb_utils

# Tokens whose keys and values lie together; what prompts have in common is computed once, in such parts.
PAGE = 32

# Tokens of a pass at most, prompts and answers together: a long prompt does not hold up the answers beside it.
PASS_TOKENS = 512

# Characters that are read, for each token that there is room for. Nobody's words are so long; it keeps one huge request
# from holding up the others.
CHARACTERS_PER_TOKEN = 256

# Seconds after which a request is looked at again: is its client still there?
LOOK_SECONDS = 0.2

LIKE_OPENAI = (
    "messages has to be a list in JSON of turns with role and content, as OpenAI's API has it, after which the "
    "assistant's comes next"
)


class Wrong(Exception):
    """What a client asks cannot be answered; says why in one sentence."""


class Died(Exception):
    """The engine broke down. It has started anew, without the requests that it had."""


class Said(NamedTuple):
    """What an engine has said to a request up to now, in tokens."""

    request: str
    tokens: Sequence[int]
    ended: bool
    error: str | None = None


class Engine(Protocol):
    """What computes answers for all requests at once."""

    def submit(self, request: str, prompt: Sequence[int], most: int, *, stream: bool) -> bool:
        """Takes a request; False where it takes none.

        Args:
            most: tokens of the answer at most.
            stream: whether each token is told, rather than the whole answer.
        """

    def cancel(self, request: str) -> None:
        """Computes a request no further."""

    def next(self, seconds: float) -> Said | None:
        """What was said next; None where nothing is in so many seconds. Raises Died."""

    def stop(self) -> None:
        """Ends what it computes with."""


class Batching:
    """transformers' continuous batching on a model of this folder."""

    def __init__(self, folder: Path, serving: dict[str, Any]) -> None:
        import torch
        import transformers

        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        torch.set_num_threads(serving["threads"])
        self.serving = serving
        self.model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder / "torch"), use_safetensors=True, local_files_only=True, trust_remote_code=False, dtype="float32"
        )
        self._start()

    def _start(self) -> None:
        from transformers import ContinuousBatchingConfig, GenerationConfig

        requests, longest = self.serving["max_batch_size"], self.serving["max_length"]
        greedy = GenerationConfig(do_sample=False, eos_token_id=self.serving["ends"])  # type: ignore[no-untyped-call]
        room = ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=requests * (-(-longest // PAGE) + 1) + 1,  # so that nobody's have to be thrown away
            max_batch_tokens=PASS_TOKENS,
            max_requests_per_batch=requests,
            auto_switch_to_flash=False,
        )
        self.manager = self.model.init_continuous_batching(greedy, room)
        self.manager.start()

    def submit(self, request: str, prompt: Sequence[int], most: int, *, stream: bool) -> bool:
        taken = self.manager.add_request(list(prompt), request_id=request, max_new_tokens=most, streaming=stream)
        return taken is not None

    def cancel(self, request: str) -> None:
        self.manager.cancel_request(request)

    def next(self, seconds: float) -> Said | None:
        output = self.manager.get_result(timeout=seconds)
        if output is not None:
            return Said(output.request_id, output.generated_tokens, output.is_finished(), output.error)
        if not self.manager.is_running():
            reason = self.manager.background_thread_status.fatal_error
            self._start()
            raise Died(str(reason))
        return None

    def stop(self) -> None:
        self.manager.stop(hard_stop=True)


class Talk:
    """A request that is being answered: its client, and what was sent to it."""

    def __init__(self, sender: Any, prompt: Sequence[int], most: int, *, stream: bool) -> None:
        self.sender, self.prompt, self.most, self.stream = sender, prompt, most, stream
        self.sent = ""

    def piece(self, whole: str, *, last: bool) -> str:
        """What is new of an answer. The half of a character, and white space at the end, wait for what follows."""
        whole = whole if last else whole.rstrip("\ufffd")
        new = whole[len(self.sent) :] if whole.startswith(self.sent) else ""
        self.sent += new
        return new

    def send(self, *, last: bool = False, **outputs: str | int) -> None:
        """Sends a piece of the answer, or the last one."""
        tensors = [*map(_tensor, outputs, outputs.values())]
        _send(self.sender, pb_utils.InferenceResponse(output_tensors=tensors), last=last)

    def refuse(self, why: str) -> None:
        """Sends an error instead of what is missing of the answer."""
        _refuse(self.sender, why)


class TritonPythonModel:
    """The class that Triton looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the version's files and answers a first request, so that no client pays for it."""
        from transformers import AutoTokenizer

        folder = Path(args["model_repository"]) / args["model_version"]
        self.serving = json.loads((folder / "serving.json").read_text(encoding="utf-8"))
        self.rooms = {name: self.serving[name] for name in ("max_length", "max_tokens")}
        self.characters = self.serving["max_length"] * CHARACTERS_PER_TOKEN
        sys.dont_write_bytecode = True  # version directories are immutable
        sys.path.insert(0, str(folder / "library"))
        causal = folder / "library/regraft/causal"
        self.asking, self.conversations = _module(causal / "asking.py"), _module(causal / "conversations.py")
        self.tokenizer = AutoTokenizer.from_pretrained(
            str(folder / "tokenizer"), local_files_only=True, trust_remote_code=False
        )
        if self.serving["asks"] == "text":
            self.document = self.asking.Asker(self.tokenizer, self.serving["told"], **self.rooms)
        told = "End of the data that a version was trained on, in seconds since 1970"
        self.age = Metric(args, "regraft_data_end_seconds", told, counts=False)
        self.age.add(self.serving["data_end"])
        told = "Requests of a version whose clients went before they had their answer"
        self.aborted = Metric(args, "regraft_aborted_requests", told, counts=True)
        self.engine: Engine = Batching(folder, self.serving)
        _warm_up(self.engine, self.tokenizer)
        self.talks: dict[str, Talk] = {}
        self.numbers = map(str, itertools.count())
        self.lock, self.stopping = threading.Lock(), threading.Event()
        self.speaking = threading.Thread(target=self._speak, daemon=True)
        self.speaking.start()

    def execute(self, requests: Sequence[Any]) -> None:
        """Takes requests. They are answered by another thread, as the engine has something to say to them."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                talk = self._read(request, sender)
            except Wrong as error:
                _refuse(sender, str(error))
            except Exception as error:  # whatever it is, it must not take other requests with it
                _refuse(sender, f"the request cannot be answered: {getattr(error, 'what', error)}")
            else:
                self._begin(talk)

    def _begin(self, talk: Talk) -> None:
        with self.lock:
            number = next(self.numbers)
            self.talks[number] = talk
        if not self.engine.submit(number, talk.prompt, talk.most, stream=talk.stream):
            self._over(number)
            talk.refuse("the engine is starting anew: ask again")

    def _over(self, number: str) -> Talk | None:
        with self.lock:
            return self.talks.pop(number, None)

    def _read(self, request: Any, sender: Any) -> Talk:
        """A request's prompt and how it is to be answered. Raises Wrong, and what the chat template raises."""
        prompt = {"messages": self._of_messages, "text": self._of_text}[self.serving["asks"]](request)
        limit, most = self.serving["max_tokens"], _given(request, "max_tokens")
        if most is not None and not 1 <= most <= limit:
            raise Wrong(f"max_tokens is {most}, and has to be from 1 to {limit}")
        return Talk(sender, prompt, limit if most is None else int(most), stream=bool(_given(request, "stream")))

    def _of_messages(self, request: Any) -> Sequence[int]:
        """Tokens of a conversation whose next turn is the assistant's."""
        messages, tools = _text(request, "messages"), _text(request, "tools")
        if (size := len(messages or "") + len(tools or "")) > self.characters:
            raise Wrong(
                f"the conversation has {size} characters, and at most {self.characters} are read: of its tokens the "
                f"model takes {self.serving['max_length']} with the answer"
            )
        turns, problem = self.conversations.unanswered(messages, tools)
        if problem:
            raise Wrong(f"{problem}: {LIKE_OPENAI}")
        return list(self.asking.of_conversation(self.tokenizer, self.serving["told"], turns, **self.rooms))

    def _of_text(self, request: Any) -> Sequence[int]:
        """Tokens of a document in the recipe's prompt."""
        text = (_text(request, "text") or "")[: self.characters]
        if not text.strip():
            raise Wrong("text is empty: it has to be the document")
        return list(self.document.tokens(text))

    def _speak(self) -> None:
        """Passes on what the engine says, until the model is unloaded and all have their answers."""
        looked = time.monotonic()
        while self.talks or not self.stopping.is_set():
            try:
                said = self.engine.next(LOOK_SECONDS)
            except Died as error:
                for number in [*self.talks]:
                    if talk := self._over(number):
                        talk.refuse(f"the engine broke down, and starts anew: {error}")
                continue
            if said is not None:
                self._pass_on(said)
            if time.monotonic() - looked > LOOK_SECONDS:
                self._hang_up()
                looked = time.monotonic()

    def _pass_on(self, said: Said) -> None:
        talk = self.talks.get(said.request)
        if talk is None:  # its client has gone
            return
        if said.error:
            self._over(said.request)
            talk.refuse(f"the answer cannot be computed: {said.error}")
            return
        stopped = bool(said.tokens) and said.tokens[-1] in self.serving["ends"]
        tokens = said.tokens[:-1] if stopped else said.tokens
        piece = talk.piece(self.asking.text(self.tokenizer, tokens), last=said.ended)
        if said.ended:
            self._over(said.request)
            counts = {"prompt_tokens": len(talk.prompt), "completion_tokens": len(tokens)}
            talk.send(text=piece, finish_reason="stop" if stopped else "length", **counts, last=True)
        elif piece:
            talk.send(text=piece)

    def _hang_up(self) -> None:
        """Cancels the requests whose clients have gone."""
        for number, talk in [*self.talks.items()]:
            if talk.sender.is_cancelled():
                self.engine.cancel(number)
                self._over(number)
                talk.refuse("its client has gone")
                self.aborted.add(1)

    def finalize(self) -> None:
        """Waits for the answers that are under way, and ends."""
        self.stopping.set()
        self.speaking.join()
        self.engine.stop()


def _module(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None  # noqa: S101  it is a file of Python
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _warm_up(engine: Engine, tokenizer: Any) -> None:
    """Has a first request answered. Raises RuntimeError where it is not."""
    engine.submit("first", tokenizer("warm up " * 8)["input_ids"], 2, stream=False)
    while (said := engine.next(LOOK_SECONDS)) is None:
        pass
    if said.error:
        raise RuntimeError(said.error)


def _given(request: Any, name: str) -> Any:
    """The value of an input; None where the request has none."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy().reshape(-1)[0]


def _text(request: Any, name: str) -> str | None:
    value = _given(request, name)
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Wrong(f"{name} is not valid UTF-8: {error.reason} at byte {error.start}") from error


def _tensor(name: str, value: str | int) -> Any:
    values = np.array([value], np.int32) if isinstance(value, int) else np.array([value.encode()], np.object_)
    return pb_utils.Tensor(name, values)


def _refuse(sender: Any, why: str) -> None:
    error = pb_utils.TritonError(why, pb_utils.TritonError.INVALID_ARG)
    _send(sender, pb_utils.InferenceResponse(output_tensors=[], error=error), last=True)


def _send(sender: Any, response: Any, *, last: bool) -> None:
    flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0
    with suppress(pb_utils.TritonModelException):  # nobody is there any more
        sender.send(response, flags=flags)


class Metric:
    """A number of this version among Triton's metrics; nothing where those are off."""

    def __init__(self, args: dict[str, str], name: str, description: str, *, counts: bool) -> None:
        kind = pb_utils.MetricFamily.COUNTER if counts else pb_utils.MetricFamily.GAUGE
        self.metric: Any = None
        with suppress(pb_utils.TritonModelException):
            self.family = pb_utils.MetricFamily(name=name, description=description, kind=kind)
            self.metric = self.family.Metric(labels={"model": args["model_name"], "version": args["model_version"]})

    def add(self, value: float) -> None:
        """Adds to it; to what is no counter, at most once."""
        if self.metric is not None:
            self.metric.increment(value)
