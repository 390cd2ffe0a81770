"""A step reads what it declares of the recipe, and nothing else."""

from __future__ import annotations

import operator
import pickle
from pathlib import Path

import jinja2
import pytest
from pydantic import BaseModel

from regraft import narrowed, pipeline, recipe
from regraft.narrowed import NotDeclared
from regraft.parts import Recipe
from regraft.step import Context
from regraft.store import Store
from tests.unit.test_recipe import MINIMAL

RECIPE = recipe.parse(MINIMAL)
SEEN = narrowed.to(("name", "data.columns.text", "training", "gates.forgetting.anchor"), RECIPE, reader="step finetune")


def test_what_is_declared_or_below_it_is_read_as_ever() -> None:
    assert SEEN.name == RECIPE.name
    assert SEEN.data.columns.text == RECIPE.data.columns.text
    assert SEEN.training == RECIPE.training
    assert SEEN.training.model_dump() == RECIPE.training.model_dump()


@pytest.mark.parametrize("field", ["owner", "data.source", "data.columns.label", "gates.metric", "model_copy"])
def test_what_is_not_declared_is_a_bug_that_names_step_and_field(field: str) -> None:
    with pytest.raises(NotDeclared, match=f"step finetune reads {field}, which"):
        operator.attrgetter(field)(SEEN)


def test_an_optional_part_that_is_left_out_is_none() -> None:
    assert SEEN.gates.forgetting is None


def test_a_template_that_reads_what_is_not_declared_fails() -> None:
    template = jinja2.Template("{{ recipe.name }} {{ recipe.owner }}")
    with pytest.raises(NotDeclared):
        template.render(recipe=SEEN)


def test_a_narrowed_recipe_can_be_narrowed_again_compared_and_pickled() -> None:
    again = narrowed.to(("data.columns.text",), SEEN, reader="a test")
    assert again.data.columns.text == RECIPE.data.columns.text
    with pytest.raises(NotDeclared, match=r"a test reads data\.columns\.label"):
        _ = again.data.columns.label
    assert pickle.loads(pickle.dumps(SEEN)) == SEEN


def test_a_context_has_the_recipe_as_its_step_sees_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), RECIPE.name)
    step = pipeline.step("validate")
    context = Context(recipe=RECIPE, store=store, run="2026-11-24T03-00", step=step, scratch=tmp_path)
    assert context.recipe.data.splits == RECIPE.data.splits
    with pytest.raises(NotDeclared, match=r"step validate reads gates\.metric"):
        _ = context.recipe.gates.metric


def field_of(model: type[BaseModel], path: str) -> object:
    """Whether a recipe has such a field, also below parts that may be left out."""
    first, _, rest = path.partition(".")
    annotation = model.model_fields[first].annotation
    if not rest:
        return annotation
    parts = [annotation, *getattr(annotation, "__args__", ())]
    return field_of(next(part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)), rest)


@pytest.mark.parametrize("step", pipeline.STEPS, ids=lambda step: step.name)
def test_each_field_that_a_step_declares_is_one_and_is_declared_once(step: pipeline.Step) -> None:
    declared = [*step.recipe, *step.besides]
    for field in declared:
        field_of(Recipe, field)
        assert not [other for other in declared if field.startswith(f"{other}.")], field
    assert len(set(declared)) == len(declared)


@pytest.mark.parametrize("step", pipeline.STEPS, ids=lambda step: step.name)
def test_what_counts_for_the_identity_is_the_same_however_narrow_the_recipe(step: pipeline.Step) -> None:
    whole = RECIPE.model_dump(mode="json")
    part = pipeline.recipe_part(RECIPE, step)
    assert part == pipeline.recipe_part(pipeline.for_step(RECIPE, step), step)
    for field, value in part.items():
        expected = whole
        for key in field.split("."):
            expected = expected[key]
        assert value == expected, field
