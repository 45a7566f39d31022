"""Reading the documents that people write."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from schemas.documents import MAX_BYTES, DocumentError, M, parse_document
from schemas.policy import Policy


def read_document(path: Path, model: type[M]) -> M:
    """The document at `path` as `model`. Raises DocumentError, for an unreadable file too."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DocumentError(f"{path}: {error.strerror}") from error
    return parse_document(text, str(path), model)


def recommended() -> Policy:
    """The packaged policy that holds where the operator gives none."""
    return parse_document(resources.files("actions").joinpath("recommended.yaml").read_bytes(), "recommended.yaml", Policy)
