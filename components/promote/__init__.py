"""Registers the challenger in MLflow and makes it champion in the ledger."""
