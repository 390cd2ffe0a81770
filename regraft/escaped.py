"""Text of rows and recipes where people or models read it: what each place takes for more than text, in this module.

A label, a slice, the name of a file or an error of a library may hold anything. HTML is left to jinja, as it is made.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, TextIO, cast

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""The Content-Security-Policy of pages with rows in them: no script, and nothing asked of any server. Pictures that
matplotlib makes of many cells are data within the page. `views.POLICY` is that of regraft's own pages."""

MARKDOWN = 1200
"""Characters of a text in Markdown: a sentence on many failed slices would leave no room for what else there is."""

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # terminals act on them
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # they turn the direction of what follows
    "\u200b\u2028\u2029\u2060-\u2064\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # nobody sees them
    "\ud800-\udfff]"  # no encoding takes them
)


def line(text: str) -> str:
    """A text on one line of letters that every terminal shows; all others, line ends too, as Python writes them."""
    return "".join(c if c.isprintable() else _written(c) for c in text)


def lines(text: str) -> str:
    """Whatever a program says: line ends, tabs and all scripts stay, what steers a terminal is as Python writes it."""
    return _STEERING.sub(lambda steering: _written(steering[0]), text)


class Stream:
    """A stream that takes texts through `said`, then `lines`."""

    def __init__(self, stream: Any, said: Callable[[str], str]) -> None:
        self._stream, self._said = stream, said

    def write(self, text: str) -> int:
        self._stream.write(lines(self._said(text)))
        return len(text)

    def writelines(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def stderr(said: Callable[[str], str] = str) -> None:
    """What this process says goes through `said`, then `lines`, whoever says it: also libraries, and the traceback of a
    bug."""
    sys.stderr = cast("TextIO", Stream(sys.stderr, said))


def slack(text: str) -> str:
    """Text for a Slack webhook, where `<!channel>` calls everybody and `<http://…|text>` is a link with other words."""
    return _as_entities(lines(text))


def markdown(text: str, length: int = MARKDOWN) -> str:
    """Any text as Markdown that shows it, cut to a length: no markup, no link, no cell of a table that ends early."""
    kept = length
    while len(written := _markdown(cut(text, kept))) > length:
        kept = kept * length // len(written)
    return written


def code(text: str) -> str:
    """Text as code in Markdown; as mere text where it would end the code or the cell of a table that it stands in."""
    return markdown(text) if re.search(r"[`|\\]", text) else f"`{lines(' '.join(text.split()))}`"


def cut(text: str, length: int) -> str:
    """A text on one line, of at most so many characters; an ellipsis says that there was more."""
    whole = " ".join(text.split())
    return whole if len(whole) <= length else whole[: length - 1].rstrip() + "…"


def _markdown(text: str) -> str:
    text = _as_entities(lines(text).replace("\\", "\\\\"))
    text = re.sub(r"[`*\[\]~|]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.|(?<!\S)@", r"\\\g<0>", text)
    return re.sub(r"^(\d*)(?=#+(?:\s|$)|[-+=](?:[\s=-]|$)|(?<=\d)[.)])", r"\1\\", text)  # a heading, a list, a line


def _as_entities(text: str) -> str:
    return re.sub(r"[&<>]", lambda letter: _ENTITIES[letter[0]], text)


def _written(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def marks(tokenizer: Any) -> str:
    """An expression for what a tokenizer takes for a mark of its own wherever it stands in a text, also for the marks
    that have no name; empty where it has none."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    every = {*filter(None, tokenizer.all_special_tokens), *special}
    return "|".join(map(re.escape, sorted(every, key=lambda mark: (-len(mark), mark))))
