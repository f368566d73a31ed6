"""Draws packaging/doc/performance.svg: the ratios to the best rival of each row, on a logarithmic axis.

Written by hand, so that it needs no library. It has its own background and colours for light and dark; shapes
and figures say the same as colours, and the description has all figures for screen readers.
"""

import math
from html import escape

WIDTH, LINE, TOP, BOTTOM = 820, 27, 84, 52
# Horizontal positions: the plot, and the right ends of the two columns of figures.
LEFT, RIGHT, CPU_COLUMN, RATE_COLUMN = 290, 640, 722, 808
TICKS = (0.25, 0.33, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8)
# The axis has at least the first range, and at most the second; ratios beyond it are drawn at its ends.
NARROWEST, WIDEST = (0.7, 2), (0.25, 8)

STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.title { font-size: 17px; font-weight: 600; }
.quiet { fill: #59636e; font-size: 12px; }
.back { fill: #ffffff; }
.grid { stroke: #d1d9e0; }
.one { stroke: #1f2328; stroke-width: 1.5; }
.ahead { fill: #0b5cad; stroke: #0b5cad; }
.behind { fill: #a8470a; stroke: #a8470a; }
.level { fill: #59636e; stroke: #59636e; }
text.ahead, text.behind, text.level { stroke: none; }
text.behind { font-weight: 700; }
.hollow { fill: #ffffff; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .quiet { fill: #9198a1; }
  .back { fill: #0d1117; }
  .grid { stroke: #3d444d; }
  .one { stroke: #e6edf3; }
  .ahead { fill: #6cb6ff; stroke: #6cb6ff; }
  .behind { fill: #ffa657; stroke: #ffa657; }
  .level { fill: #9198a1; stroke: #9198a1; }
  .hollow { fill: #0d1117; }
}"""


class Axis:
    """The horizontal axis."""

    def __init__(self, values):
        """Chooses the range for these ratios."""
        self.low = max(WIDEST[0], min(NARROWEST[0], *values) * 0.95)
        self.high = min(WIDEST[1], max(NARROWEST[1], *values) * 1.05)

    def at(self, value):
        """Returns the horizontal position of a ratio."""
        value = min(max(value, self.low), self.high)
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(LEFT + share * (RIGHT - LEFT), 1)

    def ticks(self):
        """Returns the ratios to write on the axis."""
        return [tick for tick in TICKS if self.low <= tick <= self.high]


def text(x, y, content, classes="", anchor="start"):
    """Returns a text."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" class="{classes}">{escape(content)}</text>'


def whisker(axis, ratio, y):
    """Returns the line of a ratio's spread."""
    low, high = axis.at(max(ratio.median - ratio.spread, 0.01)), axis.at(ratio.median + ratio.spread)
    return f'<line x1="{low}" y1="{y}" x2="{high}" y2="{y}" class="{ratio.verdict}"/>'


def circle(axis, ratio, y):
    """Returns the mark of a cost: CPU time or memory."""
    return f'<circle cx="{axis.at(ratio.median)}" cy="{y}" r="5" class="{ratio.verdict}"/>'


def diamond(axis, ratio, y):
    """Returns the mark of requests per second."""
    x = axis.at(ratio.median)
    points = f"{x},{y - 5.5} {x + 5.5},{y} {x},{y + 5.5} {x - 5.5},{y}"
    return f'<polygon points="{points}" class="{ratio.verdict} hollow"/>'


def compared(rows):
    """Returns label, cost and rate of each row with rivals, the worst cost first; the rate may be None."""
    found = [(row.label, row.best(row.cost), row.rate and row.best(row.rate)) for row in rows]
    return sorted((line for line in found if line[1]), key=lambda line: line[1].median)


def describe(lines):
    """Returns all figures as a sentence for each row."""
    sentences = []
    for label, cost, rate in lines:
        sentence = f"{label}: {'CPU' if rate else 'memory'} {cost.median:.2f} against {cost.rival}"
        if rate:
            sentence += f", requests per second {rate.median:.2f} against {rate.rival}"
        sentences.append(sentence)
    return ". ".join(sentences) + "."


def draw_line(axis, line, y):
    """Returns the marks and figures of one row."""
    label, cost, rate = line
    # The two marks are above and below the middle of the line, so that both are visible.
    above = y - 3 if rate else y
    parts = [text(12, y + 4, label), whisker(axis, cost, above)]
    if rate:
        parts += [whisker(axis, rate, y + 5), diamond(axis, rate, y + 5)]
        parts.append(text(RATE_COLUMN, y + 4, f"{rate.median:.2f}", rate.verdict, "end"))
    parts.append(circle(axis, cost, above))
    parts.append(text(CPU_COLUMN, y + 4, f"{cost.median:.2f}", cost.verdict, "end"))
    return parts


def draw(rows):
    """Returns the chart as SVG."""
    lines = compared(rows)
    axis = Axis([ratio.median for line in lines for ratio in line[1:] if ratio] or [1])
    height = TOP + LINE * len(lines) + BOTTOM
    low = height - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-labelledby="title description">',
        '<title id="title">rgun compared with the best rival of each row</title>',
        f'<desc id="description">{escape(describe(lines))}</desc>',
        f"<style>\n{STYLE}\n</style>",
        f'<rect width="{WIDTH}" height="{height}" class="back"/>',
        text(12, 28, "rgun compared with the best rival of each row", "title"),
        text(12, 50, "1 is level; to the right rgun is better, to the left worse. Worst first.", "quiet"),
        text(CPU_COLUMN, 70, "CPU, memory ●", "quiet", "end"),
        text(RATE_COLUMN, 70, "requests/s ◇", "quiet", "end"),
    ]
    for tick in axis.ticks():
        x = axis.at(tick)
        style = "one" if tick == 1 else "grid"
        parts.append(f'<line x1="{x}" y1="{TOP - 8}" x2="{x}" y2="{low}" class="{style}"/>')
        parts.append(text(x, low + 18, f"{tick:g}", "quiet", "middle"))
    for number, line in enumerate(lines):
        parts += draw_line(axis, line, TOP + LINE * number + LINE // 2)
    parts.append(text(axis.at(1) - 10, low + 38, "◂ rgun is behind", "quiet", "end"))
    parts.append(text(axis.at(1) + 10, low + 38, "rgun is ahead ▸", "quiet"))
    return "\n".join([*parts, "</svg>"]) + "\n"
