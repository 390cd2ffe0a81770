"""One verdict, one document, thin writers: what a terminal, a report, Kubeflow, Airflow and MLflow show of it.

`said` makes the document of the JSON values of verdict.json, so that whoever reads a store can, whatever regraft wrote
it. Numbers are texts there already, and so the same wherever they are shown. Nothing here is part of a result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from regraft import escaped

if TYPE_CHECKING:
    from rich.console import RenderableType

State = Literal["passed", "failed", "undecided"]

DESCRIPTION = 5000
"""Characters that MLflow's database takes as a description of a version or of a registered model."""

MARKS = {"passed": ("✔", "green"), "failed": ("✘", "red"), "undecided": ("?", "yellow")}


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number and its interval, such as 0.912 and 0.880 to 0.940; `span` is empty where there is none."""

    text: str
    span: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A metric, or another fact of a model, of both sides."""

    name: str
    challenger: Number
    champion: Number | None


@dataclass(frozen=True, kw_only=True)
class SaidGate:
    name: str
    state: State
    sentence: str


@dataclass(frozen=True, kw_only=True)
class SaidSlice:
    name: str
    rows: str
    judged: bool
    challenger: str
    champion: str
    difference: Number | None
    moved: float
    """How far it is from the champion, in either direction, as a sort key."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """A verdict as people read it.

    Attributes:
        champion: how the champion is named, such as "champion, version 3"; empty where there is none.
        metrics: with intervals; `others` are the facts that a task adds, without.
        difference: challenger minus champion in `metric`; `about` is what a task adds to it.
        confidence: of that interval, such as 95 %.
    """

    verdict: str
    sentence: str
    metric: str
    version: str
    champion: str
    metrics: tuple[Line, ...]
    others: tuple[Line, ...]
    difference: Number | None
    confidence: str
    about: tuple[tuple[str, str], ...]
    gates: tuple[SaidGate, ...]
    slices: tuple[SaidSlice, ...]
    clean: str
    holdout: str
    contaminated: str

    @property
    def lines(self) -> tuple[Line, ...]:
        """All facts of both sides."""
        return (*self.metrics, *self.others)

    @property
    def moved(self) -> list[SaidSlice]:
        """The slices that differ from the champion's, the largest difference first."""
        return sorted((part for part in self.slices if part.moved), key=lambda part: -part.moved)


def said(verdict: Mapping[str, Any]) -> Said:
    """The document of a verdict, given as the JSON values of verdict.json."""
    ours, theirs = verdict.get("challenger") or {}, verdict.get("champion") or {}
    delta, rows = verdict.get("difference") or {}, verdict.get("rows") or {}

    metrics = [key for key, value in (ours.get("metrics") or {}).items() if isinstance(value, int | float)]
    others = [key for key in ours if key not in ("model", "digest", "version", "metrics", "intervals")]
    version = str(theirs.get("version") or "")
    return Said(
        verdict=str(verdict.get("verdict", "unknown")),
        sentence=str(verdict.get("sentence") or "The verdict could not be read."),
        metric=str(verdict.get("metric", "")),
        version=version,
        champion=(f"champion, version {version}" if version else "champion") if theirs else "",
        metrics=tuple(
            Line(name=key, challenger=_metric(ours, key), champion=_metric(theirs, key) if theirs else None)
            for key in metrics
        ),
        others=tuple(
            Line(
                name=key.replace("_", " "),
                challenger=Number(text=_number(ours[key])),
                champion=Number(text=_number(theirs.get(key))) if theirs else None,
            )
            for key in others
        ),
        difference=_difference(delta) if delta else None,
        confidence=f"{delta['confidence'] * 100:g} %" if "confidence" in delta else "",
        about=tuple(
            (key.replace("_", " "), f"{value:.3g}")
            for key, value in delta.items()
            if key not in ("point", "low", "high", "confidence") and isinstance(value, int | float)
        ),
        gates=tuple(
            SaidGate(name=gate["name"], state=_state(gate), sentence=gate.get("sentence") or gate["name"])
            for gate in verdict.get("gates") or ()
        ),
        slices=tuple(_slice(part) for part in verdict.get("slices") or ()),
        **{key: f"{rows[key]:,}" if key in rows else "" for key in ("clean", "holdout", "contaminated")},
    )


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "-"


def _metric(side: Mapping[str, Any], name: str) -> Number:
    interval = (side.get("intervals") or {}).get(name)
    span = f"{interval['low']:.3f} to {interval['high']:.3f}" if interval else ""
    return Number(text=_number((side.get("metrics") or {}).get(name)), span=span)


def _difference(delta: Mapping[str, Any]) -> Number:
    return Number(text=f"{delta['point']:+.3f}", span=f"{delta['low']:+.3f} to {delta['high']:+.3f}")


def _state(gate: Mapping[str, Any]) -> State:
    if gate["passed"]:
        return "passed"
    return "undecided" if gate.get("undecided") else "failed"


def _slice(part: Mapping[str, Any]) -> SaidSlice:
    delta = part.get("difference")
    return SaidSlice(
        name=part["name"],
        rows=f"{part['rows']:,}",
        judged=bool(part.get("judged")),
        challenger=_number(part.get("challenger")),
        champion=_number(part.get("champion")),
        difference=_difference(delta) if delta else None,
        moved=round(abs(delta["point"]), 3) if delta else 0.0,
    )


def terminal(document: Said, *, sentence: bool) -> RenderableType:
    """Gates, metrics, difference and the slices that moved most, for rich.

    Args:
        sentence: whether the verdict's own comes first, where no headline has said it.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    text = Text(document.sentence if sentence else "")
    for gate in document.gates:
        mark, colour = MARKS[gate.state]
        text.append("\n  " if text else "  ").append(mark, style=colour).append(f" {gate.sentence}")
    parts: list[RenderableType] = [text] if text else []
    if document.lines:
        table = Table(box=None, padding=(1, 3, 0, 0))
        for title in ("", "challenger", *([document.champion] if document.champion else [])):
            table.add_column(Text(title))
        for line in document.lines:
            table.add_row(Text(line.name), *(_cell(side) for side in (line.challenger, line.champion) if side))
        if document.difference:
            span = f"{document.difference.span}, {document.confidence} interval"
            name = Text(f"difference in {document.metric}")
            table.add_row(name, _cell(Number(text=document.difference.text, span=span)))
        parts.append(table)
    if most := document.moved[:3]:
        names = ", ".join(f"{part.name} {part.difference.text}" for part in most if part.difference)
        parts.append(Text(f"\nslices that moved most: {names}", style="dim"))
    return Group(*parts)


def _cell(number: Number) -> Any:
    from rich.text import Text

    return Text.assemble(number.text, *([("  " + number.span, "dim")] if number.span else []))


def markdown(document: Said, *, limit: int = DESCRIPTION, more: str = "") -> str:
    """The verdict as Markdown, of at most `limit` characters: what is too much is counted, and is in the report.

    Args:
        more: further Markdown that follows, which is never cut.
    """
    blocks = [escaped.markdown(document.sentence)]
    if document.clean:
        left_out = f"; {document.contaminated} left out" if document.contaminated not in ("", "0") else ""
        blocks.append(f"Scored on {document.clean} clean rows of {document.holdout} in the holdout{left_out}.")
    room = limit - sum(len(block) + 2 for block in (*blocks, more))
    tables = {"Metrics": _metrics_table, "Gates": _gates_table, "Slices that moved": _slices_table}
    for title, made in tables.items():
        if kept := _fitted(made(document), room - len(f"### {title}\n\n")):
            blocks.append(f"### {title}\n\n{kept}")
            room -= len(blocks[-1]) + 2
    return "\n\n".join([*blocks, *([more] if more else [])])[:limit]


def _metrics_table(document: Said) -> list[list[str]]:
    if not document.lines:
        return []
    sides = ["challenger", *([document.champion] if document.champion else [])]
    rows = [
        [escaped.markdown(line.name), *(_shown(side) for side in (line.challenger, line.champion) if side)]
        for line in document.lines
    ]
    if document.difference:
        span = f"{document.difference.span}, {document.confidence} interval"
        difference = _shown(Number(text=document.difference.text, span=span))
        rows.append([f"difference in {escaped.markdown(document.metric)}", difference, ""])
    return [["metric", *sides], *rows]


def _gates_table(document: Said) -> list[list[str]]:
    """What did not pass comes first: it is what a cut must leave."""
    gates = sorted(document.gates, key=lambda gate: gate.state == "passed")
    rows = [[escaped.markdown(gate.name), _marked(gate.state), escaped.markdown(gate.sentence, 300)] for gate in gates]
    return [["gate", "", "what was found"], *rows] if rows else []


def _slices_table(document: Said) -> list[list[str]]:
    rows = [
        [
            escaped.markdown(part.name, 120) + ("" if part.judged else " (too few rows to judge)"),
            part.rows,
            part.challenger,
            part.champion,
            _shown(part.difference),
        ]
        for part in document.moved
        if part.difference
    ]
    return [["slice", "rows", "challenger", "champion", "difference"], *rows] if rows else []


def _shown(number: Number) -> str:
    return f"{number.text} ({number.span})" if number.span else number.text


def _marked(state: State) -> str:
    return state if state == "passed" else f"**{state}**"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, of cells that are escaped already; the first row names the columns.

    Each cell ends in spaces that stay: MLflow's tables have no room between columns.
    """
    head, *others = ["| " + " | ".join([*(f"{cell}&nbsp;&nbsp;" for cell in row[:-1]), row[-1]]) + " |" for row in rows]
    return "\n".join([head, "|" + " :--- |" * len(rows[0]), *others])


def _fitted(rows: list[list[str]], room: int) -> str:
    """As many rows of a table as there is room for, and how many are left out; empty where none fits."""
    for count in range(len(rows), 1, -1):
        left_out = len(rows) - count
        more = f"\n\nand {left_out} more, in the report" if left_out else ""
        if len(text := table(rows[:count]) + more) <= room:
            return text
    return ""


def history(name: str, entries: Iterable[Mapping[str, Any]]) -> str:
    """Who is champion, and the newest entries of the ledger, the last first, as Markdown for a registered model.

    Args:
        entries: as JSON values, oldest first, ending with the newest one.
    """
    newest_first = list(entries)[::-1]
    if not newest_first:
        return f"{CHAMPION}\n\nNone yet: entry 0 of the ledger."
    head = newest_first[0]
    who = "There is none any more" if head["kind"] == "withdraw" else f"{_version(name, head)} since {_when(head)}"
    first = f"{who}: entry {head['sequence']} of the ledger, by {escaped.markdown(str(head['who']), 80)}."
    rows = [
        [
            str(e["sequence"]),
            e["kind"],
            _version(name, e),
            e["run"],
            str(e["at"])[:10],
            escaped.markdown(str(e["reason"]), 200),
        ]
        for e in newest_first
    ]
    blocks = [CHAMPION, first, escaped.markdown(str(head["reason"]))]
    room = DESCRIPTION - OWN_WORDS - sum(len(block) + 2 for block in blocks)
    return "\n\n".join([*blocks, _fitted([["entry", "what", "version", "run", "at", "why"], *rows], room)])


CHAMPION = "### Champion"
"""Where the part of a registered model's description begins that regraft keeps; what stands before is people's own."""

ENTRIES = 10
"""Of the ledger, in a registered model's description."""

OWN_WORDS = 1000
"""Characters of people's own words that are kept."""


def as_of(description: str) -> int | None:
    """The entry up to which a registered model's description tells the history; None where it says none."""
    match = re.search(r"entry (\d+) of the ledger", description.partition(CHAMPION)[2])
    return int(match[1]) if match else None


def beside(description: str, history: str) -> str:
    """A registered model's description with `history` told anew, after people's own words."""
    own = description.partition(CHAMPION)[0].strip()[:OWN_WORDS]
    return f"{own}\n\n{history}" if own else history


def _version(name: str, entry: Mapping[str, Any]) -> str:
    return f"[version&nbsp;{entry['version']}](#/models/{name}/versions/{entry['version']})"


def _when(entry: Mapping[str, Any]) -> str:
    return str(entry["at"])[:16].replace("T", " ") + " UTC"
