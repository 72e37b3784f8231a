#!/usr/bin/env python3
"""The product beside llama.cpp, on the same files and as many threads: `make bench-peer [PEERS=dir] [ONLY=row]`.

Runs both sides in turn, a round each, at least five rounds (26B-A4B takes the longest: some 20 minutes), and prints a JSON line a row:

  {"work", "unit", "ours", "peer", "ratio", "bound", "share_of_bound", ..., "others"}

ours, peer: medians over the rounds; ratio: the median of each round's; bound: what the machine allows (bench/roofline measures memory
reads and int8 arithmetic, the model's file says bytes and operations, a traced run which of them are executed); null: there is none; others: the largest share
of the CPUs that other processes took during a round, which should be next to none.
Then it rewrites its section of docs/benchmarks.md; rows that were not measured keep what stands there.

PEERS is a folder with llama.cpp/build/bin and, if they are there, gemma3-270m.gguf, e2b-q4_0.gguf and 26b-a4b-q4_0.gguf. Without it
llama.cpp is downloaded (pinned) and built, and models that are missing are made, under ~/.cache/alphecca/bench-peer (20 GB).

A row that cannot be measured is named on stderr with the side that failed and why; the others go on, and the exit status is 1.
"""
import argparse
import contextlib
import datetime
import fnmatch
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import docs_section
import peer
from load_generator import percentile
from local_cluster import BIN, ROOT, Failure
from peer_rows import QUICK, Setting, Sizes, suites

QUICK_MODELS = {"270m": "tiny-draft", "e2b": "tiny-dense", "26b-a4b": "tiny-moe"}
# What a side can fail by: our own word, a process, a file, a connection, an answer that is none.
FAILURES = (Failure, OSError, ValueError, subprocess.SubprocessError)


def log(text):
    print(text, file=sys.stderr, flush=True)


# ---- Rounds ------------------------------------------------------------------------------------------------------------------------

def cpu_seconds():
    """(of the whole machine, stolen time included; of this process and the children that have ended)."""
    with open("/proc/stat", encoding="ascii") as f:
        user, nice, system, _, _, irq, softirq, steal = (int(v) / os.sysconf("SC_CLK_TCK") for v in f.readline().split()[1:9])
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return user + nice + system + irq + softirq + steal, sum(u.ru_utime + u.ru_stime for u in own)


class Others:
    """The largest share of the machine's CPUs that was busy with something else while a side was measured."""

    def __init__(self):
        self.share = 0.0

    @contextlib.contextmanager
    def watch(self):
        (all_before, own_before), start = cpu_seconds(), time.perf_counter()
        yield
        all_after, own_after = cpu_seconds()
        other = all_after - all_before - (own_after - own_before)
        self.share = max(self.share, other / (os.cpu_count() * (time.perf_counter() - start)))


def run_rounds(suite, wanted, rounds, with_peer, others):
    """(measures by side and row, why by row that failed). Both sides in each round; who begins changes."""
    sides = {"ours": suite.ours} | ({"peer": suite.peer} if with_peer and suite.has_peer else {})
    measures = {side: {row: [] for row in wanted} for side in sides}
    failed = {}
    for i in range(rounds):
        for side in (list(sides) if i % 2 == 0 else reversed(list(sides))):
            still = [row for row in wanted if row not in failed]
            if not still:
                break
            with others.watch():
                try:
                    got = sides[side](still)
                except FAILURES as error:
                    got = {row: error for row in still}
            for row, measure in got.items():
                if isinstance(measure, BaseException):
                    failed[row] = f"{side}: {measure}"
                    continue
                measures[side][row].append(measure)
                log(f"{row.work}: round {i + 1}, {side}: {measure.value:.4g} {row.unit}")
    return measures, failed


def notes(by_side):
    """Medians of the numbers and 99th percentiles of the samples that came with the measures, by name and side."""
    result = {}
    for side, measures in by_side.items():
        for name in (measures[0].notes if measures else ()):
            result.setdefault(name, {})[side] = round(statistics.median(m.notes[name] for m in measures), 3)
        for name in (measures[0].samples if measures else ()):
            result.setdefault(f"p99 {name}, ms", {})[side] = round(
                1e3 * percentile([v for m in measures for v in m.samples[name]], 0.99), 1)
    return result


def ratio_of(ours, theirs):
    """The median of each round's; None: no peer, or one that did nothing."""
    ratios = [a.value / b.value for a, b in zip(ours, theirs) if b.value > 0]
    return round(statistics.median(ratios), 3) if ratios else None


def result_line(row, measures, bound):
    by_side = {side: rows[row] for side, rows in measures.items()}
    ours, theirs = by_side["ours"], by_side.get("peer", [])
    median = lambda side: statistics.median(m.value for m in side) if side else None
    mine, other = median(ours), median(theirs)
    line = {"work": row.work, "unit": row.unit, "ours": round(mine, row.digits),
            "peer": round(other, row.digits) if other is not None else None, "ratio": ratio_of(ours, theirs),
            "bound": round(bound, row.digits) if bound else None, "share_of_bound": round(mine / bound, 3) if bound else None,
            "rounds": len(ours)}
    aims = [{"of": aim.field, "least": aim.least, "most": aim.most, "met": aim.met(line)} for aim in row.aims]
    line |= {"aims": aims} if aims else {}
    more = notes(by_side)
    return line | ({"notes": more} if more else {})


def matching(suite, only):
    return [row for row in suite.rows if fnmatch.fnmatchcase(row.work, only)]


def run_suite(suite, only, rounds, with_peer):
    """(result lines, why by work that has none) of the rows whose names match."""
    wanted = matching(suite, only)
    if not wanted:
        return [], {}
    others = Others()
    measures, failed = run_rounds(suite, wanted, rounds, with_peer, others)
    lines = []
    for row in wanted:
        if row in failed:
            continue
        try:
            lines.append(result_line(row, measures, suite.bound(row)) | {"others": round(others.share, 2)})
        except FAILURES as error:
            failed[row] = f"bound: {error}"
    return lines, {row.work: why for row, why in failed.items()}


# ---- The machine and the document ------------------------------------------------------------------------------------------------------

def cpu_name():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        found = re.search(r"^model name\s*:\s*(.*)$", f.read(), re.M)
    return found.group(1).strip() if found else "unknown processor"


def measure_machine(setting, quick):
    small = ["--mib", "8", "--rounds", "1"] if quick else []
    memory, int8 = setting.program("roofline", "--threads", str(setting.threads), *small)
    setting.machine = {"bytes_per_s": memory["value"] * 1e9, "operations_per_s": int8["value"] * 1e9,
                       "name": f"{cpu_name()}, {setting.threads} threads, int8 by {int8['path']}",
                       "rates": f"{memory['value']:.1f} GB/s, {int8['value']:.0f} GOP/s"}
    log(f"{setting.machine['name']}; {setting.machine['rates']}")


def commit():
    git = lambda *args: subprocess.run(["git", "-C", ROOT, *args], capture_output=True, text=True).stdout.strip()
    name = git("rev-parse", "--short", "HEAD") or "unknown"
    return name + ("+" if git("status", "--porcelain", "-uno", "--", ".", ":!docs") else "")


def write_docs(path, results, order, machine, measured):
    with open(path, encoding="utf-8") as f:
        text = f.read()
    try:
        text = docs_section.rewrite(text, results, order, machine, measured)
    except ValueError as error:
        raise Failure(f"{path}: {error}") from None
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


# ---- Main ------------------------------------------------------------------------------------------------------------------------------

def quick_files(bin_folder, folder):
    """Tiny models in place of the large ones, as GGUF files."""
    def file(name):
        path = os.path.join(folder, f"{name}.gguf")
        if not os.path.exists(path):
            done = subprocess.run([os.path.join(bin_folder, "alphecca"), "convert", "--model",
                                   os.path.join(ROOT, "models", QUICK_MODELS[name]), "--weights", "q4_0", "--out", path],
                                  capture_output=True, text=True)
            if done.returncode != 0:
                raise Failure(f"alphecca convert: {done.stderr.strip()}")
        return path
    return file


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peers", help="folder of the peer and the files (PEERS)")
    p.add_argument("--no-peer", action="store_true", help="ours alone")
    p.add_argument("--only", default="*", help="the row of this name, or rows by a glob: 'e2b*'")
    p.add_argument("--list", action="store_true", help="print the rows there are")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--ttft-limit", type=float, default=10.0, help="seconds, of the open loop")
    p.add_argument("--tpot-limit", type=float, default=0.3, help="seconds, of the open loop")
    p.add_argument("--docs", help="document with the section (default: docs/benchmarks.md; with --quick none)")
    p.add_argument("--bin", default=BIN)
    p.add_argument("--quick", action="store_true", help="tiny models, short rows, no peer unless --peers: a test of this program")
    args = p.parse_args()
    if args.rounds < 1 or args.threads < 1:
        p.error("--rounds and --threads are 1 or more")
    return args


def main():
    args = parse()
    with tempfile.TemporaryDirectory(prefix="alphecca-bench-") as folder:
        with_peer = not args.no_peer and (bool(args.peers) or not args.quick)
        files = quick_files(args.bin, folder) if args.quick else lambda name: peer.model_file(name, args.peers)
        setting = Setting(bin=args.bin, threads=args.threads, files=files, peer=None, sizes=QUICK if args.quick else Sizes(),
                          machine={}, ttft_limit=args.ttft_limit, tpot_limit=args.tpot_limit)
        every = suites(setting)
        order = [row.work for suite in every for row in suite.rows]
        if args.list:
            print("\n".join(order))
            return 0
        if not fnmatch.filter(order, args.only):
            log(f"bench-peer: no row {args.only!r}; there are: {', '.join(order)}")
            return 2
        return measure(args, setting, every, order, with_peer)


def measure(args, setting, every, order, with_peer):
    failed, results = [], []
    measured = f"{datetime.date.today()}, {commit()}"  # what runs, whatever is committed meanwhile
    with_peer = with_peer and any(suite.has_peer and matching(suite, args.only) for suite in every)
    try:
        measure_machine(setting, args.quick)
        setting.peer = peer.Peer(peer.programs(args.peers), args.threads) if with_peer else None
    except FAILURES as error:
        log(f"bench-peer: {error}")
        return 1
    for suite in every:
        lines, why = run_suite(suite, args.only, args.rounds, with_peer)
        for line in lines:
            print(json.dumps(line, ensure_ascii=False), flush=True)
        for work, reason in why.items():
            log(f"bench-peer: not measured: {work}: {reason}")
        results += lines
        failed += why
    docs = args.docs or (None if args.quick else os.path.join(ROOT, "docs/benchmarks.md"))
    if docs and results:
        write_docs(docs, results, order, setting.machine, measured)
    if any(line["others"] > docs_section.CALM for line in results):
        log("bench-peer: other processes were busy meanwhile: the figures are rough")
    missed = [line["work"] for line in results if any(aim["met"] is False for aim in line.get("aims", ()))]
    if missed:
        log(f"bench-peer: aims missed: {', '.join(missed)}")
    if failed:
        log(f"bench-peer: {len(failed)} rows were not measured: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
