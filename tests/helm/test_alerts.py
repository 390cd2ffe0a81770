"""The chart's alerts, decided by Prometheus' own promtool: each one fires when it should, and not before."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.chart import CHART, HELM, ROOT, rendered, tool

PROMTOOL = tool("promtool")
PREFIX = "Regraft"
SHOP = {"model": "shop"}
SECOND = {"model": "shop", "version": "2"}
JOB_NAME = "shop-regraft-doctor-films-1"

pytestmark = [
    pytest.mark.skipif(not Path(HELM).exists(), reason="helm is not there: make helm"),
    pytest.mark.skipif(not Path(PROMTOOL).exists(), reason="promtool is not there: make promtool"),
]


def promtool(*arguments: str) -> None:
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules of the chart, as a file of Prometheus."""
    (rule,) = [each for each in rendered("ha") if each["kind"] == "PrometheusRule"]
    file = tmp_path_factory.mktemp("alerts") / "rules.yaml"
    file.write_text(yaml.safe_dump(rule["spec"]))
    return file


def requests(namespace: str = "ml", **a_minute: int) -> dict[str, str]:
    """Two hours of a Triton with a model: how much each of its counters grows in a minute."""
    labels = f'model="shop",namespace="{namespace}",pod="a",version="3"'
    return {f"nv_inference_{metric}{{{labels}}}": f"0+{growth}x120" for metric, growth in a_minute.items()}


def replicas(**held: str) -> dict[str, str]:
    """Two hours of replicas with versions of a model: the data of version 1 ended 23 days before, of 2 a day later."""
    series = {}
    for pod, versions in held.items():
        series[f'up{{namespace="ml",service="shop-regraft-triton",pod="{pod}"}}'] = "1x120"
        for version in versions:
            labels = f'namespace="ml",model="shop",pod="{pod}",version="{version}"'
            series[f"regraft_data_end_seconds{{{labels}}}"] = f"{(int(version) - 24) * 86400}x120"
    return series


def failed(namespace: str) -> dict[str, str]:
    return {f'kube_job_status_failed{{namespace="{namespace}",job_name="{JOB_NAME}"}}': "1x120"}


def decide(rules: Path, alert: str, minute: int, series: dict[str, str], fires: list[dict[str, Any]]) -> None:
    """Lets promtool compare what fires at that minute."""
    wanted = {"eval_time": f"{minute}m", "alertname": PREFIX + alert, "exp_alerts": fires}
    shown = [{"series": name, "values": values} for name, values in series.items()]
    case = {"interval": "1m", "input_series": shown, "alert_rule_test": [wanted]}
    file = rules.with_name("case.yaml")
    file.write_text(yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [case]}))
    promtool("test", "rules", str(file))


@pytest.mark.parametrize(
    ("alert", "series", "labels", "summary"),
    [
        (
            "RequestsWait",
            requests(request_success=60, queue_duration_us=60 * 200_000),
            SHOP,
            "Requests for shop wait 200 ms in Triton's queue",
        ),
        ("RequestsFail", requests(request_success=54, request_failure=6), SHOP, "10% of the requests for shop fail"),
        ("RequestsFail", requests(request_success=0, request_failure=6), SHOP, "100% of the requests for shop fail"),
        # of a hundred requests that have a hundred rows each
        (
            "RequestsFail",
            requests(request_success=98, request_failure=2, count=9800),
            SHOP,
            "2% of the requests for shop fail",
        ),
        ("ReplicasDisagree", replicas(a="2", b="1"), SECOND, "Not every replica has version 2 of shop, the newest"),
        ("ReplicasDisagree", replicas(a="12", b="1"), SECOND, "Not every replica has version 2 of shop, the newest"),
        ("ChampionIsOld", replicas(a="12"), SHOP, "shop was trained on data that ended 22.06 days ago"),
        (
            "DoctorFails",
            failed("ml"),
            {"namespace": "ml", "job_name": JOB_NAME},
            f"{JOB_NAME} could not make MLflow and Triton follow the ledger",
        ),
    ],
)
def test_an_alert_fires_and_says_what_it_saw(
    rules: Path, alert: str, series: dict[str, str], labels: dict[str, str], summary: str
) -> None:
    (rule,) = [
        each for each in yaml.safe_load(rules.read_text())["groups"][0]["rules"] if each["alert"] == PREFIX + alert
    ]
    action = re.sub(r"{{ \$labels\.(\w+) }}", lambda found: labels[found[1]], rule["annotations"]["action"])
    decide(
        rules,
        alert,
        90,
        series,
        [{"exp_labels": rule["labels"] | labels, "exp_annotations": {"summary": summary, "action": action}}],
    )


@pytest.mark.parametrize(
    ("alert", "minute", "series"),
    [
        ("RequestsWait", 90, requests(request_success=60, queue_duration_us=60 * 20_000)),
        ("RequestsWait", 90, requests("theirs", request_success=60, queue_duration_us=60 * 200_000)),
        ("RequestsWait", 5, requests(request_success=60, queue_duration_us=60 * 200_000)),
        ("RequestsFail", 90, requests(request_success=999, request_failure=1)),
        ("RequestsFail", 90, requests(request_success=0, request_failure=0)),
        ("ReplicasDisagree", 90, replicas(a="12", b="12")),
        ("ReplicasDisagree", 90, replicas(a="1", b="1")),
        ("ReplicasDisagree", 30, replicas(a="2", b="1")),  # a rollout may take its time
        ("ChampionIsOld", 90, replicas(a="9")),
        ("DoctorFails", 90, failed("theirs")),
    ],
)
def test_an_alert_is_silent_when_all_is_well(rules: Path, alert: str, minute: int, series: dict[str, str]) -> None:
    decide(rules, alert, minute, series, [])


def test_prometheus_reads_every_query_of_the_dashboards_and_of_the_guide(tmp_path: Path) -> None:
    boards = [json.loads(path.read_text()) for path in (CHART / "dashboards").glob("*.json")]
    queries = [target["expr"] for board in boards for panel in board["panels"] for target in panel.get("targets", [])]
    guide = re.findall(r"metricsQuery: \|\n((?: {8}.*\n)+)", (ROOT / "docs/kubernetes.md").read_text())
    assert len(queries) > 5
    assert len(guide) == 1
    meant = {"$__rate_interval": "5m", "$model": ".*", "<<.GroupBy>>": "pod", "<<.LabelMatchers>>": 'pod="a"'}
    known = [re.sub("|".join(map(re.escape, meant)), lambda found: meant[found[0]], query) for query in queries + guide]
    groups = [{"name": "queries", "rules": [{"record": f"q{n}", "expr": query} for n, query in enumerate(known)]}]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": groups}))
    promtool("check", "rules", str(file))
