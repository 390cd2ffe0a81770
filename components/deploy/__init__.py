"""Makes Triton serve what the ledger says."""
