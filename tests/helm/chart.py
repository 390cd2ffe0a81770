"""The chart as helm renders it, for its tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm/regraft"
RECIPE = ROOT / "dags/recipes/movie-sentiment.yaml"
CASES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))


def tool(name: str) -> str:
    """Path of a program: what the environment says, what is on PATH, or what `make NAME` fetches."""
    return os.environ.get(name.upper()) or shutil.which(name) or str(ROOT / f".cache/{name}/{name}")


HELM = tool("helm")


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HELM, *arguments], capture_output=True, text=True)


def rendered(case: str, *options: str) -> list[dict[str, Any]]:
    """All that the chart makes of the values of one case, and of further options of helm."""
    values = str(CHART / "ci" / f"{case}-values.yaml")
    recipe = f"recipes.movie-sentiment={RECIPE}"
    done = helm("template", "shop", str(CHART), "-n", "ml", "-f", values, "--set-file", recipe, *options)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def pods(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pods, with metadata and spec, by kind and name of what makes them."""
    found = {}
    for document in documents:
        name = f"{document['kind']}/{document['metadata']['name']}"
        for path in (("template",), ("jobTemplate", "spec", "template")):
            inner = document.get("spec", {})
            for key in path:
                inner = inner.get(key, {})
            if "spec" in inner:
                found[name] = inner
        if document["kind"] == "Pod":
            found[name] = document
    return found


def variables(container: dict[str, Any]) -> dict[str, Any]:
    """A container's environment: values, or the secret and key that they come from."""
    found = {}
    for each in container.get("env", []):
        key = each.get("valueFrom", {}).get("secretKeyRef")
        found[each["name"]] = (key["name"], key["key"]) if key else each["value"]
    return found
