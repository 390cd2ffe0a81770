"""Data of the examples."""
