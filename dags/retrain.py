"""One Airflow DAG per recipe of `recipes/`, or of the directory or bucket that REGRAFT_RECIPES names."""

from pathlib import Path

from regraft.runners import airflow

globals().update(airflow.dags(Path(__file__).with_name("recipes")))
