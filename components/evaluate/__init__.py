"""Scores challenger and champion on the same holdout and gives a verdict."""
