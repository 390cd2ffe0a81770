"""Checks fresh data against the contract and freezes it."""
