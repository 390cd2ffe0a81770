"""Makes Great Expectations' Data Docs open offline: they take styles, scripts and pictures from eight servers.

Its package ships neither the styles nor the scripts, and its settings add to its templates but replace none. So the
links are taken out and one small style sheet is put in; what scripts drew, the tables of the index, is written here.
"""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

_REMOTE = re.compile(
    r"<script\b.*?</script>|<link\b[^>]*>|<img\b[^>]*https?:[^>]*>|<footer\b.*?</footer>", re.DOTALL | re.IGNORECASE
)
_DRAWN = re.compile(r"<table\b[^>]*>\s*</table>")


def make_offline(folder: Path, passed: Mapping[str, bool]) -> None:
    """Rewrites the pages of a site.

    Args:
        passed: whether each suite passed.
    """
    style = resources.files("components.validate").joinpath("docs.css").read_text(encoding="utf-8")
    for page in sorted(folder.rglob("*.html")):
        text = _REMOTE.sub("", page.read_text(encoding="utf-8"))
        text = re.sub(r"url\([\"']?https?:[^)]*\)", "none", text)
        text = text.replace("</head>", f"<style>{style}</style></head>", 1)
        if page == folder / "index.html":
            tables = iter([_links(folder, "validations", passed), _links(folder, "expectations", {})])
            text = _DRAWN.sub(lambda _, tables=tables: next(tables, ""), text)
        page.write_text(text, encoding="utf-8")
    shutil.rmtree(folder / "static", ignore_errors=True)  # 4 MB that no page shows


def _links(folder: Path, kind: str, passed: Mapping[str, bool]) -> str:
    title = {"validations": "Validation results", "expectations": "Expectation suites"}[kind]
    icons = {True: "fa-check-circle text-success", False: "fa-times text-danger", None: ""}
    rows = []
    for page in sorted((folder / kind).rglob("*.html")):
        name = page.relative_to(folder / kind).parts[0].removesuffix(".html")
        link = f'<a href="{html.escape(page.relative_to(folder).as_posix())}">{html.escape(name)}</a>'
        rows.append(f'<tr><td><i class="fas {icons[passed.get(name)]}"></i>{link}</td></tr>')
    return f"<h4>{title}</h4><table>{''.join(rows)}</table>"
