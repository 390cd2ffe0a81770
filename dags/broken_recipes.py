"""Shows recipes that do not hold as one import error in Airflow; a file without DAGs, so that no DAG goes with it."""

from pathlib import Path

from regraft.runners import airflow

airflow.refuse_broken(Path(__file__).with_name("recipes"))
