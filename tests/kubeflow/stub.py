"""Stand-ins for the components, with the contract of real ones: written to a folder that PYTHONPATH names first."""

from __future__ import annotations

from pathlib import Path

from regraft import pipeline

STEP = """
import json, os, signal, time
from pathlib import Path
from regraft import pipeline
from regraft.errors import BadInput, Refused, Temporary
from regraft.step import Outcome, main

NAME = Path(__file__).parent.name


def inputs(context):
    found = {need: context.result(need).digest for need in pipeline.step(NAME).needs}
    return found or {"source": os.environ.get("STUB_SOURCE", "a")}


def work(context):
    mode, _, note = os.environ.get(f"STUB_{NAME.upper()}", "").partition(":")
    with Path(os.environ["STUB_WORKED"]).open("a") as file:
        file.write(NAME + "\\n")
    (context.out / "output.txt").write_text(NAME + note)
    if mode == "bad":
        raise BadInput("the data is gone", next="bring it back")
    if mode == "overtaken":
        raise Refused("another became champion first")
    if mode == "bug":
        raise KeyError("oops")
    if mode == "away" and not Path(note).exists():
        Path(note).touch()
        raise Temporary("the server is away", next="wait")
    if mode == "sleep":
        time.sleep(60)
    if mode == "killed":
        os.kill(os.getppid(), signal.SIGKILL)  # as when the pod is evicted
        os.kill(os.getpid(), signal.SIGKILL)
    if NAME == "evaluate":
        gates = [{"name": "champion", "passed": False, "undecided": True, "sentence": "it may be worse"}]
        interval = {"point": 0.6, "low": 0.5, "high": 0.7}
        challenger = {"model": "a", "metrics": {"accuracy": 0.6}, "intervals": {"accuracy": interval}}
        verdict = {"verdict": "hold", "sentence": "Hold: too few rows.", "gates": gates, "challenger": challenger}
        verdict |= {"metric": "accuracy", "rows": {"holdout": 5, "clean": 5, "contaminated": 0}, "slices": []}
        verdict |= {"champion": None, "difference": None}
        (context.out / "verdict.json").write_text(json.dumps(verdict))
        (context.out / "report.html").write_text("<h1>promote</h1>")
    metrics = {"challenger": {"accuracy": 0.6}, "rows": 5, "verdict": "promote"}
    refused = {"refused": "too few rows", "refused_by": "gate"} if mode == "refuse" else {}
    return Outcome(metrics=metrics, views=("report.html",), **refused)


main(NAME, inputs=inputs, work=work)
"""


def write(folder: Path) -> Path:
    """Makes the package `components` in a folder; gives the folder."""
    for name in (s.name for s in pipeline.STEPS):
        package = folder / "components" / name
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(STEP)
    (folder / "components" / "__init__.py").touch()
    return folder
