"""Reading the documents that people write."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from schemas.documents import DocumentError, M, parse_document
from schemas.policy import Policy


def read_document(path: Path, model: type[M]) -> M:
    """The document at `path` as `model`. Raises DocumentError, for an unreadable file too."""
    try:
        return parse_document(path.read_bytes(), str(path), model)
    except OSError as error:
        raise DocumentError(f"{path}: {error.strerror}") from error


def recommended() -> Policy:
    """The packaged policy that holds where the operator gives none."""
    return parse_document(resources.files("actions").joinpath("recommended.yaml").read_bytes(), "recommended.yaml", Policy)
