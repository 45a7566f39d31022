"""A table of words, for a page or a terminal to show."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """Every row has as many cells as the header."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """The title as a heading, and a table with it.

        >>> print(Table("Recall", ("class", "found"), (("leak", "9 of 10"),)).markdown())
        ### Recall
        <BLANKLINE>
        | class | found |
        | --- | --- |
        | leak | 9 of 10 |
        """
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        return f"### {self.title}\n\n" + "\n".join("| " + " | ".join(_cell(c) for c in line) + " |" for line in lines)


def _cell(words: str) -> str:
    return " ".join(words.replace("|", "\\|").split())
