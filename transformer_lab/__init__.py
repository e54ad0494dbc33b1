"""The tested building blocks that the lessons of Transformer Lab derive."""

__version__ = "0.1.0"
