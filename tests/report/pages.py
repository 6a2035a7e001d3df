"""What stands in a page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

REPORT_DATA, COMPARISON_DATA = "run-data", "comparison-data"


def data_of(html: str, name: str = REPORT_DATA) -> dict[str, Any]:
    """Return the data that the scripts read."""
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    content: dict[str, Any] = json.loads(found[1])
    return content


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the page's episodes, by field."""
    content = data_of(path.read_text())
    return [dict(zip(content["fields"], row, strict=True)) for row in content["rows"]]


class Cells(HTMLParser):
    """The cells of a table.

    Attributes:
        cells: Attributes of the row, attributes of the cell, text of the cell.
    """

    def __init__(self, html: str, table: str) -> None:
        super().__init__()
        self.cells: list[tuple[dict[str, Any], dict[str, Any], str]] = []
        self._table, self._inside = table, False
        self._row: dict[str, Any] = {}
        self._cell: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "table":
            self._inside = attributes.get("id") == self._table or attributes.get("data-tag") == self._table
        elif tag == "tr" and self._inside:
            self._row = attributes
        elif tag in ("td", "th") and self._inside:
            self.cells.append((self._row, attributes, ""))
            self._cell = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._inside = False
        if tag == self._cell:
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._inside and self._cell is not None:
            row, cell, text = self.cells[-1]
            self.cells[-1] = row, cell, text + data
