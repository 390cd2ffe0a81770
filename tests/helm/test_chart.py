"""The chart, rendered for several clusters: valid for a current Kubernetes and for 1.20, and safe everywhere."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.chart import CASES, CHART, HELM, ROOT, helm, pods, rendered, variables

MODERN = ("--kube-version=1.35.0",)
OLD = ("--kube-version=1.20.2",)

pytestmark = pytest.mark.skipif(not Path(HELM).exists(), reason="helm is not there: make helm")


def one(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The object of that kind and name."""
    (found,) = [each for each in documents if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def container(documents: list[dict[str, Any]], pod: str) -> dict[str, Any]:
    """The one container of a pod."""
    found: list[dict[str, Any]] = pods(documents)[pod]["spec"]["containers"]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("case", CASES)
def test_the_chart_is_clean_under_lint(case: str) -> None:
    done = helm("lint", "--strict", str(CHART), "-f", str(CHART / "ci" / f"{case}-values.yaml"))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("case", CASES)
def test_what_it_renders_is_valid_for_a_current_kubernetes(case: str, tmp_path: Path) -> None:
    file = tmp_path / "rendered.yaml"
    file.write_text(yaml.safe_dump_all(rendered(case, *MODERN)))
    command = [str(Path(sys.executable).with_name("kubernetes-validate")), "--strict", "-k", "1.35", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    unknown = [line for line in done.stdout.splitlines() if line.startswith("WARN")]
    assert all("with api version monitoring.coreos.com/" in line for line in unknown), unknown


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cluster", [MODERN, OLD], ids=["current", "1.20"])
def test_every_pod_is_restricted(case: str, cluster: tuple[str, ...]) -> None:
    found = pods(rendered(case, *cluster))
    assert found
    for name, pod in ((name, template["spec"]) for name, template in found.items()):
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is ("doctor" in name), name  # it asks which replicas there are
        assert not any("hostPath" in volume for volume in pod.get("volumes", [])), name
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]), name
            assert not container["image"].endswith(":latest"), name
            assert ":" in container["image"], name


def test_an_image_whose_digest_is_known_is_that_one_whatever_its_tag() -> None:
    digest = f"sha256:{'5' * 64}"
    documents = rendered("ha", *MODERN, "--set", f"images.digests.triton={digest}")
    images = {each["image"] for pod in pods(documents).values() for each in pod["spec"]["containers"]}
    assert all(image.endswith(f"@{digest}") == ("regraft-triton:" in image) for image in images)
    assert any(image.endswith(f"@{digest}") for image in images)


def test_the_key_that_the_store_is_signed_with_is_the_doctors_alone() -> None:
    documents = rendered("ha", *MODERN, "--set", "store.signingSecret=ours")
    assert pods(documents)
    for name, pod in pods(documents).items():
        for each in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]:
            key = ("ours", "REGRAFT_SIGNING_KEY") if "doctor" in name else None
            assert variables(each).get("REGRAFT_SIGNING_KEY") == key, name


def test_old_clusters_get_the_versions_that_they_know() -> None:
    kinds = {document["kind"]: document["apiVersion"] for document in rendered("ha", *OLD)}
    assert kinds["CronJob"] == "batch/v1beta1"
    assert kinds["PodDisruptionBudget"] == "policy/v1beta1"
    assert kinds["HorizontalPodAutoscaler"] == "autoscaling/v2beta2"


def test_names_that_are_cut_stay_two(tmp_path: Path) -> None:
    """Kubernetes takes 63 characters of a name, and 52 of a CronJob's."""
    long = "customer-support-tickets-sentiment-in"
    recipes = [f"{long}-{language}" for language in ("en", "de")] + ["short", "a" * 63]
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"recipes": dict.fromkeys(recipes, "name: x")}))
    names = {}
    for release in (
        "regraft",
        "a-release-with-a-name-of-fifty-characters-or-so-en",
        "a-release-with-a-name-of-fifty-characters-or-so-de",
    ):
        given = ("-f", str(CHART / "ci/ha-values.yaml"), "-f", str(values))
        done = helm("template", release, str(CHART), "-n", "ml", *given)
        assert done.returncode == 0, done.stderr
        documents = [each for each in yaml.safe_load_all(done.stdout) if each]
        names[release] = {(each["kind"], each["metadata"]["name"]) for each in documents}
        assert len(names[release]) == len(documents), "each object has a name of its own"
        assert max(len(name) for _, name in names[release]) <= 63
        jobs = sorted(name for kind, name in names[release] if kind == "CronJob")
        assert len(jobs) == len(recipes)
        assert max(map(len, jobs)) <= 52
        (watched,) = re.findall(r'job_name=~\\?"([^"\\]*)', done.stdout)
        assert all(re.fullmatch(watched, job) for job in jobs), "the alert on failed jobs sees them all"
    regraft, first, second = names.values()
    shared = {name for name in first & second if name[1] not in {"regraft-pipeline", "regraft-deploy"}}
    assert not shared, "two releases of one namespace do not share objects"
    assert ("CronJob", "regraft-doctor-short") in regraft


def test_gpus_are_limits_of_triton() -> None:
    triton = container(rendered("gpu"), "Deployment/shop-regraft-triton")
    limits = triton["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == 1
    assert limits["memory"]
    assert triton["args"][-2:] == ["--", "--allow-gpu-metrics=true"]
    both = container(rendered("gpu", "--set=triton.extraArgs={--log-verbose=1}"), "Deployment/shop-regraft-triton")
    assert both["args"][-3:] == ["--", "--allow-gpu-metrics=true", "--log-verbose=1"]


@pytest.mark.parametrize("case", CASES)
def test_triton_starts_as_its_image_says_with_the_front_that_clients_cannot_kill(case: str) -> None:
    triton = container(rendered(case), "Deployment/shop-regraft-triton")
    assert "command" not in triton
    assert not any("http-address" in each or "http-port" in each for each in triton["args"])
    (entrypoint,) = re.findall("^ENTRYPOINT (.*)$", (ROOT / "docker/triton.Dockerfile").read_text(), re.MULTILINE)
    assert json.loads(entrypoint)[-1] == "--front"
    assert {triton[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")} == {
        "http"
    }


def test_replicas_of_triton_are_replaced_warm_and_spread_over_nodes() -> None:
    triton = one(rendered("minimal"), "Deployment", "shop-regraft-triton")
    assert triton["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }
    (spread,) = triton["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    assert spread["labelSelector"] == triton["spec"]["selector"]


def test_triton_may_be_replaced_cold_where_there_is_no_room() -> None:
    triton = one(rendered("gpu"), "Deployment", "shop-regraft-triton")
    assert triton["spec"]["strategy"] == {"type": "Recreate"}
    assert triton["spec"]["template"]["spec"]["runtimeClassName"] == "nvidia"


def test_the_autoscaler_scales_triton() -> None:
    documents = rendered("ha")
    (scaler,) = [each for each in documents if each["kind"] == "HorizontalPodAutoscaler"]
    target = scaler["spec"]["scaleTargetRef"]
    triton = one(documents, target["kind"], target["name"])
    assert triton["apiVersion"] == target["apiVersion"]
    assert "replicas" not in triton["spec"]


@pytest.mark.parametrize(("case", "secret"), [("ha", "regraft-triton"), ("minimal", "shop-regraft-triton")])
def test_triton_and_the_doctor_share_the_token_of_control(case: str, secret: str) -> None:
    token = (secret, "REGRAFT_TRITON_TOKEN")
    documents = rendered(case)
    doctor = pods(documents)["CronJob/shop-regraft-doctor-movie-sentiment"]["spec"]
    triton = container(documents, "Deployment/shop-regraft-triton")
    for each in [triton, *doctor["containers"]]:
        assert variables(each)["REGRAFT_TRITON_TOKEN"] == token
    (follows_mlflow,) = doctor["initContainers"]
    assert "REGRAFT_TRITON_TOKEN" not in variables(follows_mlflow)


def test_a_token_of_control_is_made_where_none_is_named() -> None:
    assert not [each for each in rendered("ha") if each["kind"] == "Secret"]
    made = [one(rendered("minimal"), "Secret", "shop-regraft-triton")["data"] for _ in range(2)]
    tokens = {base64.b64decode(each["REGRAFT_TRITON_TOKEN"]).decode() for each in made}
    assert len(tokens) == 2, "helm that only renders finds none to keep"
    assert all(re.fullmatch("[0-9A-Za-z]{48}", token) for token in tokens)


@pytest.mark.parametrize("case", CASES)
def test_no_pod_fills_its_node(case: str) -> None:
    options = ["mlflow.scratch=3Gi", "triton.scratch=4Gi", "triton.sharedMemory=5Gi", "doctor.scratch=6Gi"]
    made = rendered(case, *(f"--set={option}" for option in options))
    volumes = [volume for pod in pods(made).values() for volume in pod["spec"].get("volumes", [])]
    limits = {volume["emptyDir"]["sizeLimit"] for volume in volumes if "emptyDir" in volume}
    assert limits == {"3Gi", "4Gi", "5Gi", "6Gi"}


@pytest.mark.parametrize("case", CASES)
def test_no_secret_is_on_a_command_line(case: str) -> None:
    for pod in pods(rendered(case)).values():
        for each in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]:
            words = [*each.get("command", []), *each.get("args", [])]
            secret = {name for name, value in variables(each).items() if isinstance(value, tuple)}
            assert not [name for name in secret for word in words if f"$({name})" in word], words


@pytest.mark.parametrize(("tls", "scheme"), [("mlflow-tls", "https"), ("", "http")])
def test_mlflow_knows_the_name_that_the_ingress_gives_it(tls: str, scheme: str) -> None:
    documents = rendered("ha", f"--set=mlflow.ingress.tlsSecret={tls}")
    arguments = dict(
        each.split("=", 1) for each in container(documents, "Deployment/shop-regraft-mlflow")["args"] if "=" in each
    )
    assert "mlflow.example.com" in arguments["--allowed-hosts"].split(",")
    assert "shop-regraft-mlflow:5000" in arguments["--allowed-hosts"].split(",")
    assert arguments["--cors-allowed-origins"] == f"{scheme}://mlflow.example.com"


@pytest.mark.parametrize(("case", "secret"), [("ha", "mlflow-auth"), ("minimal", "shop-regraft-mlflow")])
def test_mlflow_and_the_doctor_share_the_password(case: str, secret: str) -> None:
    documents = rendered(case)
    server = pods(documents)["Deployment/shop-regraft-mlflow"]["spec"]
    doctor = pods(documents)["CronJob/shop-regraft-doctor-movie-sentiment"]["spec"]
    for part in ("USERNAME", "PASSWORD"):
        sent = (secret, f"MLFLOW_TRACKING_{part}")
        for each in [*server["containers"], *server["initContainers"]]:
            assert variables(each)[f"MLFLOW_AUTH_ADMIN_{part}"] == sent
        for each in [*doctor["containers"], *doctor["initContainers"]]:
            assert variables(each)[f"MLFLOW_TRACKING_{part}"] == sent
    triton = container(documents, "Deployment/shop-regraft-triton")
    assert not [name for name in variables(triton) if "MLFLOW" in name]


def test_a_password_of_mlflow_is_made_where_none_is_named() -> None:
    made = [one(rendered("minimal"), "Secret", "shop-regraft-mlflow")["data"] for _ in range(2)]
    words = [base64.b64decode(each[key]).decode() for each in made for key in sorted(each)[:2]]
    assert sorted(made[0]) == ["MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_USERNAME"]
    assert len(set(words)) == 4, "helm that only renders finds none to keep"
    assert all(re.fullmatch("[0-9A-Za-z]{48}", word) for word in words)


def test_another_mlflow_is_sent_the_password_of_the_secret_that_is_named_for_it() -> None:
    other = ("--set=mlflow.enabled=false", "--set=mlflow.externalUrl=https://mlflow.example.com")
    for more, expected in (((), None), (("--set=mlflow.auth.existingSecret=theirs",), "theirs")):
        documents = rendered("minimal", *other, *more)
        assert [each["metadata"]["name"] for each in documents if each["kind"] == "Secret"] == ["shop-regraft-triton"]
        (doctor,) = pods(documents)["CronJob/shop-regraft-doctor-movie-sentiment"]["spec"]["initContainers"]
        assert variables(doctor).get("MLFLOW_TRACKING_PASSWORD", (None, ""))[0] == expected


def notes(tmp_path: Path, *options: str) -> str:
    """What people read after an install: helm shows it to those with a cluster only."""
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart, dirs_exist_ok=True)
    text = (CHART / "templates/NOTES.txt").read_text()
    shown = '{kind: Notes, metadata: {name: notes}, text: {{ include "notes" . | toJson }}}'
    (chart / "templates/notes.yaml").write_text(f'{{{{ define "notes" }}}}{text}{{{{ end }}}}\n{shown}\n')
    done = helm("template", "shop", str(chart), "-n", "ml", "-f", str(CHART / "ci/minimal-values.yaml"), *options)
    assert done.returncode == 0, done.stderr
    (found,) = [each["text"] for each in yaml.safe_load_all(done.stdout) if each and each["kind"] == "Notes"]
    return str(found)


def test_the_notes_say_how_to_read_the_password_and_what_to_write_into_cluster_yaml(tmp_path: Path) -> None:
    told = notes(tmp_path)
    assert "-n ml get secret shop-regraft-mlflow -o jsonpath='{.data.MLFLOW_TRACKING_PASSWORD}' | base64 -d" in told
    assert yaml.safe_load(told[told.index("  secrets:") :]) == {
        "secrets": {
            "shop-regraft-triton": ["REGRAFT_TRITON_TOKEN"],
            "shop-regraft-mlflow": ["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"],
        }
    }
    off = notes(tmp_path, "--set=mlflow.auth.enabled=false")
    assert "It asks for no password" in off
    assert "shop-regraft-mlflow:" not in off


def test_the_shipped_settings_of_a_cluster_name_the_secrets_that_the_chart_makes() -> None:
    made = helm("template", "regraft", str(CHART), "-f", str(CHART / "ci/minimal-values.yaml")).stdout
    keys = {
        each["metadata"]["name"]: set(each["data"]) for each in yaml.safe_load_all(made) if each["kind"] == "Secret"
    }
    named = yaml.safe_load((ROOT / "dags/cluster.yaml").read_text())["secrets"]
    assert keys.keys() == named.keys() - {"regraft-store"}
    assert all(set(named[name]) <= keys[name] for name in keys)


def test_the_database_is_migrated_before_an_upgrade_when_told_to() -> None:
    (job,) = [each for each in rendered("ha") if each["kind"] == "Job"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-upgrade"
    assert not [each for each in rendered("minimal") if each["kind"] == "Job"]


def test_who_opens_the_bucket_has_the_identity_of_the_values() -> None:
    accounts = {
        each["metadata"]["name"]: each["metadata"].get("annotations", {})
        for each in rendered("ha")
        if each["kind"] == "ServiceAccount"
    }
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/regraft"}
    assert accounts == {
        "shop-regraft-mlflow": role,
        "regraft-pipeline": role,
        "regraft-deploy": role,
        "shop-regraft-triton": {},
        "shop-regraft-openai": {},
    }


def test_helm_test_is_python_that_asks_for_what_clients_may_ask() -> None:
    for case, code in [("minimal", "sys.exit(0)"), ("ha", "sys.exit(1)")]:
        python, _, program = container(rendered(case), "Pod/shop-regraft-test")["command"]
        compile(program, "inference", "exec")
        assert python == "python3"
        assert code in program
        assert "repository" not in program


def test_metrics_that_the_network_policies_would_hide_are_refused() -> None:
    values = str(CHART / "ci/ha-values.yaml")
    done = helm("template", "shop", str(CHART), "-f", values, "--set=networkPolicy.prometheusNamespace=")
    assert done.returncode != 0
    assert "networkPolicy.prometheusNamespace is needed" in done.stderr


def test_no_secret_is_in_what_it_renders() -> None:
    named = ("--set=triton.controlSecret=regraft-triton", "--set=mlflow.auth.existingSecret=mlflow-auth")
    documents = rendered("air-gapped", *named)
    assert not [document for document in documents if document["kind"] == "Secret"]


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("mlflow.wrong=1", "Additional property wrong is not allowed"),
        ("images.pullPolicy=Sometimes", "pullPolicy"),
        ("mlflow.auth.defaultPermission=ADMIN", "defaultPermission"),
        ("triton.replicas=0", "replicas"),
        ("triton.strategy.type=OnDelete", "strategy"),
    ],
)
def test_values_that_are_wrong_are_named(setting: str, complaint: str) -> None:
    done = helm("template", "shop", str(CHART), "-f", str(CHART / "ci/minimal-values.yaml"), "--set", setting)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_a_database_that_is_not_named_is_asked_for() -> None:
    done = helm("template", "shop", str(CHART))
    assert done.returncode != 0
    assert "mlflow.backendStore.existingSecret is needed" in done.stderr
