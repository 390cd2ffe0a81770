"""What a version directory carries besides weights: `model.py`, copied as it is and run by Triton's Python backend."""
