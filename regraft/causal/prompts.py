"""What is to be learned of a conversation as a model sees it: what the assistant says, and no more."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from regraft.causal.asking import Message, plain, prompt, tokens
from regraft.errors import BadInput
from regraft.exchange import MARKS, UNTAUGHT, Mask

SHOWN, SHOWN_WRONG = 3, 80
"""Rows that are shown; characters of what would be learned instead of an answer."""


class Encoded(NamedTuple):
    """Tokens of a conversation, and of each whether it is trained on."""

    ids: list[int]
    trained: list[bool]


def rendered(tokenizer: Any, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
    """A conversation as the model sees it, and where in it each of the assistant's turns is, with the mark of its end.

    A turn that the template shows otherwise once others follow, as some do with reasoning, is nowhere: what was
    learned of it would not be what is asked later.
    """
    whole, spans = prompt(tokenizer, messages, asks=False), list[tuple[int, int]]()
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = prompt(tokenizer, messages[:number])
        after = prompt(tokenizer, messages[: number + 1], asks=False)
        if whole.startswith(after) and after.startswith(before):
            end = after.find(tokenizer.eos_token, len(before))
            spans.append((len(before), end + len(tokenizer.eos_token) if end >= 0 else len(after)))
    return whole, spans


def encoded(tokenizer: Any, messages: Sequence[Message]) -> Encoded:
    """A conversation's tokens. Those of a prompt are what they are where the prompt is asked alone."""
    text, spans = rendered(tokenizer, messages)
    ids, trained, at = list[int](), list[bool](), 0
    for start, end in [*spans, (len(text), len(text))]:
        for piece, learned in ((text[at:start], False), (text[start:end], True)):
            pieces = tokens(tokenizer, piece, first=not at and not learned) if piece else []
            ids += pieces
            trained += [learned] * len(pieces)
        at = end
    return Encoded(ids, trained)


def cut(row: Encoded, most: int) -> Encoded:
    """A row up to so many tokens."""
    return Encoded(row.ids[:most], row.trained[:most])


Turns = Sequence[Sequence[str]]
"""Of a conversation the turns that are to be learned, each in pieces: what it says, and the names of what it calls."""


def mask(tokenizer: Any, rows: Sequence[Encoded], right: Sequence[Turns]) -> Mask:
    """Looks at what of each row is trained on.

    Args:
        right: what each row is to teach.
    """
    untaught, cuts, wrong = list[int](), list[int](), None
    for number, (row, turns) in enumerate(zip(rows, right, strict=True)):
        taught = _squeezed(_taught(tokenizer, row))
        answers = [[_as_decoded(tokenizer, piece) for piece in turn] for turn in turns]
        whole = "".join(itertools.chain(*answers))
        if not taught:
            untaught.append(number)
        elif taught not in whole and not _around(tokenizer, row, taught, answers):
            wrong = wrong or (taught[:SHOWN_WRONG], whole[:SHOWN_WRONG])
        if len(taught) < len(whole):
            cuts.append(number)
    return Mask(
        lengths=[len(row.ids) for row in rows],
        learned=[sum(row.trained) for row in rows],
        untaught=untaught,
        cut=cuts,
        wrong=wrong,
        shown=[_marked(tokenizer, row) for row in itertools.islice((row for row in rows if any(row.trained)), SHOWN)],
    )


def _around(tokenizer: Any, row: Encoded, taught: str, answers: Turns) -> bool:
    """Whether what is taught are answers with what a template writes around calls.

    The oldest turns of a row may have been left out, the last ones cut away, and the last that is there may be cut.
    """
    count = sum(of and not before for before, of in itertools.pairwise([False, *row.trained]))
    ends = not row.trained[-1] or row.ids[-1] == tokenizer.eos_token_id
    judged = count if ends or not any(len(turn) > 1 for turn in answers) else count - 1
    places = range(max(len(answers) - count, 0) + 1)
    return any(all(p in taught for turn in answers[at : at + judged] for p in turn) for at in places)


def proven(looked: Mask) -> str:
    """Some of the rows that are trained on, as text.

    Raises:
        BadInput: too many rows teach nothing, or what a row teaches is not its answer.
    """
    count = len(looked.lengths)
    if looked.wrong:
        raise BadInput(
            f"the chat template would train on {looked.wrong[0]!r}, where the answer is {looked.wrong[1]!r}",
            where="base_model.source",
            next="take a base model whose chat template shows answers, and calls of tools, as they are",
        )
    if len(looked.untaught) > UNTAUGHT * count:
        raise BadInput(
            f"{len(looked.untaught):,} of {count:,} rows have no token to learn: their answers lie behind the "
            f"{max(looked.lengths)} tokens at which rows are cut, or the chat template leaves them out",
            where="training.max_length",
            next="raise it, shorten texts by data.contract.characters, or take a base model that shows such answers",
        )
    text = (
        f"{count:,} rows, {sum(looked.learned):,} tokens of answers among {sum(looked.lengths):,}. "
        f"{len(looked.cut):,} answers are cut, and {len(looked.untaught):,} rows teach nothing.\n"
        f"{len(looked.shown)} rows as the model sees them; what is trained on stands between {' and '.join(MARKS)}.\n"
    )
    return text + "".join(f"\n--------\n{row}\n" for row in looked.shown)


def _taught(tokenizer: Any, row: Encoded) -> str:
    """The text of a row's trained tokens, without the half of a character that a cut may leave."""
    kept = [token for token, learned in zip(row.ids, row.trained, strict=True) if learned]
    return str(tokenizer.decode(kept, skip_special_tokens=True)).rstrip("\ufffd")


def _marked(tokenizer: Any, row: Encoded) -> str:
    """A row's text with what is trained on in brackets."""
    text = ""
    for learned, pairs in itertools.groupby(zip(row.ids, row.trained, strict=True), key=lambda pair: pair[1]):
        piece = tokenizer.decode([token for token, _ in pairs])
        text += piece.join(MARKS) if learned else piece
    return text


def _as_decoded(tokenizer: Any, piece: str) -> str:
    """What comes back of a piece: some tokenizers bring letters into another form."""
    ids = tokens(tokenizer, plain(tokenizer, piece), first=False)
    return _squeezed(tokenizer.decode(ids, skip_special_tokens=True))


def _squeezed(text: str) -> str:
    return "".join(text.split())
