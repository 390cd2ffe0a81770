"""An assistant as MLflow loads it: asked and answering in OpenAI's form; see `regraft.causal.package`."""

import json
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from regraft.causal import assistant, package


class Chat(PythonModel):
    """Answers a conversation; several, as several rows of a table, with a list."""

    def load_context(self, context: Any) -> None:
        self.model, self.said = package.of_mlflow(context)
        self.name = context.model_config["name"]

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Args: model_input: a table, which MLflow makes of a conversation; lists in it may be arrays."""
        rows = json.loads(json.dumps(model_input.to_dict("records"), default=lambda array: array.tolist()))
        given = [{key: value for key, value in row.items() if value is not None and value == value} for row in rows]
        answers = assistant.completions(self.model, given, name=self.name)
        return answers[0] if len(answers) == 1 else answers


set_model(Chat())
