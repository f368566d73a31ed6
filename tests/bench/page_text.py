"""Formats the data of a run as packaging/doc/performance.md: the losses, then all rows, then each server.

The prose is in page.template.
"""

import statistics
from pathlib import Path

from page_data import MAX_DISTURBANCE, MEMORY
from report import CLIENT_FULL, short

COMMAND = "make performance"
MARK = "†"
COMMON = ("gunicorn", "uvicorn", "granian")
TEMPLATE = Path(__file__).resolve().parent / "page.template"

BUILDS = {
    "optimized": "{}, built by `make optimized`, as packages are",
    "release": "{}, built without the profile of the packages: slower than those",
    "unknown": "{}, an unknown build",
}
DEVELOPMENT = "{}, a build for development (`PROFILE={}`): slower than packages"

UNITS = {
    "requests_per_s": "requests/s",
    "messages_per_s": "messages/s",
    "cpu_us_per_request": "CPU µs each",
    "cpu_us_per_message": "CPU µs each",
    "connection_kib": "KiB each",
    "django_pss_mib": "MiB",
}


def table(head, lines):
    """Formats a table; the first column is on the left, the others on the right."""
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines)) + "\n"


def times(ratio):
    """Formats a ratio with its spread."""
    return f"{ratio.median:.2f} ± {ratio.spread:.2f}" if ratio else "-"


def versus(ratio):
    """Formats a ratio with its spread and its rival."""
    if ratio is None:
        return "-"
    bold = "**" if ratio.verdict == "behind" else ""
    return f"{bold}{times(ratio)}{bold} {ratio.rival}"


def name_of(row):
    """Returns the label of a row, with a mark if it was disturbed."""
    return row.label + (f" {MARK}" if row.disturbance else "")


def kind(figure):
    """Names a figure without its unit."""
    if figure in MEMORY:
        return "memory"
    return "CPU per request" if figure.startswith("cpu") else "requests/s"


def comparisons(rows):
    """Yields row, figure and Ratio to the best rival, for all figures of all rows."""
    for row in rows:
        for figure in filter(None, (row.rate, row.cost)):
            ratio = row.best(figure)
            if ratio:
                yield row, figure, ratio


def losses(rows):
    """Formats all comparisons in which rgun is worse, the largest loss first."""
    lost = [found for found in comparisons(rows) if found[2].median < 1]
    lost.sort(key=lambda found: found[2].median)
    lines = [
        [
            name_of(row),
            kind(figure),
            ratio.rival,
            times(ratio),
            "level" if ratio.verdict == "level" else "behind",
        ]
        for row, figure, ratio in lost
    ]
    if not lines:
        return "In no row of this run.\n"
    text = (
        "Every comparison of this run with a ratio below 1. *Level*: the difference is within the spread.\n\n"
    )
    return text + table(["row", "figure", "best rival", "ratio", ""], lines)


def overview(rows):
    """Formats all rows: the ratios to the best rival and to the limit."""
    loads = [row for row in rows if row.rate]
    head = ["row", "requests/s", "CPU per request", "requests/s of limit", "CPU of limit"]
    lines = [
        [
            name_of(row),
            versus(row.best(row.rate)),
            versus(row.best(row.cost)),
            times(row.ratio(row.rate, row.reference)),
            times(row.ratio(row.cost, row.reference)),
        ]
        for row in loads
    ]
    text = table(head, lines)
    text += "\nAfter each ratio its rival; **bold** if rgun is behind. *Of limit*: the ratio to `limit`"
    text += " or, in the row of keep-alive connections over TLS, to nginx with a constant response.\n"
    memory = [row for row in rows if not row.rate]
    if memory:
        lines = [[name_of(row), versus(row.best(row.cost))] for row in memory]
        text += "\n" + table(["row", "memory"], lines)
    return text


def common(rows):
    """Formats the ratios to the servers that most applications use: requests/s and CPU, or memory."""
    lines = []
    for row in rows:
        cells = []
        for server in COMMON:
            found = next((name for name in row.valid if name.partition("-")[0] == server), None)
            ratios = [row.ratio(figure, found) for figure in (row.rate, row.cost) if figure]
            cells.append(" / ".join(f"{ratio.median:.2f}" for ratio in ratios if ratio) or "-")
        if set(cells) != {"-"}:
            lines.append([name_of(row), *cells])
    text = (
        "Requests/s / CPU per request, or memory; gunicorn with its threads where it is about requests.\n\n"
    )
    return text + table(["row", *COMMON], lines)


def percent(share):
    """Formats a share."""
    return f"{share * 100:.0f} %"


def details(row):
    """Formats the figures of all servers of one row."""
    figures = [figure for figure in (row.rate, row.cost) if figure]
    head = ["server"]
    for figure in figures:
        head += [UNITS[figure], "±", "rgun is"]
    lines = []
    for server, values in row.servers.items():
        if "invalid" in values:
            lines.append([server, "did not complete", *[""] * (len(head) - 2)])
            continue
        saturated = statistics.median(values.get("client_busy", [0])) >= CLIENT_FULL
        cells = [server + (" \\*" if saturated else "")]
        for figure in figures:
            middle = statistics.median(values[figure])
            spread = (max(values[figure]) - min(values[figure])) / 2 / middle if middle else 0
            ratio = None if server == row.subject else row.ratio(figure, server)
            cells += [short(middle), percent(spread), f"{ratio.median:.2f}" if ratio else ""]
        lines.append(cells)
    text = f"### {row.label}\n\n{row.title[0].upper()}{row.title[1:]}."
    if row.note and not row.note.startswith("same core"):
        text += f" Note: {row.note}."
    if row.disturbance:
        shares = {"foreign_busy": "other processes", "stolen": "the hypervisor"}
        seen = " and ".join(f"{shares[key]} up to {percent(share)}" for key, share in row.disturbance.items())
        text += f" {MARK} Disturbed: {seen} of a core."
    return text + "\n\n" + table(head, lines)


def versions(data):
    """Formats the versions of everything but rgun and Python as rows, and what is missing as paragraphs."""
    others = {key: value for key, value in data["versions"].items() if key not in ("rgun", "python")}
    text = "".join(f"| {key} | {others[key]} |\n" for key in sorted(others, key=str.lower))
    return text + "".join(f"\n{key} is not in this run: {why}.\n" for key, why in data["skipped"].items())


def warning(rows):
    """Formats a paragraph that says how many rows were disturbed; empty if none was."""
    count = sum(bool(row.disturbance) for row in rows)
    if not count:
        return ""
    return (
        f"**{count} of {len(rows)} rows of this run were disturbed ({MARK})**, because the machine was busy. "
        "Their requests/s are unreliable; their CPU times are less affected.\n\n"
    )


def page(data):
    """Returns the whole page."""
    rows, machine = data["rows"], data["machine"]
    build = BUILDS.get(machine["build"], DEVELOPMENT)
    return TEMPLATE.read_text().format(
        warning=warning(rows),
        losses=losses(rows),
        overview=overview(rows),
        common=common(rows),
        details="\n".join(map(details, rows)).rstrip(),
        versions=versions(data),
        command=COMMAND,
        rounds=data["rounds"],
        seconds=data["seconds"],
        mark=MARK,
        foreign=MAX_DISTURBANCE["foreign_busy"] * 100,
        stolen=MAX_DISTURBANCE["stolen"] * 100,
        date=data["when"].partition("T")[0],
        cpu=machine["cpu"],
        cpus=machine["cpus"],
        kernel=machine["kernel"],
        load=machine["load_before"],
        python=data["versions"]["python"],
        rgun=build.format(data["versions"].get("rgun", "none"), machine["build"]),
    )
