"""The VM side: the `meshexp` command and the `meshexp-harness` daemon."""

__version__ = "0.1.0"
