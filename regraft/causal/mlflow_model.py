"""A language model as MLflow loads it: by regraft's own code, which lies beside it; see `regraft.causal.package`."""

from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from regraft.causal import package


class Model(PythonModel):
    """Answers texts: most tasks in words, some in numbers."""

    def load_context(self, context: Any) -> None:
        self.model, self.said = package.of_mlflow(context)

    def predict(self, context: Any, model_input: list[Any], params: dict[str, Any] | None = None) -> list[Any]:
        answers: list[Any] = self.said(self.model, model_input)
        return answers


set_model(Model())
