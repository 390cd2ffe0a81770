"""A row, a recipe or a file may hold any text. Wherever people read it, it is a text and nothing else."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from components.evaluate import plots
from regraft import escaped, process, verdicts, views
from regraft.cli.app import console
from regraft.errors import Exit
from regraft.exchange import Contest, Examples
from regraft.tasks import text_classification as task
from tests.contract.conftest import laptop  # noqa: F401 - a fixture
from tests.contract.validating import Laptop, reviews
from tests.unit.test_report import RECIPE, contest_of, page

PICTURE = "<img src=x onerror=\"document.title='ran'\">"
LINK = "<a href='javascript:alert(1)' onclick=\"alert(1)\">k</a> [l](http://evil.example) ![p](http://evil.example/p)"
FORMULA = r"$\frac$ ${x} $$ {{7*7}}"
STEERING = "\x1b[31m\x1b]0;owned\x07\r\x9b2J\u202eevil\u2066"
HOSTILE = f"{PICTURE} {LINK} {FORMULA} | {STEERING} <!channel> & <http://evil.example|ours>"
SEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What no output that people read holds."""


class Page(HTMLParser):
    """The elements of a page with their attributes, and its words, but for the one script of our own."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text.replace(f"<script>{views.SCRIPT}</script>", "", 1))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    @property
    def acts(self) -> list[tuple[str, dict[str, str | None]]]:
        """What runs, loads or leads away, beside the handlers of Great Expectations' own buttons."""
        own = re.compile(r"(showAllValidations|hideSucceededValidations|clearTableFilters)\('?[\w-]*'?\)")
        return [
            (tag, attributes)
            for tag, attributes in self.elements
            if tag in ("img", "script", "iframe", "object", "embed", "form", "base")
            or any(name.startswith("on") and not own.fullmatch(value or "") for name, value in attributes.items())
            or "evil" in str(attributes)
            or (attributes.get("href") or "").startswith("javascript:")
        ]

    @property
    def policy(self) -> str | None:
        """The first policy, where nothing stands before it that could load."""
        firsts = [(tag, attributes) for tag, attributes in self.elements if tag not in ("html", "head")][:2]
        return next((a["content"] for _, a in firsts if a.get("http-equiv") == "Content-Security-Policy"), None)


@pytest.fixture
def contest() -> Contest:
    """Two models that differ, in slices with hostile names."""
    made = contest_of()
    slices = tuple(part.model_copy(update={"name": f"{i}={HOSTILE}"}) for i, part in enumerate(made.verdict.slices))
    gates = tuple(gate.model_copy(update={"name": f"slice {HOSTILE}"}) for gate in made.verdict.gates)
    more = {"slices": slices, "gates": gates, "sentence": f"Reject: {HOSTILE}"}
    return replace(made, verdict=made.verdict.model_copy(update=more))


def test_an_unknown_label_is_a_text_in_data_docs(laptop: Laptop) -> None:  # noqa: F811
    rows = reviews(400)
    rows[7]["label"] = HOSTILE
    laptop.recipe(quarantine=0.1)
    laptop.write("a.parquet", rows)
    assert laptop.run() == Exit.DONE
    manifest = laptop.manifest()
    folder = laptop.store.fetch(f"validate/{manifest.identity}", manifest, laptop.folder / "docs", only=("data_docs",))
    pages = {path: Page(path.read_text()) for path in folder.rglob("*.html")}
    assert len(pages) == 5
    assert {path.name: found.acts for path, found in pages.items() if found.acts} == {}
    assert {found.policy for found in pages.values()} == {escaped.POLICY}
    (contract,) = (found for path, found in pages.items() if path.name == "validate-contract.html")
    assert laptop.checks()["quarantine"]["sentence"] in contract.words, "it is shown, letter by letter"


def test_no_row_breaks_out_of_the_data_page(laptop: Laptop) -> None:  # noqa: F811
    """Not one that is set aside, not one of a near-duplicate pair, not a label, not a word that moved."""
    labels = ["negative", f"{PICTURE} {LINK} {FORMULA}"]
    rows = [{**row, "label": labels[i % 2]} for i, row in enumerate(reviews(400))]
    rows[7]["label"] = f"unknown {HOSTILE}"
    twin = f"{PICTURE} {LINK} {FORMULA} nearly the same"
    rows += [{"text": text, "label": "negative"} for text in (twin, f"{twin} end", f"damaged {HOSTILE}")]
    laptop.recipe(quarantine=0.1, labels=labels)
    laptop.write("a.parquet", rows)
    assert laptop.run() == Exit.DONE
    manifest = laptop.manifest()
    folder = laptop.store.fetch(f"validate/{manifest.identity}", manifest, laptop.folder / "page", only=("data.html",))
    html = (folder / "data.html").read_text()
    found = Page(html)
    assert found.acts == []
    assert found.policy == views.POLICY
    assert not SEEN.search(html)
    assert found.words.count(f"{PICTURE} {LINK} {FORMULA} nearly the same") >= 2, "it is shown, letter by letter"
    for start in ("unknown", "damaged"):
        assert f"{start} {PICTURE} {LINK[:9]}" in found.words


def test_great_expectations_shows_rows_that_break_its_expectations_as_texts(tmp_path: Path) -> None:
    import pyarrow as pa

    from components.validate import contract
    from regraft.exchange import Check

    check = Check(name="rows", key="k", severity="critical", observed=1, min=2, rule=HOSTILE, sentence=HOSTILE)
    sample = pa.table(
        {"text": [HOSTILE, None], "label": [HOSTILE, "a"], PICTURE: ["", ""], "digest": [PICTURE, "short"]}
    )
    contract.judged([check], sample, {"label": ["a", LINK]}, tmp_path)
    pages = [Page(path.read_text()) for path in tmp_path.rglob("*.html")]
    assert [found.acts for found in pages if found.acts] == []
    assert sum(PICTURE in found.words for found in pages) == 4, "all but the index"
    assert not any(re.search(r"[\ue000-\ue0ff]", found.words) for found in pages)


def test_slices_and_rows_are_texts_in_the_report(contest: Contest, tmp_path: Path) -> None:
    html = page(contest, tmp_path)
    found = Page(html)
    assert found.acts == []
    assert not SEEN.search(html), "nor does one turn what stands after it"
    assert found.policy == views.POLICY
    assert found.words.count(PICTURE) > 3


def test_no_label_or_slice_breaks_a_picture(contest: Contest, tmp_path: Path) -> None:
    labels = (HOSTILE, f"other {HOSTILE}")
    recipe = RECIPE.model_copy(update={"data": RECIPE.data.model_copy(update={"labels": labels})})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no font has a glyph of a control character
        drawn = plots.draw(tmp_path / "plots", contest, task.figures(recipe, contest))
    assert set(drawn) == {"confusion-matrix", "reliability", "slices"}
    for name, svg in drawn.items():
        assert (tmp_path / "plots" / f"{name}.svg").read_text() == svg
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(svg).iter()}
        assert tags.isdisjoint({"script", "a", "img", "foreignObject"})
        assert not SEEN.search(svg)
    shown = "".join(ElementTree.fromstring(drawn["confusion-matrix"]).itertext())
    assert FORMULA in shown, "as it is, and not as a formula"


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[str], str]:
    """Gives a page's elements when a browser has opened it."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium here")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    flags += f"--disable-component-update --disable-sync --user-data-dir={tmp_path}/profile --dump-dom"

    def dom(html: str) -> str:
        (tmp_path / "opened.html").write_text(html)
        command = [chromium, *flags.split(), (tmp_path / "opened.html").as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    return dom


def unguarded(report: str) -> str:
    return re.sub(r"<meta http-equiv[^>]*>", "", report)


def test_a_page_with_markup_in_it_would_still_run_no_other_script(opened: Callable[[str], str], tmp_path: Path) -> None:
    """The second wall: even where something is not escaped, a browser runs nothing but the script of our own."""
    report = page(contest_of(), tmp_path).replace("<main>", f"<main>{PICTURE}<script>document.title='ran'</script>", 1)
    assert "<title>ran</title>" in opened(unguarded(report))
    guarded = opened(report)
    assert "<title>tiny" in guarded
    assert '<input type="search"' in guarded, "which runs"


def test_rows_of_a_report_are_sorted_and_searched_offline(opened: Callable[[str], str], tmp_path: Path) -> None:
    rows = [("b", "ten (0.10)"), ("a", f"{PICTURE} (-2.5)"), ("c", "nine (0.9)"), *[("d", "(1.0)")] * 7]
    examples = [Examples(title="t", count=10, columns=("asked", "challenger (chrF)"), rows=rows)]
    acting = """
        const shown = () => rows().map((row) => row.cells[0].textContent);
        const rows = () => [...table.rows].slice(1).filter((row) => !row.hidden);
        const table = [...document.querySelectorAll("table.rows")].at(-1), found = [shown()];
        for (const column of [0, 1, 1]) { table.rows[0].cells[column].firstChild.click(); found.push(shown()); }
        const filter = [...document.querySelectorAll("input")].at(-1);
        filter.value = "NINE"; filter.dispatchEvent(new Event("input")); found.push(shown());
        document.title = found.join(" ");
    """
    report = page(contest_of(), tmp_path, examples).replace(views.SCRIPT, views.SCRIPT + acting)
    found = "b,a,c,{0} a,b,c,{0} a,b,c,{0} {0},c,b,a c".format(",".join("d" * 7))
    assert f"<title>{found}</title>" in opened(unguarded(report))


def test_the_verdict_as_markdown_has_no_link_picture_or_element_of_a_row(contest: Contest) -> None:
    written = verdicts.markdown(verdicts.said(contest.verdict.model_dump(mode="json")))
    found = Page(MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(written))
    assert found.acts == []
    assert {tag for tag, _ in found.elements} <= {*["p", "h3", "table", "thead", "tbody", "tr", "th", "td", "strong"]}
    assert not SEEN.search(written)


@pytest.mark.parametrize("text", ["-", "+", "#", "=", "a\x1bb"])
def test_one_letter_is_no_list_and_no_heading(text: str) -> None:
    found = Page(MarkdownIt("gfm-like", {"linkify": False}).render(escaped.markdown(text)))
    assert [tag for tag, _ in found.elements] == ["p"]
    assert found.words.strip() == escaped.lines(text)


@pytest.mark.parametrize("text", ["a`b", "a|b", "`![p](http://evil.example)`", f"\\`{PICTURE}"])
def test_an_address_does_not_end_the_code_or_the_cell_that_it_is_in(text: str) -> None:
    table = verdicts.table([["one", "two"], [escaped.code(text), escaped.code("s3://bucket/data")]])
    found = Page(MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(table))
    tags = [tag for tag, _ in found.elements]
    assert (tags.count("td"), tags.count("code"), found.acts) == (2, 1, [])
    assert text in found.words


def test_slack_takes_nothing_for_a_call_or_a_link() -> None:
    text = escaped.slack(HOSTILE)
    assert not re.search(r"[<>]|&(?!amp;|lt;|gt;)", text), "Slack's rules: these three, as entities"
    assert not SEEN.search(text)
    assert "&lt;!channel&gt; &amp; &lt;http://evil.example|ours&gt;" in text


def test_what_a_step_says_steers_no_terminal(tmp_path: Path) -> None:
    """A recipe's path is a text too."""
    command = [sys.executable, "-m", "components.validate", "--store", str(tmp_path), "--run", "2026-11-24T03-00"]
    recipe = tmp_path / f"{STEERING}.yaml"
    done = subprocess.run([*command, "--recipe", str(recipe)], capture_output=True, cwd=Path(__file__).parents[2])
    assert done.returncode == Exit.BAD_INPUT
    assert r"\x1b]0;owned\x07\r\x9b2J\u202eevil" in done.stderr.decode()
    assert not SEEN.search(done.stderr.decode())


def test_what_libraries_print_in_a_step_steers_no_log_of_a_runner() -> None:
    lines: list[str] = []
    code = f"print({STEERING!r}); print('progress 0.500 ' + {STEERING[1:]!r}, flush=True)"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    told: list[str] = []
    with process.started([sys.executable, "-c", code], environment) as running:
        ended = process.followed(running, say=lines.append, progress=lambda done, text: told.append(text))
    assert lines
    assert told
    assert not any(SEEN.search(line) for line in (*lines, *told, *ended.words))


def test_a_traceback_steers_nothing_either() -> None:
    said = io.StringIO()
    stream: Any = escaped.Stream(said, str)
    print(STEERING, "ünïcode 日本　語 👩\u200d🔬\tend", file=stream)
    stream.writelines([STEERING])
    assert not SEEN.search(said.getvalue())
    assert "ünïcode 日本　語 👩\u200d🔬\tend\n" in said.getvalue(), "nothing else is changed"


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "NO_COLOR"])
def test_the_command_line_shows_verdicts_without_steering_the_terminal(
    contest: Contest, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "1")
    shown = console()
    shown.file = io.StringIO()
    shown.print(verdicts.terminal(verdicts.said(contest.verdict.model_dump(mode="json")), sentence=True))
    written = shown.file.getvalue()
    assert "owned" in written
    assert ("\x1b[32m✔" in written) == (variable == "FORCE_COLOR"), "regraft's own colours stay"
    assert not SEEN.search(re.sub(r"\x1b\[\d+m", "", written))


def test_a_refusal_is_one_line() -> None:
    assert escaped.line("slice a\nvalidate: done\u2028x") == r"slice a\nvalidate: done\u2028x"
