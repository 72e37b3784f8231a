"""The part of docs/benchmarks.md that the peer benchmark writes: between two markers; what stands around them stays."""
import re

BEGIN, END = "<!-- bench-peer: written by make bench-peer -->", "<!-- bench-peer: end -->"
CALM = 0.05  # of the CPUs, that others may take before it is told
ROUNDS = 5   # fewer are told
FIELDS = {"ours": "", "ratio": "ratio ", "share_of_bound": "share "}
HEAD = ["| work | unit | ours | llama.cpp | ratio | bound | share of bound | notes | measured, with memory reads and int8 at |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]


def shown(value):
    if value is None:
        return ""
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def notes_of(result):
    """All that a result has beside the columns."""
    notes = []
    for aim in result.get("aims", ()):
        if aim["met"] is not None:
            bound = f"at least {shown(aim['least'])}" if aim["most"] is None else f"at most {shown(aim['most'])}"
            notes.append(f"aim: {FIELDS[aim['of']]}{bound}, {'met' if aim['met'] else 'MISSED'}")
    for name, value in result.get("notes", {}).items():
        sides = [f"{'ours' if side == 'ours' else 'llama.cpp'} {shown(number)}" for side, number in value.items()]
        notes.append(f"{name}: {', '.join(sides)}")
    if result.get("rounds", ROUNDS) < ROUNDS:
        notes.append(f"rounds: {result['rounds']}")
    if result.get("others", 0) > CALM:
        notes.append(f"others took up to {100 * result['others']:.0f} % of the CPUs")
    return "; ".join(notes)


def table_row(result, measured):
    cells = [result["work"], result["unit"]]
    cells += [shown(result[k]) for k in ("ours", "peer", "ratio", "bound")]
    cells += [f"{100 * result['share_of_bound']:.0f} %" if result["share_of_bound"] is not None else "", notes_of(result), measured]
    return f"| {' | '.join(cells)} |"


def verdict(rows, order):
    """The rows whose ratio is below 1, those that miss an aim, and those that this machine has not measured, in words."""
    slow = []
    missed = []
    for work, row in rows.items():
        cells = [c.strip() for c in row.strip("| ").split("|")]
        if cells[4] and float(cells[4]) < 1:
            slow.append(f"{work} ({cells[4]})")
        if "MISSED" in cells[7]:
            missed.append(work)
    missing = [work for work in order if work not in rows]
    words = f"Behind llama.cpp: {', '.join(slow)}." if slow else "No row is behind llama.cpp."
    words += f" Aims missed, in part: {', '.join(missed)}." if missed else ""
    return words + (f" Not measured on this machine: {', '.join(missing)}." if missing else "")


def rewrite(text, results, order, machine, measured):
    """The document with the rows of `results` replaced or added. `machine` is one line; rows that another machine measured go.

    order: all works, in the order of the table. ValueError: the document has no markers.
    """
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"no lines {BEGIN!r} and {END!r}")
    old = rest[:len(rest) - len(after) - len(END)]
    rows = {}
    if f"Machine: {machine['name']}." in old:
        for line in old.splitlines():
            work = re.match(r"\| ([^|]+) \|", line)
            if work and work.group(1) in order:
                rows[work.group(1)] = line
    rows |= {result["work"]: table_row(result, f"{measured}, {machine['rates']}") for result in results}
    lines = [rows[work] for work in order if work in rows]
    body = [BEGIN, "", f"Machine: {machine['name']}.", "", *HEAD, *lines, "", verdict(rows, order), "", END]
    return before + "\n".join(body) + after
