"""Turns rounds into tables: medians, spread, ratios. Pure; `run` prints and writes.

A figure is the median of its rounds. Its spread is half the distance between the smallest and the largest
round, in per cent of the median. If two figures differ by less than their spreads, the difference is noise.
"""

import statistics

HEADS = {
    "requests_per_s": "req/s",
    "cpu_us_per_request": "CPU us/req",
    "cpu_us_same_core": "same core",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "pss_mib": "PSS MiB",
    "mib_per_s": "MiB/s",
    "cpu_ms_per_transfer": "CPU ms each",
    "main_rss_mib": "main RSS MiB",
    "hello_pss_mib": "hello PSS MiB",
    "django_pss_mib": "Django PSS MiB",
    "django_processes": "processes",
    "boot_ms": "boot ms",
    "replaced_ms": "replaced ms",
    "over_boot_ms": "over boot ms",
    "short_p50_ms": "short p50 ms",
    "short_p99_ms": "short p99 ms",
    "short_max_ms": "short max ms",
    "long_p99_ms": "long p99 ms",
    "retries": "retries",
    "messages_per_s": "messages/s",
    "cpu_us_per_message": "CPU us/message",
    "plain_kib": "KiB each",
    "plain_used_kib": "KiB used",
    "deflate_kib": "deflate KiB each",
    "deflate_used_kib": "deflate KiB used",
    "connection_kib": "KiB each",
}
# Above this share of its core the client may be the bottleneck.
CLIENT_FULL = 0.97
# Above this share of a core used by other processes, rates are unreliable.
NOISY = 0.15


def summarize(rounds):
    """Returns median and spread of each figure over the rounds of one server."""
    summary = {}
    for name in rounds[0]:
        values = [figures[name] for figures in rounds]
        middle = statistics.median(values)
        spread = (max(values) - min(values)) / 2 / middle if middle else 0.0
        summary[name] = {"median": middle, "spread": spread, "values": values}
    return summary


def ratios(workload, rows):
    """Adds to each valid row how many times better rgun is, and the row's share of the limit or ideal."""

    def main(name):
        row = rows.get(name)
        return row["summary"][workload.main]["median"] if row and not row["invalid"] else None

    bound = main("limit") or main("ideal")
    for name, row in rows.items():
        mine = main(name)
        if not mine:
            continue
        for key, other, of_other in (("rgun_is", main("rgun"), True), ("of_limit", bound, False)):
            if other:
                high = other / mine if of_other else mine / other
                row[key] = high if workload.higher_is_better else 1 / high
    return rows


def short(value):
    """Formats a number with about three significant digits."""
    if value >= 10_000:
        return f"{value / 1000:.1f} k"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}".rstrip("0").rstrip(".") or "0"


def table(name, workload, rows):
    """Formats the table of one workload."""
    lines = [["server", *(HEADS[column] for column in workload.columns), "+-", "rgun is", "of limit"]]
    invalid = []
    full = False
    foreign = 0.0
    for server, row in rows.items():
        if row["invalid"]:
            lines.append([server, "INVALID", *[""] * (len(workload.columns) + 2)])
            invalid.append(f"  INVALID {server}: {row['invalid']}")
            continue
        summary = row["summary"]
        busy = summary.get("client_busy", {"median": 0})["median"] >= CLIENT_FULL
        full |= busy
        foreign = max(foreign, summary.get("foreign_busy", {"median": 0})["median"])
        lines.append(
            [
                server + ("*" if busy else ""),
                *(
                    short(summary[column]["median"]) if column in summary else ""
                    for column in workload.columns
                ),
                f"{summary[workload.main]['spread'] * 100:.0f} %",
                f"{row['rgun_is']:.2f} x" if "rgun_is" in row else "",
                f"{row['of_limit']:.2f}" if "of_limit" in row else "",
            ]
        )
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    text = [f"{name}: {workload.title}"]
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:])]
        text.append("  " + "  ".join(cells).rstrip())
    text += invalid
    if full:
        text.append("  * the client's core was saturated; the server may be able to do more")
    if foreign >= NOISY:
        text.append(f"  NOISY: other processes took up to {foreign * 100:.0f} % of a core meanwhile")
    if workload.note:
        text.append(f"  {workload.note}")
    return "\n".join(text) + "\n"


def goals(wanted, results):
    """Returns a line for each goal that has figures: "reached" or "MISSED", and the measured value.

    A goal is about the row `rgun` unless its sixth element names another. Several peers mean the best of
    them; all must have figures, because a goal would be easier to reach without the best.
    """
    lines = []
    for workload, figure, relation, bound, peer, *others in wanted:
        mine = others[0] if others else "rgun"
        peers = [peer] if isinstance(peer, str) else peer or []
        rows = results.get(workload, {})
        needed = [rows.get(server) for server in (mine, *peers)]
        if not all(row and not row["invalid"] for row in needed):
            continue
        if not all(figure in row["summary"] for row in needed):
            continue
        value, *theirs = [row["summary"][figure]["median"] for row in needed]
        if theirs:
            value /= max(theirs) if relation == ">=" else min(theirs)
        reached = value >= bound if relation == ">=" else value <= bound
        what = f"{workload} {HEADS[figure]} {relation} {bound:g}"
        what += " x " + ("the best of " if len(peers) > 1 else "") + " and ".join(peers) if peers else ""
        what += f" ({mine})" if others else ""
        lines.append(f"  {'reached' if reached else 'MISSED '}  {what}: {value:.2f}")
    return "\n".join(["goals:", *lines]) + "\n" if lines else ""
