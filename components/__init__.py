"""The data plane: one folder a step, each a container. Nothing is shared between the folders but regraft."""
