"""Requests a second and p99 of one text a request: what deploy serves, against what a team would write first.

    python -m benchmarks.serving [--precision auto] [--seconds 5] [--rounds 3] [--clients 1 8 32]

Trains the recipe in a folder of its own and serves it by `regraft run` (some minutes for the example), as the recipe
says or with the precision given, and again in fp32 where that is another. Beside them the same model behind FastAPI +
transformers.pipeline and `mlflow models serve`. All run at once, and take turns in every round, so that what else the
machine does hits them alike; medians of rounds count. Clients are one light process that speaks JSON over connections
kept open, see _load.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from benchmarks import _contenders, _laptop, _machine
from benchmarks._contenders import FP32, PIPELINE, Contender
from regraft import tasks


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one contender did in one round."""

    rate: float
    p50: float
    p99: float
    cpu: float
    """CPU seconds of the server for a request."""
    load: float
    """CPU seconds of the clients for a request."""


def turn(contender: Contender, bodies: Path, *, clients: int, seconds: float, ramp: float) -> Turn:
    """Lets so many clients ask for so many seconds. Ends the benchmark where an answer is not 200."""
    command = [sys.executable, "-m", "benchmarks._load", contender.url, str(bodies)]
    command += [f"--clients={clients}", f"--seconds={seconds}", f"--ramp={ramp}"]
    before = contender.cpu_seconds()
    done = subprocess.run(command, capture_output=True, text=True, env=_laptop.environment())
    used = contender.cpu_seconds() - before
    if done.returncode:
        raise SystemExit(f"{contender.name}: {done.stderr}")
    found = json.loads(done.stdout)
    latencies = sorted(found["latencies"])
    if len(latencies) < 2:
        raise SystemExit(f"{contender.name} answered {len(latencies)} requests in {seconds} s: take more --seconds")
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return Turn(
        rate=found["answered"] / seconds,
        p50=cuts[49],
        p99=cuts[98],
        cpu=used / found["sent"],
        load=found["cpu_seconds"] / found["sent"],
    )


def median(turns: list[Turn], what: str) -> float:
    return statistics.median(getattr(each, what) for each in turns)


def agreement(contenders: list[Contender], texts: list[str], offline: dict[str, tuple[str, float]]) -> Table:
    """How far answers are from torch's, and from themselves when the text shares its request with long neighbours.

    Args:
        offline: label and probability of each text.
    """
    table = Table("contender", "from torch, at most", "other labels", "alone and in a batch", "other labels")
    neighbours = sorted(texts, key=len)[-7:]
    for contender in contenders:
        alone = {text: contender.ask([text])[0] for text in texts}
        cells = list(_apart(alone, offline))
        if contender.batches:
            together = {text: contender.ask([text, *neighbours])[0] for text in texts}
            cells += _apart(together, alone)
        table.add_row(contender.name, *cells)
    return table


def _apart(some: dict[str, tuple[str, float]], others: dict[str, tuple[str, float]]) -> tuple[str, str]:
    """Largest difference of a label's probability, and how many texts have another label."""
    same = [text for text in some if some[text][0] == others[text][0]]
    largest = max((abs(some[text][1] - others[text][1]) for text in same), default=0.0)
    return f"{largest:.2g}", f"{len(some) - len(same)} of {len(some)}"


def targets(turns: dict[tuple[int, str], list[Turn]], served: str) -> list[str]:
    """The ratios that the served model is to reach against the pipeline; printed, not asserted."""
    aims = [(32, "rate", "requests a second", "at least 5"), (1, "rate", "requests a second", "at least 1")]
    aims += [(32, "p99", "p99", "at most 0.25")]
    return [
        f"{clients} clients, {words} of {served} against {PIPELINE}: "
        f"{median(turns[clients, served], what) / median(turns[clients, PIPELINE], what):.2f} (target: {aim})"
        for clients, what, words, aim in aims
        if (clients, served) in turns
    ]


def texts_of(laptop: _laptop.Laptop, scratch: Path, count: int) -> list[str]:
    """Different texts of the holdout."""
    import pyarrow.parquet as pq

    pointer = laptop.store.read_json(f"runs/{_laptop.RUN}/validate.json")
    manifest = laptop.store.manifest(f"validate/{pointer['identity']}")
    assert manifest is not None
    folder = laptop.store.fetch(f"validate/{manifest.identity}", manifest, scratch, only=("holdout.parquet",))
    return list(dict.fromkeys(pq.read_table(folder / "holdout.parquet", columns=["text"])["text"].to_pylist()))[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=_laptop.EXAMPLE)
    parser.add_argument("--store", type=Path, help="folder of a store to begin with a copy of, so that less is to do")
    parser.add_argument("--precision", help="serving.precision of what is measured (default: the recipe's)")
    parser.add_argument("--seconds", type=float, default=5, help="of each turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--texts", type=int, default=300, help="of the holdout, for agreement (default: %(default)s)")
    arguments = parser.parse_args()
    _machine.show()
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        wanted = {"serving": {"precision": arguments.precision}} if arguments.precision else {}
        laptop = stack.enter_context(
            _laptop.up(folder / "served", arguments.recipe, store=arguments.store, changes=wanted)
        )
        served = _contenders.of_regraft(laptop)
        contenders = [served]
        if not served.name.startswith(FP32):
            store = _laptop.trained(laptop, folder / "trained")
            changes = {"serving": {"precision": "fp32"}}
            plain = stack.enter_context(_laptop.up(folder / "fp32", arguments.recipe, store=store, changes=changes))
            contenders.append(_contenders.of_regraft(plain))
        classifier = _contenders.champion(laptop, folder)
        classifier.model.save_pretrained(folder / "model")
        classifier.tokenizer.save_pretrained(folder / "model")
        contenders.append(stack.enter_context(_contenders.fastapi(folder, folder / "model", classifier.max_length)))
        contenders.append(stack.enter_context(_contenders.mlflow(folder, classifier)))
        texts = texts_of(laptop, folder / "texts", 2000)
        few = texts[: arguments.texts]
        names = laptop.recipe.data.labels
        answers = tasks.of(laptop.recipe.task).answers(classifier, pa.table({"text": few})).columns
        scores = zip(few, np.stack(answers, axis=1), strict=True)
        offline = {text: (names[int(row.argmax())], float(row.max())) for text, row in scores}
        Console(width=110).print(agreement(contenders, few, offline))  # first, so that all are warm
        compete(
            contenders, texts, folder, clients=arguments.clients, rounds=arguments.rounds, seconds=arguments.seconds
        )


def compete(
    contenders: list[Contender], texts: list[str], folder: Path, *, clients: list[int], rounds: int, seconds: float
) -> None:
    """Lets all contenders answer in turns, and prints how fast they did."""
    table = Table("clients", "contender", "requests/s", "p50 ms", "p99 ms", "CPU ms/request", "x pipeline", "p99 x")
    bodies = {contender.name: folder / f"bodies-{number}" for number, contender in enumerate(contenders)}
    for contender in contenders:
        lines = [json.dumps(contender.body([text])) for text in texts]
        bodies[contender.name].write_text("\n".join(lines) + "\n")
    turns: dict[tuple[int, str], list[Turn]] = {}
    ramp = min(1.0, seconds / 2)
    for number in clients:
        for _ in range(rounds):
            for contender in contenders:
                taken = turn(contender, bodies[contender.name], clients=number, seconds=seconds, ramp=ramp)
                turns.setdefault((number, contender.name), []).append(taken)
        reference = turns[number, PIPELINE]
        for contender in contenders:
            some = turns[number, contender.name]
            table.add_row(
                str(number),
                contender.name,
                f"{median(some, 'rate'):.1f}",
                *(f"{median(some, what) * 1000:.1f}" for what in ("p50", "p99", "cpu")),
                *(f"{median(some, what) / median(reference, what):.2f}" for what in ("rate", "p99")),
            )
    Console(width=110).print(table)
    load = max(each.load for some in turns.values() for each in some)
    print(f"The clients themselves took at most {load * 1000:.2f} CPU ms a request.")
    print(*targets(turns, contenders[0].name), sep="\n", flush=True)


if __name__ == "__main__":
    main()
