"""What a text is made of, for a whole batch at once: its words, its damage, its near-duplicate bands.

Arrow and numpy work on the bytes of all texts together; a loop over rows in Python would cost minutes a million rows.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from typing import Any, NamedTuple

from regraft.exchange import MARKS
from regraft.rows import buffers, changed, not_ascii, texts_of

BANDS, PER_BAND = 16, 7
"""Two texts whose word pairs overlap by a Jaccard index of 0.8 share a band in 97 of 100 cases, by 0.9 in all but 1 of
1000, by 0.5 in 12 of 100, by 0.3 in 3 of 1000, by 0.1 in 2 of a million: 1 - (1 - j^7)^16 (Leskovec, Rajaraman,
Ullman, Mining of Massive Datasets, 3.4). It has to be that steep: a million rows are compared with one another."""
_MIX = 0x9E3779B97F4A7C15
_HASHES = BANDS // 2 * PER_BAND
_MULTIPLIERS = [int.from_bytes(hashlib.sha256(b"%d" % i).digest()[:8], "big") | 1 for i in range(_HASHES)]
_BANDS = [range(PER_BAND * k, PER_BAND * (k + 1)) for k in range(BANDS // 2)]
_BANDS += [range(k, _HASHES, BANDS // 2) for k in range(BANDS // 2)]
"""Each hash serves two bands, as cells of a grid serve a row and a column: any two bands have at most one in common."""
_LETTERS = bytes(
    ord("0") if bytes([byte]).isdigit() else byte if bytes([byte]).isalpha() or byte >= 128 else ord(" ")
    for byte in range(256)
).lower()
"""What each byte of a text stands for in its words."""
CACHED = 16_384
"""Pairs of words that are hashed at a time: with what is made of them they fit the processor's nearest large cache."""
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
"""Scripts that put no space between words: there each character counts as a word."""
_DAMAGE = (
    r"\x{FFFD}|[\x{80}-\x{9F}]|[\x{C2}\x{C3}\x{D0}\x{D1}][\x{80}-\x{BF}]"
    r"|\x{E2}\x{20AC}[\x{80}-\x{24F}\x{2010}-\x{2122}]"
)
"""The replacement character, UTF-8 that was read as Latin-1 or Windows-1252 (Ã©, â€™), and C1 control characters."""
_SUSPECT = r"@|[0-9][0-9 ().:/-]{5,}[0-9]"
PII = {
    "e-mail": re.compile(r"[\w.%+-]@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2}"),
    "card": re.compile(r"(?<!\d)(?:\d[ -]?){12,18}\d(?!\d)"),
    "iban": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
    "ip": re.compile(r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.])"),
    "phone": re.compile(r"\+\d[\d ().-]{7,16}\d|\(\d{3}\) ?\d{3}-\d{4}|(?<!\d)\d{3}[-.]\d{3}[-.]\d{4}(?!\d)"),
    "ssn": re.compile(r"(?<!\d)\d{3}-\d{2}-\d{4}(?!\d)"),
}
"""Linear in the text: what an expression may try from one place is bounded, or ends before the next `@`, which is where
it begins. So an address is known by the last character of its name; the name itself may be as long as the text."""
REACH = 400
"""Characters beyond a cut in which personal data that begins before it is still known: an address has 320 at most."""
AROUND, INSIDE = 120, 480
"""Characters that are shown around a part of a text that is marked, and of it."""
_OF_A_NAME = re.compile(r"[\w.%+-]")


class Words(NamedTuple):
    """The words of texts: lower case, letters and each digit as 0, nothing else; a text without any is its own words.

    Attributes:
        spelled: the words of each text with a space between.
        offsets: the first word of each text, and the end; shape (texts + 1,).
        coded: all words, one text after the other, as a dictionary array.
        hashed: a hash of each of them, uint64.
    """

    spelled: Any
    offsets: Any
    coded: Any
    hashed: Any

    def counts(self) -> tuple[Any, Any]:
        """The words that occur, and how often each does."""
        import numpy as np

        return self.coded.dictionary, np.bincount(self.coded.indices.to_numpy(), minlength=len(self.coded.dictionary))


def words(text: Any) -> Words:
    """The words of tidy texts, none of them empty."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    def plain(other: Any) -> Any:
        other = pc.replace_substring_regex(pc.utf8_lower(other), r"[^\p{L}\p{M}\p{N}]+", " ")
        other = pc.replace_substring_regex(other, r"\p{N}", "0")
        return pc.replace_substring_regex(other, f"({_UNSPACED})", r" \1 ")

    whole, text = text, changed(not_ascii, text, plain)
    offsets, content = buffers(text)
    letters = pa.py_buffer(content.tobytes().translate(_LETTERS))
    clean = pc.ascii_trim_whitespace(pa.StringArray.from_buffers(len(text), pa.py_buffer(offsets), letters))
    lists = pc.ascii_split_whitespace(pc.if_else(pc.equal(clean, ""), whole, clean))
    coded = lists.values.dictionary_encode()
    hashes = pd.util.hash_array(coded.dictionary.to_numpy(zero_copy_only=False), categorize=False)
    return Words(pc.binary_join(lists, " "), lists.offsets.to_numpy(), coded, hashes[coded.indices.to_numpy()])


def damaged(text: Any) -> Any:
    """Which texts show damage of their encoding, or hold control characters."""
    import numpy as np
    import pyarrow.compute as pc

    offsets, content = buffers(text)
    controls = np.flatnonzero((content < 32) & (content != 9) & (content != 10) & (content != 13) | (content == 127))
    mask = np.zeros(len(text), dtype=bool)
    mask[texts_of(controls, offsets)] = True
    others = np.flatnonzero(not_ascii(text))
    hits = pc.match_substring_regex(text.take(others), _DAMAGE).to_numpy(zero_copy_only=False)
    mask[others[hits]] = True
    return mask


def personal(text: Any) -> dict[str, int]:
    """How many texts hold what looks like personal data, by kind; under `any` those with at least one."""
    import pyarrow.compute as pc

    counts = dict.fromkeys((*PII, "any"), 0)
    for value in text.filter(pc.match_substring_regex(text, _SUSPECT)).to_pylist():
        kinds = [kind for kind, pattern in PII.items() if any(_valid(kind, m[0]) for m in pattern.finditer(value))]
        for kind in (*kinds, "any") if kinds else ():
            counts[kind] += 1
    return counts


def _places(text: str) -> list[tuple[int, int, str]]:
    """Where something looks like personal data, and its kind, in order."""
    found = []
    for kind, pattern in PII.items():
        found += [(*_whole(kind, text, m.span()), kind) for m in pattern.finditer(text) if _valid(kind, m[0])]
    return sorted(found)


def masked(text: str, length: int) -> str:
    """The first characters of a text on one line, with the kind of what looks like personal data in its place."""
    head = text[: length + REACH]
    shown, at = "", 0
    for start, end, kind in _places(head):
        if at <= start < length:
            shown += f"{head[at:start]}[{kind}]"
        at = max(at, end) if start < length else at
    shown += head[at:length]
    return " ".join(shown.split()) + "…" * (len(text) > max(at, length))


def marked(text: str, start: int, end: int) -> str:
    """What surrounds a part of a text on one line, the part between MARKS; personal data as `masked` has it.

    Neither the marks nor the ends of what is shown fall into something that looks like personal data.
    """
    first = max(0, start - AROUND - REACH)
    text, start, end = text[first : end + AROUND + REACH], start - first, end - first
    cuts = [max(0, start - AROUND), start, end, min(len(text), end + AROUND)]
    for a, b, _ in _places(text):
        cuts = [(a if number < 2 else b) if a < cut < b else cut for number, cut in enumerate(cuts)]
    before, part, after = (text[a:b] for a, b in itertools.pairwise(cuts))
    shown = f"{masked(before, len(before))} {masked(part, INSIDE).join(MARKS)} {masked(after, len(after))}".strip()
    return f"{'…' * (cuts[0] + first > 0)}{shown}{'…' * (cuts[3] < len(text))}"


def _whole(kind: str, text: str, span: tuple[int, int]) -> tuple[int, int]:
    """Where personal data is, of which `PII` may know a part."""
    start, end = span
    if kind == "e-mail":
        while start and _OF_A_NAME.match(text, start - 1):
            start -= 1
        while end < len(text) and _OF_A_NAME.match(text, end) and text[end] not in ".%+":
            end += 1
    return start, end


def _valid(kind: str, value: str) -> bool:
    """Card numbers must pass the Luhn check, IBANs the check of ISO 13616, so that plain numbers do not count."""
    if kind == "card":
        digits = [int(d) for d in reversed(value) if d.isdigit()]
        return sum(d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(digits)) % 10 == 0
    if kind == "iban":
        plain = value.replace(" ", "")
        return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1
    return True


def chances(strings: Any) -> Any:
    """A number from 0 to 1 for each string, which depends on nothing else: the first 52 bits of its SHA-256."""
    import numpy as np

    offsets, content = buffers(strings)
    view, edges = memoryview(content), offsets.tolist()
    sha = hashlib.sha256
    heads = b"".join([sha(view[a:b]).digest()[:8] for a, b in itertools.pairwise(edges)])
    return (np.frombuffer(heads, dtype=">u8") >> np.uint64(12)).astype(np.float64) / 2**52


def bands(words: Words) -> Any:
    """Keys of near-duplicates, shape (texts, BANDS), uint64: MinHash over the pairs of neighbouring words.

    Texts that agree in one column are near-duplicates. Every text has a word at least.
    """
    import numpy as np

    offsets, hashed = words.offsets, words.hashed
    texts = len(offsets) - 1
    out = np.zeros((texts, BANDS), dtype=np.uint64)
    if not texts:
        return out
    before = np.empty_like(hashed)
    before[1:] = hashed[:-1]
    before[offsets[:-1]] = _MIX
    pairs = (hashed ^ (before * np.uint64(_MIX))) * np.uint64(0xD6E8FEB86659FD93)
    pairs ^= pairs >> np.uint64(32)
    # A few texts at a time, so that what is read once for each hash stays in the processor's cache.
    edges = np.unique(np.append(np.searchsorted(offsets, np.arange(0, len(pairs), CACHED)), texts))
    for first, last in itertools.pairwise(edges):
        out[first:last] = _keys(pairs[offsets[first] : offsets[last]], offsets[first:last] - offsets[first])
    return out


def _keys(pairs: Any, starts: Any) -> Any:
    """Keys of texts whose hashed pairs of words begin at `starts`."""
    import numpy as np

    lowest = np.empty((len(_MULTIPLIERS), len(starts)), dtype=np.uint64)
    scratch = np.empty_like(pairs)
    for number, multiplier in enumerate(_MULTIPLIERS):
        np.multiply(pairs, np.uint64(multiplier), out=scratch)
        np.minimum.reduceat(scratch, starts, out=lowest[number])
    out = np.zeros((BANDS, len(starts)), dtype=np.uint64)
    for band, numbers in enumerate(_BANDS):
        for number in numbers:
            out[band] = (out[band] ^ lowest[number]) * np.uint64(_MIX)
    return out.T
