"""A terminal on which no text steers: rich takes what stands in a text of its own accord, but writes it as it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment

from regraft import escaped


class Terminal(Console):
    """rich's console; what it writes is what regraft styled, and texts through `escaped.lines`."""

    def render(self, *arguments: Any, **options: Any) -> Iterable[Segment]:
        for text, style, control in super().render(*arguments, **options):
            yield Segment(text if control else escaped.lines(text), style, control)
