"""A language model as MLflow loads it: by regraft's own code, which lies beside it; see `regraft.causal.package`."""

from importlib import import_module
from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from regraft.causal import package


class Model(PythonModel):
    """Answers texts: most tasks in words, some in numbers."""

    def load_context(self, context: Any) -> None:
        base = context.artifacts.get("base")
        settings = context.model_config
        self.model = package.opened(Path(context.artifacts["model"]), settings, base=Path(base) if base else None)
        module, name = settings["answers"]
        self._said = getattr(import_module(module), name)

    def predict(self, context: Any, model_input: list[Any], params: dict[str, Any] | None = None) -> list[Any]:
        answers: list[Any] = self._said(self.model, model_input)
        return answers


set_model(Model())
