"""Trains the challenger."""
