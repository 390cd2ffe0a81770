"""Programs that Triton's Python backend runs, one a family: each stands alone in the version directory."""
