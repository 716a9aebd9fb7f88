"""The guides for operators (docs/README.md)."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
INDEX = (DOCS / "README.md").read_text(encoding="utf-8")
# In the order in which they are read.
PAGES = re.findall(r"^\| \[(\S+\.md)\]", INDEX, re.MULTILINE)
