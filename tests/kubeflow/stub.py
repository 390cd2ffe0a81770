"""Stand-ins for the components, with the contract of real ones: written to a folder that PYTHONPATH names first."""

from __future__ import annotations

from pathlib import Path

from regraft import pipeline

STEP = """
import os, signal, time
from pathlib import Path
from regraft import pipeline
from regraft.errors import BadInput, Temporary
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
        import pyarrow, pyarrow.parquet
        sure = [0.9, 0.1, 0.1, 0.1, 0.9]  # of the label 0
        challenger = {"challenger.p0": sure, "challenger.p1": [1 - p for p in sure]}
        rows = pyarrow.table({"label": [0, 0, 1, 1, 1], **challenger})
        pyarrow.parquet.write_table(rows, context.out / "predictions.parquet")
        (context.out / "report.html").write_text("<h1>promote</h1>")
    metrics = {"challenger": {"accuracy": 0.6}, "rows": 5, "verdict": "promote"}
    return Outcome(metrics=metrics, views=("report.html",), refused="too few rows" if mode == "refuse" else None)


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
