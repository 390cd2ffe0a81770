"""How Triton serves language models: what its program makes of tokens, and how near answers are to those offline."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest

import regraft
from components.deploy import export, golden, trial
from components.deploy.replica import NotServed
from regraft import causal, recipe, tasks
from regraft.causal import Causal, answering, asking, served
from regraft.causal.conversations import unanswered, written
from regraft.closure import imported
from regraft.store import Store
from tests import champions, llamas
from tests.worlds import of


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llamas.base(tmp_path_factory.mktemp("llama"))


def declared(task: str, base: Path, more: str = "") -> Any:
    return recipe.parse(of(task).RECIPE.format(data="nowhere", base=base, epochs=1, more=more))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program that Triton runs, as far as it goes without Triton."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", ModuleType("triton_python_backend_utils"))
    spec = importlib.util.spec_from_file_location("engine", Path(regraft.__file__).parent / "serving/engine.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pieces_of_any_tokens_make_the_text_of_all_and_none_ends_in_half_a_character(
    engine: ModuleType, base: Path
) -> None:
    tokenizer = causal.tokenizer(str(base))
    chance = random.Random(7)
    anything = [[chance.randrange(len(tokenizer)) for _ in range(40)] for _ in range(50)]
    words = ["  good  story ", "ein Bär — 🐻🐻 und é", "a\n\n b \n", ""]
    for tokens in [*anything, *(tokenizer(text, add_special_tokens=False)["input_ids"] for text in words)]:
        talk = engine.Talk(None, [], 40, stream=True)
        until = range(1, len(tokens) + 1)
        pieces = [talk.piece(asking.text(tokenizer, tokens[:end]), last=False) for end in until]
        assert not any(piece.endswith("\ufffd") for piece in pieces)
        assert "".join([*pieces, talk.piece(asking.text(tokenizer, tokens), last=True)]) == asking.text(
            tokenizer, tokens
        )
    assert "🐻" in "".join(pieces) or any("🐻" in word for word in words)


def test_an_engine_that_breaks_down_says_so_to_each_request_and_starts_anew(
    engine: ModuleType, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = causal.for_training(declared("chat", base), tmp_path)
    own = served.build(Causal(model.eval(), tokenizer, 96, 12), tmp_path, asks="messages")
    batching = engine.Batching(tmp_path, {**own, "threads": 1, "max_batch_size": 2})

    def said() -> Any:
        while (one := batching.next(0.2)) is None:
            pass
        return one

    def breaks(*arguments: Any, **more: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(batching.model, "forward", breaks)
        assert batching.submit("first", [3, 4, 5], 4, stream=False)
        assert (said().request, batching.submit("late", [3, 4, 5], 4, stream=False)) == ("first", False)
        with pytest.raises(engine.Died, match="out of memory"):
            said()
    assert batching.submit("second", [3, 4, 5], 4, stream=False)
    answered = said()
    assert (answered.request, answered.error, len(answered.tokens)) == ("second", None, 4)
    batching.stop()


def test_what_lies_beside_the_program_imports_nothing_that_does_not() -> None:
    root, copied = Path(regraft.__file__).parent, {"regraft", "regraft.causal"}
    copied |= {f"regraft.{name.removesuffix('.py').replace('/', '.')}" for name in served.COPIED}
    for name in served.COPIED:
        modules = {module for module in imported((root / name).read_bytes()) if (root.parent / _file(module)).exists()}
        assert modules <= copied, name


def _file(module: str) -> str:
    return f"{module.replace('.', '/')}.py"


USER, SAID = {"role": "user", "content": "good"}, {"role": "assistant", "content": "bad"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "find", "arguments": "{}"}}]}
FOUND, FIND = {"role": "tool", "content": "a film"}, [{"function": {"name": "find"}}]


@pytest.mark.parametrize("talk", [[USER], [USER, SAID, USER], [USER, CALL, FOUND], [{**USER, "role": "system"}, USER]])
def test_a_conversation_is_answered_where_the_assistants_turn_comes_next(talk: list[Any]) -> None:
    turns, problem = unanswered(json.dumps(talk), None)
    assert (problem, [turn["role"] for turn in turns]) == (None, [turn["role"] for turn in talk])


def test_the_tools_of_a_conversation_stand_before_it_as_in_rows() -> None:
    turns, problem = unanswered(json.dumps([USER]), json.dumps(FIND))
    assert (problem, turns) == (None, [{"role": "tools", "content": written(FIND)}, USER])


@pytest.mark.parametrize(
    ("messages", "tools", "why"),
    [
        (None, None, "no messages"),
        ("null", None, "no messages"),
        ("{}", None, "damaged messages"),
        (json.dumps([{"role": "user", "content": [{"type": "text"}]}]), None, "damaged messages"),
        (json.dumps([USER, SAID]), None, "turns out of order"),
        (json.dumps([USER, USER]), None, "turns out of order"),
        (json.dumps([USER, CALL]), None, "call without a result"),
        (json.dumps([USER]), "{", "damaged tools"),
        (json.dumps([USER, CALL, FOUND]), json.dumps([{"function": {"name": "other"}}]), "call of a tool that is not"),
    ],
)
def test_what_is_no_such_conversation_is_named_as_in_rows(messages: str | None, tools: str | None, why: str) -> None:
    turns, problem = unanswered(messages, tools)
    assert turns == []
    assert (problem or "").startswith(why)


def test_a_base_model_that_punishes_repetition_answers_greedily_all_the_same(base: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(base, tmp_path / "other")
    config = tmp_path / "other/generation_config.json"
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "repetition_penalty": 5.0, "no_repeat_ngram_size": 2})
    )
    said = []
    for place in (base, tmp_path / "other"):
        model, tokenizer = causal.for_training(declared("summarization", place), tmp_path)
        told = Causal(model.eval(), tokenizer, 64, 24)
        said.append([answer.text for answer in answering.generated(told, [tokenizer("the film was")["input_ids"]])])
    assert said[0] == said[1]


def answers(*texts: str) -> served.Served:
    return served.Served([*texts], [len(text.split()) for text in texts], [True] * len(texts))


def test_answers_differ_by_the_share_of_them_that_is_not_the_same(base: Path) -> None:
    chat = declared("chat", base)
    offline = served.numbers(answers("good story", "bad plot", "good", "bad"))
    assert served.distance(offline, offline) == 0
    assert served.distance(served.numbers(answers("good story", "bad plot", "good", "bad.")), offline) == 0.25
    assert served.flaw(chat, answers("a", "b", "c", "d"), offline) is None
    assert "3 answers to 4 rows" in str(served.flaw(chat, answers("a", "b", "c"), offline))
    assert "has 13 tokens, of 12 at most" in str(served.flaw(chat, answers("a", "b", "c", "d " * 13), offline))


def test_answers_that_are_others_than_offline_are_refused_with_their_share(base: Path) -> None:
    rows = pa.table({"text": [written([USER])] * 4, "answer": [written(SAID)] * 4})
    offline = golden.Golden(rows=rows, answers=served.numbers(answers("a", "b", "c", "d")))
    with pytest.raises(NotServed, match=r"text of answers, as a share of them, differs by 0\.2500 from the offline"):
        trial._within_parity(declared("chat", base), offline, answers("a", "b", "c", "e"))


def test_served_answers_are_judged_by_what_they_say_where_the_gate_asks_how_probable_references_are(base: Path) -> None:
    chat = declared("chat", base)
    assert (chat.gates.metric, tasks.heard_by(chat)) == ("likelihood", "chrf")
    rows = pa.table({"text": [written([USER])] * 200, "answer": [written({**SAID, "content": "bad plot"})] * 200})
    right = answers(*["bad plot"] * 200)
    offline = golden.Golden(rows=rows, answers=served.numbers(right))
    trial._loses_nothing(chat, offline, right)
    with pytest.raises(NotServed, match=r"it loses 0\.\d+ of chrf"):
        trial._loses_nothing(chat, offline, answers(*["bad plot"] * 150, *["awful"] * 50))


@pytest.mark.parametrize("task", ["chat", "summarization"])
def test_a_model_that_streams_is_decoupled_and_has_no_batches_of_triton(task: str, base: Path) -> None:
    text = export.config(declared(task, base), [1, 2])
    assert "max_batch_size: 0\n" in text
    assert "model_transaction_policy { decoupled: true }\n" in text
    assert "dynamic_batching" not in text
    assert export.precisions(declared(task, base)) == ("fp32",)


def test_of_a_holdout_that_takes_long_a_random_part_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = champions.load_recipe(champions.recipe_file(tmp_path, champions.base(tmp_path / "base")))
    store = Store(str(tmp_path / "store"), recipe.name)
    entry = champions.promote(store, recipe, tmp_path, 1)
    files = tmp_path / "promote-1/finetune"
    model = tasks.of(recipe.task).load(recipe, files, tmp_path / "again")
    monkeypatch.setattr(golden, "SECONDS", 0.0)
    asked = golden.of(store=store, recipe=recipe, entry=entry, model=lambda: model, folder=tmp_path / "holdout")
    assert asked.rows.num_rows == asked.answers.num_rows == golden.FIRST < len(champions.TEXTS)


def test_single_requests_that_take_long_end_when_it_is_known_how_long(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pa.table({"text": ["x"] * 50, "answer": ["y"] * 50})
    offline = golden.Golden(rows=rows, answers=served.numbers(answers(*["a"] * 50)))
    monkeypatch.setattr(trial, "ALONE_SECONDS", 0.0)
    said, seconds = trial._one_by_one(lambda rows: (answers("a"), 1), declared("chat", base), 1, offline)
    assert (said.texts, len(seconds)) == (["a"], 1)
