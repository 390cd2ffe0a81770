"""Whatever a row of a language task holds, it is taken or set aside with its reason; what is taken can be learned."""

from __future__ import annotations

import csv
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.validate import freeze, rows
from components.validate.quarantine import Quarantine
from regraft import reading, recipe, tasks
from regraft.causal import Causal
from regraft.errors import BadInput
from tests import champions, llamas
from tests.worlds import of

FEW = settings(deadline=None, suppress_health_check=list(HealthCheck))
COMMON = {"malformed line", "no text", "invalid UTF-8", "too short", "too long", "encoding damage", "duplicate"}

PLAIN = st.lists(st.sampled_from(champions.WORDS), min_size=2, max_size=9).map(" ".join)
ODD_TEXTS = st.sampled_from(
    [
        *("", " ", "\n\t", "\0", "\x1b[0m", "\x7f", "\ud800", "a\ud800b", "\udfff\ud800", "caf\ufffd", "Ã©", "\ufeffx"),
        *("<|im_start|>", "<|im_end|>", "bad<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>", "<|endoftext|>" * 3),
        *("<|im_<|im_end|>end|>", "{{ 7 * 7 }}", "{% raw %}", "{text}", "[1, 2]", '[{"role": "user"}]', '{"a": 1}'),
        *("null", "NaN", "[ ]", "\u200b", "\u2028", "\u0301" * 40, "\U0001f44d\u200d", "مرحبا", "漢字", "-", "5 | 3 %"),
        *("9" * 5000, "the plot " * 300, "x" * 3000, "$\\frac", "<b>&amp;"),
    ]
)
TEXTS = st.one_of(*[PLAIN] * 8, ODD_TEXTS, st.text(max_size=12))
"""What is said: most of it is."""
DEEP = st.sampled_from([9, 90, 300, 900, 950, 970, 980, 985, 990, 995, 5000]).map(lambda depth: f"@{depth}@")
"""A place in JSON of something nested so deep; see `written`."""
ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 99)
    | st.sampled_from([10**30, -(10**400), 1e308, 0.5, float("nan"), float("-inf")])
    | ODD_TEXTS
    | DEEP,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "name", "arguments", "function", "\ud800", ""]), inner)
    ),
    max_leaves=5,
)
ARGUMENTS = st.sampled_from(["{}", "{", '{"q": 1}', "", '{"q": "x<|im_end|>"}', {"q": 1}, {"q": "<|im_end|>"}])
CALL = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": st.just("find")}, optional={"arguments": ARGUMENTS | ODD})},
    optional={"id": st.just("1") | ODD, "type": st.just("function")},
)
ROLES = st.sampled_from(["system", "user", "assistant", "tool", "human", "gpt", "function", "owner", "", "\ud800"])
PARTS = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}), max_size=2)
ODDITIES = {
    "role": ROLES | ODD,
    "from": ROLES,
    "content": TEXTS | ODD | PARTS,
    "value": TEXTS | ODD,
    "tool_calls": st.lists(CALL | ODD, max_size=2) | ODD,
    "tool_call_id": st.just("1") | ODD,
    "name": TEXTS | ODD,
    "weight": ODD,
}
TURNS = st.fixed_dictionaries({}, optional=ODDITIES) | ODD
"""Turns that may be anything."""


def turn(role: str, **more: Any) -> Any:
    return st.fixed_dictionaries({"role": st.just(role), "content": TEXTS, **more})


CALLING = turn("assistant", tool_calls=st.lists(CALL, min_size=1, max_size=2))
SOUND = st.lists(
    st.one_of(
        *[st.tuples(turn("user"), turn("assistant"))] * 2,
        st.tuples(turn("user"), CALLING, turn("tool"), turn("assistant")),
    ),
    min_size=1,
    max_size=3,
).map(lambda parts: [one for part in parts for one in part])

ONE_KEY = st.sampled_from(sorted(ODDITIES)).flatmap(lambda key: st.fixed_dictionaries({key: ODDITIES[key]}))
Talk = list[Any]
DAMAGES: dict[str, Callable[[Talk, int, Any], Any]] = {
    "a turn more": lambda talk, at, draw: [*talk[:at], draw(TURNS), *talk[at:]],
    "another turn": lambda talk, at, draw: [*talk[:at], draw(TURNS), *talk[at + 1 :]],
    "another value": lambda talk, at, draw: [*talk[:at], {**talk[at], **draw(ONE_KEY)}, *talk[at + 1 :]],
    "a turn is missing": lambda talk, at, draw: talk[:at] + talk[at + 1 :],
    "a turn twice": lambda talk, at, draw: talk[: at + 1] + talk[at:],
    "a call as the last turn": lambda talk, at, draw: [*talk[:-1], draw(CALLING)],
    "two words of the system": lambda talk, at, draw: [draw(turn("system")), draw(turn("system")), *talk],
    "backwards": lambda talk, at, draw: talk[::-1],
    "nothing": lambda talk, at, draw: [],
    "no conversation": lambda talk, at, draw: draw(ODD),
}


@st.composite
def talks(draw: Any) -> Any:
    """Conversations with one thing wrong with them at most, beside what is said."""
    talk = draw(SOUND)
    if draw(st.booleans()):
        talk = [draw(turn("system")), *talk]
    damage = draw(st.sampled_from(["none"] * 8 + list(DAMAGES)))
    if damage in DAMAGES:
        talk = DAMAGES[damage](talk, draw(st.integers(0, len(talk) - 1)), draw)
    if draw(st.booleans()) and isinstance(talk, list):
        names = {"role": "from", "content": "value"}
        talk = [{names.get(k, k): v for k, v in one.items()} if isinstance(one, dict) else one for one in talk]
    return talk


def written(value: Any) -> str:
    """JSON with what is nested deep in its places."""
    return re.sub(r'"@(\d+)@"', lambda found: "[" * int(found[1]) + "]" * int(found[1]), json.dumps(value))


@st.composite
def pairs(draw: Any) -> Any:
    """Rows of preferences: texts, messages, or the whole conversation with each answer."""
    talk = draw(talks())
    before, last = (talk[:-1], talk[-1:]) if isinstance(talk, list) else (talk, talk)
    answers = [draw(st.sampled_from([last, draw(TEXTS), [draw(turn("assistant"))], draw(ODD)])) for _ in range(2)]
    if draw(st.booleans()) and isinstance(before, list):
        answers = [before + answer if isinstance(answer, list) else answer for answer in answers]
    prompt = draw(st.sampled_from([before, before, draw(TEXTS), draw(ODD)]))
    return dict(zip(("prompt", "chosen", "rejected"), (prompt, *answers), strict=True))


def in_json(row: Any) -> Any:
    return {key: value if isinstance(value, str) else written(value) for key, value in row.items()}


def columns(*names: str) -> Any:
    return st.fixed_dictionaries({name: st.one_of(*[TEXTS] * 6, ODD) for name in names})


def is_list(value: Any) -> bool:
    return isinstance(value, list)


TOOL = st.fixed_dictionaries(
    {"type": st.just("function"), "function": st.fixed_dictionaries({"name": st.just("find")}, optional={"a": ODD})}
)
TOOLS = st.one_of(*[st.lists(TOOL, max_size=2)] * 4, st.lists(TOOL | ODD, max_size=2), ODD)
MESSAGES = st.fixed_dictionaries({"messages": talks()})
FORMS: dict[str, tuple[str, str, Any]] = {
    "messages": ("chat", "data.jsonl", MESSAGES),
    "messages as JSON": ("chat", "data.jsonl", MESSAGES.map(in_json)),
    "messages in CSV": ("chat", "data.csv", MESSAGES.map(in_json)),
    "messages in Parquet": ("chat", "data.parquet", st.fixed_dictionaries({"messages": talks().filter(is_list)})),
    "messages and tools": ("chat", "data.jsonl", st.fixed_dictionaries({"messages": talks(), "tools": TOOLS})),
    "prompt and completion": ("chat", "data.jsonl", columns("prompt", "completion")),
    "pairs": ("preferences", "data.jsonl", pairs()),
    "pairs as JSON": ("preferences", "data.jsonl", pairs().map(in_json)),
    "pairs in Parquet": ("preferences", "data.parquet", pairs().map(in_json)),
    "summaries": ("summarization", "data.jsonl", columns("text", "summary")),
    "documents": ("pretraining", "data.jsonl", columns("text")),
}
"""The task, the file, and its rows."""


def put(path: Path, made: list[Any]) -> None:
    """Writes rows to a file of its format; what Parquet has no type for becomes null there."""
    if path.suffix == ".jsonl":
        path.write_text("".join(written(row) + "\n" for row in made))
    elif path.suffix == ".csv":
        with path.open("w", newline="", errors="replace") as file:
            writer = csv.DictWriter(file, sorted(made[0]))
            writer.writeheader()
            writer.writerows(made)
    else:
        pq.write_table(pa.Table.from_pylist([{key: typed(value) for key, value in row.items()} for row in made]), path)


def typed(value: Any) -> Any:
    """A conversation of turns that have one type, or a text."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    call = {"function": {"name": "find", "arguments": "{}"}}
    keys = ("role", "from", "content", "value", "name")
    turns = [
        {
            **{key: typed(one[key]) if isinstance(one.get(key), str) else None for key in keys},
            "tool_calls": [call] if one.get("tool_calls") else None,
        }
        for one in (value if isinstance(value, list) else ())
        if isinstance(one, dict)
    ]
    return turns or None


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llamas.base(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def models(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Causal]:
    """A model by task."""
    return {
        task: model(task, base, tmp_path_factory.mktemp("model")) for task in {task for task, _, _ in FORMS.values()}
    }


COLUMNS = {
    "prompt and completion": "{prompt: prompt, completion: completion}",
    "messages and tools": "{messages: messages, tools: tools}",
}
CALLS_SHOWN = "{{ tools | tojson if tools else '' }}" + llamas.TEMPLATE.replace(
    "{{ message['content'] }}",
    "{{ message['content'] }}{{ message.tool_calls | tojson if message.tool_calls else '' }}",
)


def model(task: str, base: Path, folder: Path) -> Causal:
    said = declared(task, Path("nowhere"), base)
    adapted, tokenizer = tasks.of(task).for_training(said, folder)
    answer = said.generation.max_tokens if hasattr(said, "generation") else 0
    if tokenizer.chat_template:
        tokenizer.chat_template = CALLS_SHOWN
    told = {"summarization": getattr(said, "prompt", None)}.get(task)
    return Causal(adapted.eval(), tokenizer, said.training.max_length, answer, told)


def declared(task: str, source: Path, base: Path, *, form: str = "", characters: int = 10_000) -> Any:
    text = of(task).RECIPE.format(data=source, base=base, epochs=1, more="")
    text = text.replace("contract: {", f"contract: {{characters: {{max: {characters}}}, ")
    return recipe.parse(text.replace("{messages: messages}", COLUMNS.get(form, "{messages: messages}")))


def frozen(said: Any, folder: Path) -> tuple[Any, Counter[str]]:
    """All good rows, and how many are set aside for each reason, as validate has them."""
    task, data = tasks.of(said.task), said.data
    source = tasks.source(said.task, data, data.source)
    for name in ("buckets", "bands", "out"):
        (folder / name).mkdir()
    files = reading.files(source)
    buckets = freeze.Buckets(folder / "buckets", 1, task.ROWS.target)
    aside, read = Quarantine(folder / "out" / "quarantine.parquet"), 0
    for table, _ in reading.batches(source, files):
        good, bad, totals = rows.judge(said.task, table, data, None, None)
        buckets.add(good)
        aside.add(bad)
        read += totals.read
    kept = freeze.freeze(task, data, buckets, out=folder / "out", scratch=folder / "bands", quarantine=aside, sample=9)
    aside.close()
    assert sum(kept.rows.values()) + sum(aside.counts.values()) == read, "a row vanished"
    assert set(aside.counts) <= {*COMMON, *rows.NEAR, *task.ROWS.reasons}
    return pa.concat_tables([pq.read_table(folder / "out" / f"{name}.parquet") for name in rows.SPLITS]), aside.counts


def learned(said: Any, tokenizer: Any, table: Any) -> None:
    """What validate and finetune do with rows before one is trained on."""
    task = tasks.of(said.task)
    if hasattr(task, "mask"):
        looked = task.mask(said, tokenizer, table)
        sides = len(looked.learned) // table.num_rows
        assert len(looked.learned) == sides * table.num_rows
        assert max(looked.lengths) <= said.training.max_length
        assert looked.wrong is None
        teach = {number // sides for number, count in enumerate(looked.learned) if count}
        table = table.take(pa.array(teach - {number // sides for number in looked.untaught}, pa.int64()))
    if table.num_rows:
        lesson = task.lesson(said, tokenizer, table, table)
        assert 0 < max(lesson.lengths) <= said.training.max_length
        train = lesson.train(range(len(lesson.lengths)))
        if lesson.knowing is None:
            lesson.collator([train[number] for number in range(len(train))])


def drawn(form: str, folder: Path, base: Path, data: st.DataObject) -> Any:
    """A recipe of rows of a form."""
    task, name, made = FORMS[form]
    put(folder / name, data.draw(st.lists(made, min_size=1, max_size=9)))
    characters = data.draw(st.sampled_from([10_000, 10_000_000]))
    return declared(task, folder / name, base, form=form, characters=characters)


@settings(FEW, max_examples=20)
@given(st.data())
@pytest.mark.parametrize("form", FORMS)
def test_a_row_is_taken_or_set_aside_with_its_reason_and_what_is_taken_can_be_learned(
    form: str, base: Path, models: dict[str, Causal], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder, refusals_are_sentences():
        said = drawn(form, Path(folder), base, data)
        table, _ = frozen(said, Path(folder))
        if table.num_rows:
            learned(said, models[said.task].tokenizer, table)


@settings(FEW, max_examples=4)
@given(st.data())
@pytest.mark.parametrize("form", ["messages", "pairs", "summaries", "documents"])
def test_what_is_taken_is_answered_and_measured(
    form: str, base: Path, models: dict[str, Causal], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder, refusals_are_sentences():
        said = drawn(form, Path(folder), base, data)
        table, _ = frozen(said, Path(folder))
        task = tasks.of(said.task)
        answers = task.answers(models[said.task], table)
        assert answers.num_rows == table.num_rows
        assert task.broken(answers) == 0
        task.tally(said, table, answers)
        task.own(said, table, answers, answers)
        if table.num_rows:
            contest: Any = SimpleNamespace(rows=table, challenger=answers, champion=answers, base=None)
            task.examples(said, contest)
            task.predictions(said, contest)


LONG = "the plot " * 100_000
"""200,000 tokens."""


@pytest.mark.parametrize(
    ("form", "row", "reason"),
    [
        ("prompt and completion", {"prompt": LONG, "completion": "dull"}, "too long"),
        ("prompt and completion", {"prompt": "is it dull", "completion": LONG}, None),
        ("pairs", {"prompt": LONG, "chosen": "dull", "rejected": "good"}, "too long"),
        ("pairs", {"prompt": "is it dull", "chosen": "dull", "rejected": LONG}, None),
        ("summaries", {"text": LONG, "summary": "dull"}, "too long"),
        ("summaries", {"text": "is it dull", "summary": LONG}, None),
        ("documents", {"text": LONG}, "too long"),
    ],
)
def test_a_row_of_200_000_tokens_is_set_aside_or_cut(
    form: str, row: dict[str, str], reason: str | None, base: Path, models: dict[str, Causal], tmp_path: Path
) -> None:
    task, name, _ = FORMS[form]
    put(tmp_path / name, [row])
    said = declared(task, tmp_path / name, base, form=form)
    table, aside = frozen(said, tmp_path)
    assert aside == ({reason: 1} if reason else {})
    if reason is None:
        learned(said, models[task].tokenizer, table)


@contextmanager
def refusals_are_sentences() -> Iterator[None]:
    """What is raised is an error of ours, with its place and what to do."""
    said = None
    try:
        yield
    except BadInput as error:
        said = error
    if said is not None:
        str(said).encode()
        assert said.where
        assert said.next
