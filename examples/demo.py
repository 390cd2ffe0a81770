"""The story that regraft is for, told with the command line on real data cut into three weeks: `make demo`.

Week 1 makes the first champion. Week 2 brings more data: the challenger is compared with the champion, promoted and
rolled out. In week 3 a fifth of the labels is flipped, and its model must not be promoted. Then a rollback and a
roll-forward. Meanwhile a client asks Triton all the time, and counts the requests that it lost.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from examples.movie_reviews import FIRST_WEEK
from regraft import pipeline, recipe, servers, stack
from regraft.ledger import Ledger
from regraft.store import Store

RECIPE = Path("dags/recipes/movie-sentiment.yaml")
NAME = "movie-sentiment-demo"
STORE = ".regraft/store"
WINDOWS = ".cache/data/movie-reviews-windows"
TEXT = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["A quiet film that stays with you for days."]}
console = Console(highlight=False)


class Client(threading.Thread):
    """Asks Triton all the time, from the first champion on, and counts the answers."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.answers, self.lost, self.ending = f"{url}/v2/models/{NAME}/infer", 0, 0, threading.Event()

    def run(self) -> None:
        while not self.ending.wait(0.01):
            answered = servers.ask(self.url, body={"inputs": [TEXT]})
            self.answers += answered is not None
            self.lost += answered is None


def regraft(*arguments: str, may_end: tuple[int, ...] = (0,)) -> int:
    """Types a command of regraft."""
    console.print(f"\n[bold]$ regraft {' '.join(arguments)}[/]")
    done = subprocess.run([str(Path(sys.executable).with_name("regraft")), *arguments])
    if done.returncode not in may_end:
        raise SystemExit(f"demo: regraft {arguments[0]} ended with {done.returncode}, expected {may_end}")
    return done.returncode


def chapter(title: str) -> None:
    console.print()
    console.rule(f"[bold]{title}")


def written() -> Path:
    """The example's recipe, with another name, the three weeks as its data and a window of one week."""
    document: dict[str, Any] = yaml.safe_load(RECIPE.read_text())
    document["name"] = NAME
    document["data"] |= {"source": WINDOWS, "window": "7d"}
    document["training"]["epochs"] = 2  # the first week has few rows
    path = Path(".regraft") / "demo.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    recipe.load(path)
    return path


def main() -> None:
    regraft("up")
    path = str(written())
    servers = stack.read()
    client = Client(servers.triton.url if servers.triton else "")
    runs = [(FIRST_WEEK + timedelta(weeks=week)).strftime(pipeline.RUN_FORMAT) for week in (1, 2, 3)]
    ledger = Ledger(Store(STORE, NAME))

    chapter("Week 1: the first champion")
    regraft("run", path, "--run", runs[0])
    client.start()
    chapter("Week 2: four times the data, compared with the champion on the same holdout")
    regraft("run", path, "--run", runs[1])
    chapter("Week 3: a fifth of the labels is flipped")
    before = ledger.head()
    code = regraft("run", path, "--run", runs[2], may_end=(0, 10))
    if code == 0 or ledger.head() != before:
        raise SystemExit("demo: the model of the flipped labels was promoted")
    console.print("[bold green]not promoted[/]: the champion stays, for the reason above")
    chapter("A rollback, and forward again")
    regraft("rollback", NAME, "--reason", "to show it")
    regraft("promote", NAME, "--version", str(ledger.entries()[-2].version), "--reason", "to show it")
    regraft("history", NAME)
    client.ending.set()
    client.join()
    console.print(f"\nTriton answered {client.answers:,} requests meanwhile and lost {client.lost}.")
    if client.lost:
        raise SystemExit("demo: requests were lost")


if __name__ == "__main__":
    main()
