"""The files that tests/bench/page generates: the page and its chart."""

from pathlib import Path

import chart
import page_text

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "packaging" / "doc" / "performance.md"
CHART = PAGE.with_suffix(".svg")


def stale(files):
    """Returns the paths whose files do not have this content."""
    return [
        path for path, content in files.items() if not path.exists() or path.read_bytes() != content.encode()
    ]


def generate(data):
    """Returns the content of each file."""
    return {PAGE: page_text.page(data), CHART: chart.draw(data["rows"])}
