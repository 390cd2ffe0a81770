"""Recipes that hold, of all kinds: what every runner must be able to take.

    python -m tests.recipes FOLDER

writes some into files, always the same, for the environments of Airflow and Kubeflow, which have no hypothesis.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from regraft import recipe
from regraft.errors import BadInput
from tests.schedules import CRONS, HOURLY, ZONES

COUNT = 60


def part(required: dict[str, Any] | None = None, **optional: Any) -> Any:
    return st.fixed_dictionaries(required or {}, optional=optional)


# Letters that programs trip over: quotes, templates of Jinja and Kubeflow, HTML, YAML, both forms of an accent.
odd = st.sampled_from(
    ["{{ x }}", "{% x %}", "{{$.x}}", "<b>&amp;", "'", '"', "|", "\\", "#", "$(X)", "${X:-y}", "%s", "- a", "*", "!x"]
) | st.sampled_from(["e\u0301", "\u00e9", "\U0001f600", "\u2028", "\ufeff", "null", "1e5", "yes", "~", ":"])
letters = st.characters(exclude_categories=["Cc", "Cs"])
words = st.lists(odd | st.text(letters, min_size=1, max_size=12), min_size=1, max_size=4).map("".join)
text = words.map(str.strip).filter(bool)
share = st.sampled_from([0, 1, 0.5]) | st.floats(0, 1)
count = st.integers(1, 10**9)
duration = st.sampled_from(["1h", "5200w", "36400d", "26w", "0012h"])
location = st.sampled_from(
    [
        "x",
        "s3://bucket/a b/*.parquet",
        "gs://b/[a-z].csv",
        "${REGRAFT_DATA:-y}/z",
        "hdfs://h:1/x",
        "https://h/x?a=b&c#d",
        "file:///x",
    ]
) | text.map(lambda word: "data/" + word)
nowhere = st.sampled_from(
    [
        "file:///" + "x" * 300,
        "package://nope/x",
        "tar://x::nope.tar",
        "simplecache::x",
        "reference://x",
        "ftp://nope.invalid/x",
        "${REGRAFT_DATA:-package://nope.sub/x}",
        "${REGRAFT_DATA:-http://[x/y}",
        "${REGRAFT_DATA:-s3://}",
    ]
)
expression = st.sampled_from([*CRONS, *HOURLY, "0 3 * * 7", "0 0 1,15 jan-DEC/2 *", "59 23 31 12 mon-fri"])
schedule = part({"cron": expression}, timezone=st.sampled_from(ZONES), deadline=duration) | part(
    {"asset": location.filter(lambda word: "${" not in word) | text.map(lambda word: f"s3://bucket/{word}")},
    watch=st.booleans(),
    deadline=duration,
)
resources = part(
    cpu=st.sampled_from([0.01, 1024, 0.333333, 1e-2, 1]),
    memory=st.sampled_from(["64Mi", "9999999Gi", "2Gi"]),
    gpu=st.integers(0, 64),
)
check = st.fixed_dictionaries({"max": share}, optional={"severity": st.sampled_from(["critical", "warning"])})
documents = part(
    {
        "name": st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True),
        "task": st.just("text-classification"),
        "data": part(
            {
                "source": location,
                "columns": part({"text": text, "label": text}, time=text, slices=st.lists(text, max_size=2)),
                "labels": st.lists(text, min_size=2, max_size=4),
            },
            window=duration | st.none(),
            splits=part(dev=st.floats(0.01, 0.4), holdout=st.floats(0.01, 0.4)),
            quarantine=share,
            contract=part(
                rows=part(min=count, max_shrink=share),
                labels=part(min_share=share),
                characters=part({"max": count}, min=st.integers(0, 5)),
                nulls=check,
                freshness=part({"max_age": duration}),
                drift=check,
            ),
        ),
        "base_model": part({"source": location | nowhere})
        | part({"source": st.just("hf://a/b"), "revision": st.just("0123456789abcdef0123456789abcdef01234567")}),
    },
    description=st.text(letters | st.sampled_from("\n\t"), max_size=50) | st.just("components:\n") | words,
    owner=text,
    adapter=part(r=st.integers(1, 512), alpha=st.integers(1, 65_536), target_modules=st.lists(text, max_size=2)),
    training=part(
        epochs=st.floats(0.01, 1000) | st.integers(1, 1000),
        learning_rate=st.floats(1e-300, 0.9) | st.sampled_from(["1e-3", 1e-05]),
        batch_size=st.integers(1, 65_536),
        seed=st.integers(0, 2**32 - 1),
        warmup=share,
        early_stopping=st.none() | part(patience=count),
    ),
    gates=part(
        margin=share,
        confidence=st.floats(0.51, 0.99),
        floors=st.dictionaries(st.sampled_from(["accuracy", "f1_macro"]), share),
        forgetting=part({"anchor": location}),
        max_latency_ms=st.floats(1e-3, 3_600_000),
    ),
    promotion=st.sampled_from(["automatic", "approval"]),
    serving=part(
        max_batch_size=st.integers(1, 1024),
        queue_delay_ms=st.floats(0, 60_000),
        instances=st.integers(1, 256),
        latency_budget_ms=st.floats(1e-3, 3_600_000),
    ),
    schedule=st.none() | schedule,
    resources=st.dictionaries(st.sampled_from(["validate", "finetune", "evaluate", "promote", "deploy"]), resources),
)


def written(document: dict[str, Any]) -> str:
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def holds(content: str) -> bool:
    try:
        recipe.parse(content)
    except BadInput:
        return False
    return True


texts = documents.map(written).filter(holds)
"""Recipes that `recipe.parse` accepts."""


def main(folder: Path) -> None:
    """Writes COUNT recipes, each under a name of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    made: list[str] = []

    @seed(11)
    @settings(
        database=None,
        deadline=None,
        max_examples=COUNT,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(texts)
    def collect(content: str) -> None:
        made.append(content)

    collect()
    for number, content in enumerate(made):
        document = {**yaml.safe_load(content), "name": f"recipe-{number:03}"}
        (folder / f"recipe-{number:03}.yaml").write_text(written(document), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
