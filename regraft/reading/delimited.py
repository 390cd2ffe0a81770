"""Reads CSV and TSV as a stream of tables, in which a malformed row is a row without values.

Rows are told apart here, not by Arrow, which parses what is sound: so each row of the file is either read or named. A
quote opens a value only at its beginning. What a row cannot say is malformed: more or fewer values than the header has
columns, or a quote that the row opens and does not close. Such a quote would take what follows, up to the next quote,
into its row; instead only its line is malformed, and the rows after it count. A quoted value of several lines is meant
where its closing quote ends the value, and where the lines by themselves do not look like rows. Whether they do, the
label tells, or another column whose values repeat; where none does, the number of values, unless a line reads like
prose. In a file of one column a line tells nothing: there a value is meant unless it spans more than LONG lines, none
of them blank or with a delimiter, among rows of one line. What is taken for meant is counted in Spans.
"""

from __future__ import annotations

import bisect
import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from regraft.errors import BadInput
from regraft.reading import lines
from regraft.reading.lines import FIRST_LINES, KEPT, LONG, LineCount, Malformed, Piece, Present, Spans, placed

CHUNK_BYTES = 4 << 20
"""Bytes that are read at once: a few fit into the processor's cache."""
HEAD_BYTES = 1 << 16
"""Bytes in which the header is sought first, and which tell how rows look."""
OPEN = "opens a quote and does not close it"
_QUOTE, _LF, _CR = b'"\n\r'
_LINE_END = re.compile(rb"\r\n|\r|\n")


@dataclass(frozen=True)
class Form:
    """How the rows of a file look.

    Attributes:
        delimiter: one byte.
        quoted: whether a value may stand in quotes.
        width: values of a row.
        tells: index of a column whose value shows what is a row, which is the label's where the file has it, or None.
        known: values of that column.
        flat: whether hardly a row spans several lines.
    """

    delimiter: bytes
    quoted: bool
    width: int = 0
    tells: int | None = None
    known: frozenset[bytes] = frozenset()
    flat: bool = False

    @cached_property
    def value(self) -> re.Pattern[bytes]:
        """A value: what stands in quotes, if it begins with one, and what stands outside."""
        rest = rb"[^\r\n" + re.escape(self.delimiter) + rb"]*+"
        return re.compile(rb'(?:("[^"]*+(?:""[^"]*+)*+")|(?!"))(' + rest + rb")")

    def is_row(self, line: bytes) -> bool:
        """Whether a line looks like a row by itself, its quotes taken for characters."""
        values = line.split(self.delimiter)
        if len(values) != self.width:
            return False
        if self.tells is None:
            return self.delimiter + b" " not in line  # as a comma in prose is followed by a space
        return values[self.tells].strip(b' "') in self.known


class _Rows(NamedTuple):
    """The rows of a block.

    Attributes:
        starts, stops: their first bytes, and those after their last.
        widths: how many values they have.
        open: whether they open a quote and do not close it.
        lines: how many lines they span.
        rest: where the row begins that the block does not hold whole.
    """

    starts: Any
    stops: Any
    widths: Any
    open: Any
    lines: Any
    rest: int


def pieces(
    file: Any, present: Present, form: Form, telling: str | None, known: frozenset[bytes], spans: Spans
) -> Iterator[Piece]:
    """The rows of a file with a header.

    Args:
        form: delimiter and quoting; the file tells the rest.
        telling: name of a column whose values are known; None where there is none.
        known: the values that count in it.
        spans: is told how many lines the rows span.

    Raises:
        BadInput: the header cannot be read, a row is longer than BLOCK_BYTES, or all first rows are malformed.
    """
    import numpy as np
    import pyarrow as pa

    head = file.read(HEAD_BYTES)
    file.seek(0)
    names, block, final = _header(file, form)
    columns = present(names)
    form = replace(form, width=len(names), tells=names.index(telling) if telling in columns else None)
    form = _learnt(head, form, known)
    first, sound_before, counted, seen = 1, False, 0, LineCount(block)
    while True:
        rows = _rows(block, form, final)
        counted += int(rows.lines.sum())
        rows = _filled(rows)
        count = len(rows.starts)
        sound = (rows.widths == form.width) & ~rows.open
        if not rows.rest and len(block) > lines.BLOCK_BYTES and not final:
            raise BadInput(f"has a line longer than {lines.BLOCK_BYTES >> 20} MiB: row {first}")
        if count:
            bad = [
                Malformed(
                    first + int(i),
                    block[rows.starts[i] : min(rows.stops[i], rows.starts[i] + KEPT)],
                    OPEN if rows.open[i] else f"has {rows.widths[i]} of the header's {form.width} values",
                )
                for i in np.flatnonzero(~sound)
            ]
            sound_before = sound_before or bool(sound[: FIRST_LINES - first + 1].any())
            if not sound_before and first + count > FIRST_LINES:
                raise BadInput(f"cannot be read: its first {FIRST_LINES:,} rows are malformed; row 1 {bad[0].why}")
            table = _parsed(block, rows, sound, form, [names.index(column) for column in columns])
            table = pa.table(dict(zip(columns, table.columns, strict=True)))
            yield placed(table, np.arange(first, first + count), bad)
        spans.add(first, rows.lines)
        first += count
        if final:
            break
        chunk = file.read(_chunk())
        seen.add(chunk)
        block, final = block[rows.rest :] + chunk, not chunk
    if counted != seen.lines:
        raise BadInput(f"cannot be read: {seen.lines:,} lines follow its header, and its rows have {counted:,}")


def _learnt(head: bytes, form: Form, labels: frozenset[bytes]) -> Form:
    """The form with what the rows of one line in a file's first bytes tell of the others."""
    rows, several, at = list[list[bytes]](), 0, 0
    while form.quoted and at < len(head):
        stop, _ = _row(head, at, form)
        end = _LINE_END.search(head, at)
        if stop is not None and end and stop > end.start():
            several += 1
            end = _LINE_END.match(head, stop)
        elif end and len(values := head[at : end.start()].split(form.delimiter)) == form.width:
            rows.append([value.strip(b' "') for value in values])
        at = end.end() if end else len(head)
    distinct = [frozenset(column) - {b""} for column in zip(*rows, strict=True)] or [frozenset[bytes]()] * form.width
    form = replace(form, flat=10 * several <= len(rows), known=labels)
    if form.tells is not None:
        return replace(form, known=labels | distinct[form.tells])
    fewest = min(range(form.width), key=lambda i: len(distinct[i]))
    if form.width > 1 and 2 * len(distinct[fewest]) <= len(rows):
        return replace(form, tells=fewest, known=distinct[fewest])
    return form


def _chunk() -> int:
    return min(lines.BLOCK_BYTES, CHUNK_BYTES)


def _header(file: Any, form: Form) -> tuple[list[str], bytes, bool]:
    """The names of the columns, the bytes after them that are read already, and whether they are the file's last."""
    block = file.read(max(_chunk(), len(codecs.BOM_UTF8))).removeprefix(codecs.BOM_UTF8)
    final, size = False, HEAD_BYTES
    while True:
        block = block.lstrip(b"\r\n")
        rows = _filled(_rows(block[:size], form, final))
        if not len(rows.starts) and size < len(block):
            size = len(block)
            continue
        if len(rows.starts) or final or len(block) > lines.BLOCK_BYTES:
            break
        chunk = file.read(_chunk())
        block, final = block + chunk, not chunk
        size = len(block)
    if not len(rows.starts):
        return [], block, final
    head, rest = block[: rows.stops[0]], block[rows.stops[0] :]
    if rows.open[0]:
        raise BadInput(f"cannot be read: its header {OPEN}: {head[:100].decode('utf-8', 'replace')}")
    try:
        text = head.decode()
        if "\0" in text:
            raise BadInput("cannot be read: its header holds zero bytes; is it UTF-16? It has to be UTF-8")
        (names,) = csv.reader(
            io.StringIO(text, newline=""),
            delimiter=form.delimiter.decode(),
            quoting=csv.QUOTE_MINIMAL if form.quoted else csv.QUOTE_NONE,
        )
    except UnicodeDecodeError as error:
        raise BadInput(f"cannot be read: its header is not UTF-8: {head[:100]!r}") from error
    except (csv.Error, ValueError) as error:
        raise BadInput(f"cannot be read: its header is not a row of names: {error}") from error
    return names, rest, final


def _rows(block: bytes, form: Form, final: bool) -> _Rows:
    """The rows of a block that begins with one, and its blank lines.

    Args:
        final: whether the file ends with the block, and so its last line.
    """
    import numpy as np

    content = np.frombuffer(block, dtype=np.uint8)
    ends = _line_ends(block, content, final)
    delimiters = np.flatnonzero(content == form.delimiter[0])
    if form.quoted and len(quotes := np.flatnonzero(content == _QUOTE)):
        rows = _of_tidy_quotes(block, content, ends, delimiters, quotes, form, final)
        if rows is None:
            rows = _of_any_quotes(block, ends, delimiters, quotes, form, final)
    else:
        rows = _between(block, content, ends, np.arange(len(ends)), delimiters)
    return rows


def _filled(rows: _Rows) -> _Rows:
    """The rows that are not blank lines."""
    filled = rows.stops > rows.starts
    if filled.all():
        return rows
    starts, stops, widths, opened, spans = (values[filled] for values in rows[:-1])
    return _Rows(starts, stops, widths, opened, spans, rows.rest)


def _line_ends(block: bytes, content: Any, final: bool) -> Any:
    """The last byte of each line, of whichever kind; the block's end is one where the file ends."""
    import numpy as np

    ending = content == _LF
    if b"\r" in block:
        alone = content == _CR
        alone[:-1] &= ~ending[1:]
        alone[-1] &= final  # a line feed may follow
        ending |= alone
    ends = np.flatnonzero(ending)
    return np.append(ends, len(block)) if final and block and not ending[-1] else ends


def _between(block: bytes, content: Any, ends: Any, last: Any, delimiters: Any) -> _Rows:
    """Rows that end with the `last` ones of the lines, with one value more than there are `delimiters` in them."""
    import numpy as np

    ends, lines = ends[last], np.diff(last, prepend=-1)
    starts = np.append(0, ends[:-1] + 1)[: len(ends)]
    stops = ends.copy()
    if b"\r" in block:
        before = np.maximum(ends - 1, 0)
        at_feed = np.flatnonzero(ends < len(content))
        of_two = at_feed[content[ends[at_feed]] == _LF]
        stops[of_two] -= (content[before[of_two]] == _CR) & (stops[of_two] > starts[of_two])
    widths = np.searchsorted(delimiters, ends) - np.searchsorted(delimiters, starts) + 1
    rest = min(int(ends[-1]) + 1, len(content)) if len(ends) else 0
    return _Rows(starts, stops, widths, np.zeros(len(ends), dtype=bool), lines, rest)


def _of_tidy_quotes(
    block: bytes, content: Any, ends: Any, delimiters: Any, quotes: Any, form: Form, final: bool
) -> _Rows | None:
    """The rows where every quote is at an end of a value or doubled in it, else None: then every other quote closes."""
    import numpy as np

    edge = np.zeros(256, dtype=bool)
    edge[[_QUOTE, _LF, _CR, form.delimiter[0]]] = True
    opening, closing = quotes[::2], quotes[1::2]
    before, after = opening[opening > 0] - 1, closing[closing + 1 < len(content)] + 1
    if not (edge[content[before]].all() and edge[content[after]].all()):
        return None
    last = np.flatnonzero(np.searchsorted(quotes, ends) % 2 == 0)
    outer = delimiters[np.searchsorted(quotes, delimiters) % 2 == 0]
    rows = _between(block, content, ends, last, outer)
    if len(quotes) % 2 and (final or len(block) - rows.rest > lines.BLOCK_BYTES):
        return None  # the last one is never closed
    for i in np.flatnonzero(rows.lines > 1):
        if _swallows(block[rows.starts[i] : rows.stops[i]], form):
            return None
    return rows


def _swallows(row: bytes, form: Form) -> bool:
    """Whether a row of several lines is rather several rows, of which one opens a quote and another closes it.

    One line looks like a row in any case: that which has the label, or ends the row. Two do in no text but a table, or,
    where the line has one delimiter and no value that tells, by chance.
    """
    parts = _LINE_END.split(row)
    if form.width == 1:
        return form.flat and len(parts) > LONG and all(part and form.delimiter not in part for part in parts)
    like_rows = sum(map(form.is_row, parts))
    return like_rows >= (2 if form.tells is not None or form.width > 2 else 3) and 2 * like_rows >= len(parts)


def _of_any_quotes(block: bytes, ends: Any, delimiters: Any, quotes: Any, form: Form, final: bool) -> _Rows:
    """The rows wherever quotes stand: looks at each line that has one."""
    import numpy as np

    content = np.frombuffer(block, dtype=np.uint8)
    edges = ends.tolist()
    last = np.ones(len(edges), dtype=bool)  # whether a row ends with the line
    widths, open_at, done = dict[int, int](), set[int](), 0
    for i in np.unique(np.searchsorted(ends, quotes)).tolist():
        start = edges[i - 1] + 1 if i else 0
        if i == len(edges) or start < done:
            continue
        if block[start] != _QUOTE and block.find(form.delimiter + b'"', start, edges[i]) < 0:
            continue  # its quotes are characters
        stop, width = _row(block, start, form)
        if stop == len(block) and not final:
            if len(block) - start <= lines.BLOCK_BYTES:
                last[i:] = False  # what follows tells
                break
            stop = None
        over = i if stop is None else bisect.bisect_left(edges, stop)
        if over == len(edges) or stop is None or (over > i and _swallows(block[start:stop], form)):
            open_at.add(i)
            continue
        last[i:over] = False
        widths[over] = width
        done = edges[over] + 1
    kept = np.flatnonzero(last)
    rows = _between(block, content, ends, kept, delimiters)
    for line, width in widths.items():
        if last[line]:
            rows.widths[np.searchsorted(kept, line)] = width
    rows.open[np.searchsorted(kept, sorted(open_at))] = True
    return rows


def _row(block: bytes, start: int, form: Form) -> tuple[int | None, int]:
    """Where the row ends that begins at `start`, and its width.

    The end is None where another row's quote closes its own, and behind the last edge where none does.
    """
    at, width = start, 0
    while match := form.value.match(block, at):
        width += 1
        quoted, rest = match.groups()
        if rest and quoted and (b"\n" in quoted or b"\r" in quoted):
            return None, width  # closed by what is another row's quote
        at = match.end()
        if block[at : at + 1] != form.delimiter:
            return at, width
        at += 1
    return len(block), width + 1


def _parsed(block: bytes, rows: _Rows, sound: Any, form: Form, columns: list[int]) -> Any:
    """The sound rows as a table of binary columns."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    count = int(sound.sum())
    if sound.all():
        content = block[int(rows.starts[0]) : int(rows.stops[-1])]
    else:
        edges = np.flatnonzero(np.diff(np.concatenate([[False], sound, [False]])))
        runs = zip(rows.starts[edges[::2]].tolist(), rows.stops[edges[1::2] - 1].tolist(), strict=True)
        content = b"\n".join(block[start:stop] for start, stop in runs)
    if content.startswith(codecs.BOM_UTF8):
        content = codecs.BOM_UTF8 + content  # of which Arrow takes one away
    names = list(map(str, range(form.width)))
    wanted = list(map(str, columns))
    if not count:
        return pa.schema([(name, pa.binary()) for name in wanted]).empty_table()
    table = arrow_csv.read_csv(
        pa.BufferReader(content),
        read_options=arrow_csv.ReadOptions(block_size=len(content) + 1, use_threads=False, column_names=names),
        parse_options=arrow_csv.ParseOptions(
            delimiter=form.delimiter.decode(), quote_char='"' if form.quoted else False, newlines_in_values=form.quoted
        ),
        convert_options=arrow_csv.ConvertOptions(
            check_utf8=False, include_columns=wanted, column_types=dict.fromkeys(wanted, pa.binary())
        ),
    )
    if table.num_rows != count:
        raise BadInput(f"cannot be read: {count:,} rows were parsed as {table.num_rows:,}")
    return table
