"""Makes Great Expectations' Data Docs open offline: they take styles, scripts and pictures from eight servers.

Its package ships neither the styles nor the scripts, and its settings add to its templates but replace none. So the
links are taken out and one small style sheet is put in; what scripts drew, the tables of the index, is written here.

Nor does it escape all that it is given. So it is given texts without a letter of markup (`masked`), and their own
letters are put back, escaped, where its pages are rewritten.
"""

from __future__ import annotations

import functools
import html
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path

from regraft import escaped

_REMOTE = re.compile(
    r"<script\b.*?</script>|<link\b[^>]*>|<img\b[^>]*https?:[^>]*>|<footer\b.*?</footer>", re.DOTALL | re.IGNORECASE
)
_MASKS = {ord(letter): chr(0xE000 + ord(letter)) for letter in "&<>\"'$`{}"}
_BREAK = "\ue00a"
"""What one of these in a row becomes is a new line, and no harm."""
_LETTERS = {ord(_BREAK): "<br>"} | {ord(mask): f"&#{letter};" for letter, mask in _MASKS.items()}
_DRAWN = re.compile(r"<table\b[^>]*>\s*</table>")


def masked(text: str) -> str:
    """A text in which letters for private use stand for what HTML or Great Expectations' templates take for markup."""
    return escaped.lines(text).translate(_MASKS)


def paragraphs(texts: Iterable[str]) -> str:
    """Texts one below the other, as `masked` has each."""
    return _BREAK.join(map(masked, texts))


def make_offline(folder: Path, passed: Mapping[str, bool]) -> None:
    """Rewrites the pages of a site, made of `masked` texts.

    Args:
        passed: whether each suite passed.
    """
    style = resources.files("components.validate").joinpath("docs.css").read_text(encoding="utf-8")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{escaped.POLICY}">'
    for page in sorted(folder.rglob("*.html")):
        text = _REMOTE.sub("", page.read_text(encoding="utf-8"))
        text = re.sub(r"url\([\"']?https?:[^)]*\)", "none", text)
        text = text.replace("</head>", f"<style>{style}</style></head>", 1)
        text = text.replace("<head>", f"<head>{policy}", 1)
        if page == folder / "index.html":
            tables = iter([_links(folder, "validations", passed), _links(folder, "expectations", {})])
            text = _DRAWN.sub(functools.partial(_next, tables), text)
        page.write_text(text.translate(_LETTERS), encoding="utf-8")
    shutil.rmtree(folder / "static", ignore_errors=True)  # 4 MB that no page shows


def _next(tables: Iterator[str], _: re.Match[str]) -> str:
    return next(tables, "")


def _links(folder: Path, kind: str, passed: Mapping[str, bool]) -> str:
    title = {"validations": "Validation results", "expectations": "Expectation suites"}[kind]
    icons = {True: "fa-check-circle text-success", False: "fa-times text-danger", None: ""}
    rows = []
    for page in sorted((folder / kind).rglob("*.html")):
        name = page.relative_to(folder / kind).parts[0].removesuffix(".html")
        link = f'<a href="{html.escape(page.relative_to(folder).as_posix())}">{html.escape(name)}</a>'
        rows.append(f'<tr><td><i class="fas {icons[passed.get(name)]}"></i>{link}</td></tr>')
    return f"<h4>{title}</h4><table>{''.join(rows)}</table>"
