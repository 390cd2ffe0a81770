"""The approval before promote: what somebody who has to decide sees, and who decided."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from regraft import escaped, verdicts
from regraft.errors import RegraftError
from regraft.gate import Verdict
from regraft.parts import Recipe
from regraft.runners import airflow_step
from regraft.store import Store

PATIENCE = timedelta(days=3)
"""How long an approval waits; then it is rejected."""
TASK = "approve"


def approval(declared: Recipe, store: str, tracking: str, **arguments: Any) -> Any:
    """The task that waits for somebody to approve; it takes no worker while it waits."""
    from airflow.providers.standard.operators.hitl import ApprovalOperator
    from airflow.providers.standard.triggers.hitl import HITLTrigger
    from airflow.sdk import BaseNotifier
    from airflow.sdk.exceptions import TaskAwaitingInput

    class Asked(BaseNotifier):
        """Tells people that a decision waits for them."""

        def notify(self, context: Any) -> None:
            task = context["task_instance"]
            page = ApprovalOperator.generate_link_to_ui_from_context(context=context)
            airflow_step.tell(f"{declared.name}: a challenger waits for approval in {task.run_id}\n{page}")

    class Approval(ApprovalOperator):
        """Writes what the store knows about the challenger into the question, and never loses an answer.

        It waits by a trigger that looks for the answer, not in Airflow's state `awaiting_input`: on SQLite, which locks
        no rows, a task that is answered while its worker parks it stays there. And it asks once: Airflow up to 3.3.2
        starts a task again whose answer overtakes the news that its worker is done (apache/airflow#67287, #72716), and
        asking again would delete the answer. Such a try keeps `max_tries`; clearing the task, which is a wish to be
        asked again, raises it.
        """

        template_fields = ("subject", "body", "run")
        run = "{{ regraft_run(dag_run, params) }}"

        def execute(self, context: Any) -> Any:
            task, state = context["task_instance"], context["task_state_store"]
            if state.get("asked") != task.max_tries:
                self.body = question(Store(store, declared.name), self.run, tracking)
                with suppress(TaskAwaitingInput):
                    super().execute(context)
                state.set("asked", task.max_tries)
            self.defer(
                trigger=HITLTrigger(
                    ti_id=task.id,
                    options=self.options,
                    params={},
                    defaults=self.defaults,
                    timeout_datetime=datetime.now(UTC) + PATIENCE,
                ),
                method_name="execute_complete",
            )

    return Approval(
        task_id=TASK,
        subject=f"Promote the challenger of {declared.name}, run {{{{ regraft_run(dag_run, params) }}}}?",
        body="The verdict, its numbers and links are read from the store when the question is asked.",
        defaults=ApprovalOperator.REJECT,
        notifiers=[Asked()],
        retries=9,  # only Airflow itself can fail here
        retry_delay=timedelta(seconds=5),
        retry_exponential_backoff=0,
        doc_md=f"Waits for approval: promote runs after *Approve*; *Reject*, also after {PATIENCE.days} days without "
        "an answer, skips it. The model in production stays meanwhile.",
        **arguments,
    )


def approved_by(ti: Any) -> str:
    """The name of who approved, which promote records; empty where nobody did."""
    answer = ti.xcom_pull(task_ids=TASK) or {}
    if "Approve" not in answer.get("chosen_options", []):
        return ""
    user = answer.get("responded_by_user") or {}
    return str(user.get("name") or user.get("id") or "somebody whom Airflow does not name")


def question(store: Store, run: str, tracking: str) -> str:
    """The verdict, the metrics and links, as Markdown."""
    evaluated = airflow_step.manifest(store, run, "evaluate")
    where = store.where(f"runs/{run}")
    if evaluated is None:
        return f"The verdict could not be read; it is in the store under {escaped.code(where)}."
    verdict: dict[str, Any] = {}
    with suppress(RegraftError, KeyError):
        verdict = Verdict.read(store.output(evaluated, "verdict.json"), where=where).values
    report = airflow_step.report_url(tracking, store, run)
    links = [
        f"[Report]({report})" if report.startswith("http") else f"report: {escaped.code(report)}",
        f"run in the store: {escaped.code(where)}",
    ]
    if tracking.startswith("http"):
        links.insert(0, f"[MLflow run]({airflow_step.mlflow_url(tracking, store, run)})")
    return verdicts.markdown(verdicts.said(verdict), more=" · ".join(links))
