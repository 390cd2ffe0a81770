"""A verdict is said once: the document, and what each writer makes of it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from regraft import escaped, verdicts

HOSTILE = "<script>x</script> | a_b _c_ **d** [e](http://evil.example) `f` ~~g~~ @h [bold red]"


def side(value: float, **more: Any) -> dict[str, Any]:
    interval = {"point": value, "low": value - 0.02, "high": value + 0.02}
    return {"model": "m", "version": None, "metrics": {"f1_macro": value}, "intervals": {"f1_macro": interval}, **more}


def part(name: str, moved: float, *, judged: bool = True) -> dict[str, Any]:
    difference = {"point": moved, "low": moved - 0.1, "high": moved + 0.1}
    fields = {"name": name, "rows": 1234, "judged": judged, "challenger": 0.9 + moved, "champion": 0.9}
    return {**fields, "difference": difference}


def verdict(**more: Any) -> dict[str, Any]:
    """A verdict on a challenger that meets a champion."""
    gates = [
        {"name": "rows", "passed": True, "undecided": False, "sentence": "1,000 clean holdout rows, 500 needed"},
        {"name": "champion", "passed": False, "undecided": True, "sentence": "it may be worse by 0.010"},
        {"name": "latency", "passed": False, "undecided": False, "sentence": "median latency over 5 ms"},
    ]
    made = {
        "verdict": "reject",
        "sentence": "Reject: f1_macro 0.912 against 0.900.",
        "metric": "f1_macro",
        "rows": {"holdout": 1007, "clean": 1000, "contaminated": 7},
        "challenger": side(0.912, calibration_error=0.051),
        "champion": side(0.9, version=3, calibration_error=None),
        "difference": {"point": 0.012, "low": -0.002, "high": 0.026, "confidence": 0.95, "p_value": 0.031},
        "gates": gates,
        "slices": [
            part("lang=de", 0.011),
            part("lang=en", -0.204),
            part("lang=fr", 0.0),
            part("few", 0.05, judged=False),
        ],
    }
    return {**made, **more}


FIRST = verdict(
    verdict="promote", sentence="Promote: there is no champion yet.", champion=None, difference=None, slices=[]
)
HELD = verdict(
    verdict="hold",
    sentence="Hold: none of the 7 holdout rows is clean.",
    rows={"holdout": 7, "clean": 0, "contaminated": 7},
    challenger={"model": "m", "metrics": {}, "intervals": {}},
    champion=None,
    difference=None,
    slices=[],
)


def shown(values: dict[str, Any], *, sentence: bool = True) -> str:
    file = io.StringIO()
    Console(file=file, width=200).print(verdicts.terminal(verdicts.said(values), sentence=sentence))
    return file.getvalue()


def text(values: dict[str, Any], **more: Any) -> str:
    """As Markdown, without what keeps columns apart."""
    return verdicts.markdown(verdicts.said(values), **more).replace("&nbsp;&nbsp;", "")


def test_the_document_has_both_models_the_difference_and_three_states_of_gates() -> None:
    said = verdicts.said(verdict())
    (f1,) = said.metrics
    assert (f1.challenger.text, f1.challenger.span) == ("0.912", "0.892 to 0.932")
    assert f1.champion == verdicts.Number(text="0.900", span="0.880 to 0.920")
    (error,) = said.others
    assert (error.name, error.challenger.text, error.champion) == (
        "calibration error",
        "0.051",
        verdicts.Number(text="-"),
    )
    assert said.difference == verdicts.Number(text="+0.012", span="-0.002 to +0.026")
    assert (said.confidence, said.about) == ("95 %", (("p value", "0.031"),))
    assert [gate.state for gate in said.gates] == ["passed", "undecided", "failed"]
    assert (said.champion, said.clean, said.holdout, said.contaminated) == (
        "champion, version 3",
        "1,000",
        "1,007",
        "7",
    )


def test_slices_that_moved_come_with_the_largest_first_and_the_others_not() -> None:
    said = verdicts.said(verdict())
    assert [slice_.name for slice_ in said.moved] == ["lang=en", "few", "lang=de"]
    assert [slice_.name for slice_ in said.slices] == ["lang=de", "lang=en", "lang=fr", "few"]


def test_the_terminal_shows_the_same_numbers_and_a_mark_a_gate() -> None:
    seen = shown(verdict())
    assert "Reject: f1_macro 0.912" in seen
    assert "Reject" not in shown(verdict(), sentence=False)
    for mark, words in (("✔", "1,000 clean"), ("?", "it may be worse"), ("✘", "median latency")):
        assert f"{mark} {words}" in seen
    assert "champion, version 3" in seen
    assert "0.912  0.892 to 0.932" in seen
    assert "+0.012  -0.002 to +0.026, 95 % interval" in seen
    assert "slices that moved most: lang=en -0.204, few +0.050, lang=de +0.011" in seen


def test_markdown_has_tables_with_what_did_not_pass_first() -> None:
    lines = text(verdict()).splitlines()
    assert lines[0] == "Reject: f1_macro 0.912 against 0.900."
    assert "Scored on 1,000 clean rows of 1,007 in the holdout; 7 left out." in lines
    assert "| f1_macro | 0.912 (0.892 to 0.932) | 0.900 (0.880 to 0.920) |" in lines
    gates = lines.index("| gate |  | what was found |")
    assert lines[gates + 2 : gates + 5] == [
        "| champion | **undecided** | it may be worse by 0.010 |",
        "| latency | **failed** | median latency over 5 ms |",
        "| rows | passed | 1,000 clean holdout rows, 500 needed |",
    ]
    assert "| few (too few rows to judge) | 1,234 | 0.950 | 0.900 | +0.050 (-0.050 to +0.150) |" in lines


@pytest.mark.parametrize("values", [FIRST, HELD])
def test_a_verdict_without_champion_or_clean_row_is_said_too(values: dict[str, Any]) -> None:
    for written in (text(values), shown(values)):
        assert values["sentence"] in written
        assert "champion, version" not in written
        assert "difference" not in written


def test_a_verdict_of_an_older_regraft_with_few_fields_is_said() -> None:
    older = {"verdict": "promote", "sentence": "Promote: better.", "gates": [{"name": "rows", "passed": True}]}
    assert "✔ rows" in shown(older)
    assert text(older).startswith("Promote: better.")
    assert text({}) == "The verdict could not be read."


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.mark.parametrize("name", [HOSTILE, "- item", "# head", "1. one", "---", "a\nb", "\\|", "www.evil.example"])
def test_any_text_is_shown_as_it_is_and_never_as_markup(name: str) -> None:
    page = Tags()
    parser = MarkdownIt("gfm-like", {"linkify": False, "html": True})
    page.feed(parser.render(escaped.markdown(name)))
    assert page.found == ["p"]
    assert page.words.strip() == " ".join(name.split())
    cells = Tags()
    cells.feed(parser.render(verdicts.table([["one", "two"], [escaped.markdown(name), "end"]])))
    assert cells.found == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]


def test_hostile_names_stay_text_in_both_writers() -> None:
    gates = [{"name": HOSTILE, "passed": False, "sentence": HOSTILE}]
    values = verdict(sentence=HOSTILE, gates=gates, slices=[part(HOSTILE, 0.1)])
    written = text(values)
    assert "<script>" not in written
    assert "[e](" not in written
    assert "http://" not in written
    assert "[bold red]" in shown(values), "nor does rich take it for a style"


def test_what_is_too_long_is_counted_and_what_follows_is_never_cut() -> None:
    gates = [{"name": f"slice {i}", "passed": i != 499, "sentence": "x" * 200 + "<&>"} for i in range(500)]
    values = verdict(sentence="<" * 9000, gates=gates, slices=[part(f"<s{i}>", 0.1 + i / 1000) for i in range(500)])
    written = verdicts.markdown(verdicts.said(values), more="[report](#/x)")
    assert len(written) <= verdicts.DESCRIPTION
    assert written.endswith("[report](#/x)")
    assert "| slice 499&nbsp;&nbsp; | **failed**&nbsp;&nbsp; |" in written, "what failed is what a cut leaves"
    assert "more, in the report" in written
    assert "…" in written.splitlines()[0]
    assert "&l…" not in written, "no entity is cut"


def entry(sequence: int, kind: str = "promote", **more: Any) -> dict[str, Any]:
    fields = {"sequence": sequence, "kind": kind, "version": sequence, "run": f"2026-11-{sequence:02}T03-00"}
    return {**fields, "at": "2026-11-24T03:12:55Z", "who": "airflow", "reason": "is better", **more}


def test_a_registered_model_says_who_is_champion_and_what_was_before() -> None:
    told = verdicts.history("tiny", [entry(1), entry(2), entry(3, "rollback", version=1, reason="too | slow")])
    lines = told.splitlines()
    assert lines[2].startswith(
        "[version&nbsp;1](#/models/tiny/versions/1) since 2026-11-24 03:12 UTC: entry 3 of the ledger"
    )
    assert lines[4] == "too \\| slow"
    assert [line.split("&nbsp;&nbsp;")[0] for line in lines[8:]] == ["| 3", "| 2", "| 1"]
    assert "There is none any more" in verdicts.history("tiny", [entry(1), entry(2, "withdraw", version=1)])
    assert verdicts.history("tiny", []).endswith("None yet: entry 0 of the ledger.")


def test_peoples_own_words_stay_before_what_is_told_and_it_says_as_of_which_entry() -> None:
    first, second = (verdicts.history("tiny", entries) for entries in ([entry(1)], [entry(1), entry(2)]))
    both = verdicts.beside(verdicts.beside("Reviews of films.\n", first), second)
    assert both == f"Reviews of films.\n\n{second}"
    assert verdicts.as_of(both) == 2
    assert verdicts.as_of("entry 7 of the ledger, says somebody") is None
    assert verdicts.as_of(verdicts.history("tiny", [])) == 0
    long = verdicts.beside("x" * 9000, verdicts.history("tiny", [entry(i, reason="<" * 9000) for i in range(1, 11)]))
    assert len(long) <= verdicts.DESCRIPTION


def test_the_module_is_light_to_import() -> None:
    code = "import sys, json; import regraft.verdicts; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "mlflow", "numpy", "jinja2", "rich", "pyarrow"}
    assert heavy.isdisjoint(json.loads(done.stdout))
