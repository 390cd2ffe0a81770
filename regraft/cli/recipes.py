"""Commands on recipes: check, schema, compile, submit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regraft.cli.app import Json, RecipeFile, acts, app, show

if TYPE_CHECKING:
    from regraft.parts import Recipe

ClusterFile = Annotated[
    Path | None, typer.Option("--cluster", help="YAML file that says where pods run.", metavar="FILE")
]


@app.command(epilog="Example: `regraft check dags/recipes/movie-sentiment.yaml`")
@app.command("validate", hidden=True)  # its name until 0.1; the step validate checks data
@acts
def check(recipe: RecipeFile, cluster: ClusterFile = None, as_json: Json = False) -> None:
    """Checks a recipe: finds **all** its errors at once, each with its line; also what it asks for or names beyond what
    REGRAFT_CEILINGS, _VARIABLES, _PROTOCOLS and _REMOTE_CODE say here, or in the cluster's settings."""
    from rich.markup import escape

    from regraft import base_model, pipeline
    from regraft import recipe as recipes
    from regraft.runners import cluster as clusters

    environment = {**os.environ, **clusters.load(cluster).environment}
    declared = recipes.load(recipe, environment=environment)
    _may_be_named(recipe, declared, environment)
    if folder := base_model.at_hand(declared):
        base_model.check(declared, folder)
    document: dict[str, Any] = {"recipe": declared.name, "task": declared.task, "run": pipeline.run_id(declared)}
    text = (
        f"[green]✔[/] {escape(str(recipe))}: {declared.name}, {declared.task}; the run that is due is {document['run']}"
    )
    show(document, text, as_json=as_json)


def _may_be_named(file: Path, declared: Recipe, environment: dict[str, str]) -> None:
    """Raises BadInput where a location names what it may not, or is none with its variables put in."""
    from regraft import locations, yaml_marks
    from regraft import recipe as recipes
    from regraft.errors import BadInput

    problems, mends = [], []
    root, _, _ = yaml_marks.read(file.read_text(encoding="utf-8"), where=str(file))
    for key, location in recipes.locations(declared).items():
        try:
            if declared.schedule and key == "schedule.asset":
                locations.asset(declared.schedule, environment)
            else:
                locations.allowed(location, environment)
        except BadInput as error:
            problems.append((yaml_marks.line(root, tuple(key.split("."))), f"{key}: {error.what}"))
            mends += [error.next] if error.next else []
    if problems:
        raise yaml_marks.refused(problems, where=str(file), next="; ".join(dict.fromkeys(mends)) or None)


@app.command(epilog="Example: `regraft schema > regraft/recipe.schema.json`")
@acts
def schema() -> None:
    """Prints the JSON schema of recipes, from which editors complete."""
    import json

    from regraft import recipe as recipes

    typer.echo(json.dumps(recipes.json_schema(), indent=2))


@app.command("compile", epilog="Example: `regraft compile RECIPE --cluster dags/cluster.yaml -o pipeline.yaml`")
@acts
def compile_recipe(
    recipe: RecipeFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.", metavar="FILE")],
    to: Annotated[str, typer.Option("--to", help="What to compile to: kfp.")] = "kfp",
    cluster: ClusterFile = None,
) -> None:
    """Compiles a recipe to a Kubeflow pipeline; needs the extra `kfp`."""
    from regraft.runners import cluster as clusters
    from regraft.runners import kubeflow

    _only_kubeflow(to)
    kubeflow.compile_recipe(recipe, out, cluster=clusters.load(cluster))
    typer.echo(f"wrote {out}")


@app.command(epilog="Example: `regraft submit RECIPE --host http://localhost:8080 --schedule`")
@acts
def submit(
    recipe: RecipeFile,
    host: Annotated[str, typer.Option("--host", envvar="KF_PIPELINES_ENDPOINT", help="URL of Kubeflow Pipelines.")],
    to: Annotated[str, typer.Option("--to", help="Where to: kfp.")] = "kfp",
    schedule: Annotated[bool, typer.Option("--schedule", help="A recurring run instead of one run.")] = False,
    namespace: Annotated[str | None, typer.Option("--namespace", help="Namespace of the profile.")] = None,
    cluster: ClusterFile = None,
    as_json: Json = False,
) -> None:
    """Uploads a recipe's pipeline to Kubeflow Pipelines and starts or schedules it; needs the extra `kfp`."""
    from dataclasses import asdict

    from regraft.runners import cluster as clusters
    from regraft.runners import kubeflow

    _only_kubeflow(to)
    submitted = kubeflow.submit(
        recipe, host=host, cluster=clusters.load(cluster), schedule=schedule, namespace=namespace
    )
    show(asdict(submitted), f"{submitted.change}: {submitted.url}", as_json=as_json)


def _only_kubeflow(to: str) -> None:
    from regraft.errors import BadInput

    if to != "kfp":
        raise BadInput(f"--to {to}: recipes compile to kfp only; Airflow reads them from dags/recipes as they are")
