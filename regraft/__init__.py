"""regraft keeps fine-tuned transformers current; see README.md."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("regraft")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+source"
