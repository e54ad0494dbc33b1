"""Checks the shapes that signatures state, in every test."""

from collections.abc import Iterator

import pytest
from jaxtyping import config, install_import_hook

# The packages' own users get plain sentences; here each call is held to its stated shapes as well.
_CHECKED = (
    "attention", "blocks", "cache", "data", "feedforward", "generation", "masks", "models", "norms",
    "positions",
)  # fmt: skip
install_import_hook([f"transformer_lab.{name}" for name in _CHECKED], "beartype.beartype")


@pytest.fixture
def as_a_user() -> Iterator[None]:
    """Calls without the check of stated shapes, so that the package's own errors are seen."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
