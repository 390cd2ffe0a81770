"""The Airflow DAG that makes MLflow's aliases and Triton follow the ledger."""

from pathlib import Path

from regraft.runners import airflow

dag = airflow.doctor(Path(__file__).with_name("recipes"))
