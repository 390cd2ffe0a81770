"""What people open in a browser: one HTML file that needs no server, with its pictures in it.

Equal numbers make equal bytes. `templates/page.html.j2` is what all pages share: the policy, the style, the frame.
"""

from __future__ import annotations

import base64
import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regraft import escaped

STYLE: Any = {
    "svg.hashsalt": "regraft",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,  # a label with $ is no formula
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}

SCRIPT = (Path(__file__).parent / "templates/rows.js").read_text(encoding="utf-8")
"""What sorts and filters tables of rows, where a page is opened."""


def by_digest(content: str) -> str:
    """How a Content-Security-Policy names a script or style that stands in a page, and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


POLICY = f"{escaped.POLICY}; script-src {by_digest(SCRIPT)}"
"""`escaped.POLICY`, but for this one script: a browser runs no other."""


@contextmanager
def drawing() -> Iterator[None]:
    """Figures made within have the style of all pictures, and no window."""
    import matplotlib as mpl

    warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # the browser has it
    mpl.use("svg")
    with mpl.rc_context(STYLE):
        yield


def svg(figure: Any) -> str:
    """A matplotlib figure as SVG, made where it is `drawing`."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return escaped.lines(file.getvalue())  # XML takes no control characters


def inline(picture: str) -> Any:
    """An `svg` as an element of a page."""
    from markupsafe import Markup

    return Markup(picture[picture.index("<svg") :])  # noqa: S704  our own SVG


def page(package: str, template: str, **values: Any) -> str:
    """The HTML of a page, from a template in a package's folder `templates` that extends `page.html.j2`."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(__name__)]),
        autoescape=True,
        finalize=lambda value: escaped.lines(value) if type(value) is str else value,  # our own SVG is Markup
        undefined=StrictUndefined,
    )
    script = Markup(SCRIPT)  # noqa: S704  our own
    return environment.get_template(template).render(policy=POLICY, script=script, **values)
