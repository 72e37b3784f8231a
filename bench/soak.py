#!/usr/bin/env python3
"""Hours of everything at once: many clients of all kinds against a coordinator and workers of this host, checked in every answer and count.

  bench/soak.py                                   20 minutes of 64 clients on models/tiny-moe, two workers
  bench/soak.py --minutes 600 --model file.gguf --memory 6

Rounds of about a minute each. A squeeze: all clients at once begin answers that KV does not hold together (--memory), so that sequences
are preempted. A storm: clients send prompts and answers of random lengths, several samples, prefixes in common, as several tenants
with weights and priorities; they cancel, let deadlines pass, read slowly, cut their connection, and send what is wrong. A calm, in
which nobody breaks off. Checked:
- every request ends with the status that it must have; every answer is whole; requests that are asked again get the same tokens;
- after each of them nothing is in flight: requests, sequences, KV blocks in use (the prefix cache may keep its own);
- the metrics of coordinator and workers equal what the clients counted: to the last one after a calm; after a storm up to what nobody
  knows of requests that were broken off. So many requests, by method and code, so many tokens in, out and cached, were there;
- some sequences were preempted, and some prompts found in the prefix cache;
- from 5 minutes on: memory of each process (Pss without pages of files, which others may map too) stays within 2 %. The first third of
  the time is warm-up: pools and heaps grow until they have met what the clients can do. Of the rest, the median of the first third is
  held against that of the last.

One JSON line; exit status 1, and what was wrong in it, if anything was.
"""
import argparse
import collections
import dataclasses
import json
import math
import os
import re
import statistics
import subprocess
import sys
import threading
import time

import grpc

import soak_clients
from local_cluster import BIN, ROOT, Cluster, Failure, metrics, smaps, tail

WEIGHTS = {"heavy": 4, "light": 0.5}
CANARIES = 12
MEMORY_MINUTES = 5          # from here on memory is judged
MEMORY_CHANGE = 0.02
SETTLE = 60                 # seconds after which what has not settled never will
LEASE = 60                  # seconds: no worker may be taken for dead because others had the machine for a while
TEXTS = ("In the beginning God created the heaven and the earth.", "And God said, Let there be light:", "a", "Ünïcödé — 文字 🙂",
         "And the evening and the morning were the first day. " * 6)


@dataclasses.dataclass
class Limits:
    open: int       # sequences at the coordinator
    waiting: int    # in the engine's queue


class Bounds(collections.defaultdict):
    """By counter, how far it must and may have risen."""

    def __init__(self):
        super().__init__(lambda: [0, 0])

    def add(self, name, least, most=None):
        self[name][0] += least
        self[name][1] += least if most is None else most


def requests_of(series):
    """requests_total by (method, code)."""
    found = {}
    for name, value in series.items():
        match = re.fullmatch(r'alphecca_requests_total\{(.*)\}', name)
        if match:
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match[1]))
            found[labels["method"], labels["code"]] = value
    return found


def total(series, name):
    return sum(value for key, value in series.items() if key.partition("{")[0] == name)


class Meters:
    """The metrics of coordinator and workers at one moment."""
    COORDINATOR = ("prompt_tokens", "cached_prompt_tokens", "output_tokens")
    TIMES = ("time_to_first_token", "request_duration")  # of the coordinator, observed once a request
    WORKER = ("sequences", "prompt_tokens", "generated_tokens", "preemptions", "prefix_tokens", "prefix_hit_tokens")

    def __init__(self, cluster):
        front, workers = metrics(cluster.metrics_address), [metrics(w.metrics_address) for w in cluster.workers]
        self.requests = requests_of(front)
        self.counts = {name: total(front, f"alphecca_{name}_total") for name in self.COORDINATOR}
        self.counts |= {name: total(front, f"alphecca_{name}_seconds_count") for name in self.TIMES}
        self.counts |= {f"worker_{name}": sum(total(w, f"alphecca_worker_{name}_total") for w in workers) for name in self.WORKER}
        # A rank without the group's lead has no sequences: so these are sums too.
        self.in_flight = {name: total(front, f"alphecca_{name}") for name in ("requests_open", "sequences_running", "sequences_waiting")}
        self.in_flight |= {f"worker_{name}": sum(total(w, f"alphecca_worker_{name}") for w in workers)
                           for name in ("running_sequences", "waiting_sequences", "kv_blocks_used")}
        self.idle_blocks, self.capacity = (sum(total(w, f"alphecca_worker_kv_blocks_{name}") for w in workers)
                                           for name in ("idle", "capacity"))


def expected(outcomes, others, preempted):
    """(counters, requests by method and code, Generate requests in all): what must have been counted, as Bounds.

    Of a request that was broken off only a part is known: whether it came in at all unless something came back, how much of it was
    done by then, and whether the server saw it end by itself.
    """
    counts, requests, every = Bounds(), Bounds(), Bounds()
    for (method, status), count in others.items():
        requests.add((method, status), count)
        if method == "Generate":
            every.add("", count)
    for o in outcomes:
        a = o.ask
        most_out = a.samples * a.most_tokens
        if o.acted:
            every.add("", int(o.events > 0), 1)
            for status in ("OK", "CANCELLED", "RESOURCE_EXHAUSTED") + (("DEADLINE_EXCEEDED",) if a.kind == "deadline" else ()):
                requests.add(("Generate", status), 0, 1)
        else:
            every.add("", 1)
            requests.add(("Generate", o.status), 1)
        whole, came = o.status == "OK", o.events > 0
        if o.status == "RESOURCE_EXHAUSTED" and "are open" in o.message:
            continue  # it went no further
        admitted = int(whole or came or not o.acted)
        counts.add("prompt_tokens", a.prompt_tokens * admitted, a.prompt_tokens)
        counts.add("request_duration", admitted, 1)
        counts.add("time_to_first_token", int(o.tokens > 0), 1)
        counts.add("output_tokens", o.tokens, o.tokens if whole else most_out)
        counts.add("cached_prompt_tokens", o.usage.cached_tokens if whole else 0, o.usage.cached_tokens if whole else a.prompt_tokens)
        counts.add("worker_sequences", a.samples if whole else int(came), a.samples)
        counts.add("worker_prompt_tokens", a.prompt_tokens * (a.samples if whole else int(came)), a.prompt_tokens * a.samples)
        counts.add("worker_generated_tokens", o.tokens, o.tokens if whole and a.exact else most_out)
        counts.add("worker_prefix_tokens", a.prompt_tokens * (a.samples if whole else int(came)),
                   math.inf if preempted else a.prompt_tokens * a.samples)
        cached = o.usage.cached_tokens if whole else 0  # the most of its samples
        counts.add("worker_prefix_hit_tokens", cached, cached if whole and a.samples == 1 and not preempted else math.inf)
    return counts, requests, every[""]


def wrong_counts(before, now, outcomes, others, calm):
    """Differences between the server's counts and the clients', as texts."""
    risen = {name: value - before.counts[name] for name, value in now.counts.items()}
    preempted = risen.pop("worker_preemptions") > 0
    counts, requests, every = expected(outcomes, others, preempted)
    ended = {key: value - before.requests.get(key, 0) for key, value in now.requests.items()}
    # Our own looking asks for no generation, but for the model.
    ended = {key: value for key, value in ended.items() if value and key != ("GetModel", "OK")}
    wrong = [f"{name} rose by {value:.0f}, must be {counts[name][0]} to {counts[name][1]}" for name, value in risen.items()
             if not counts[name][0] <= value <= counts[name][1]]
    for key in set(ended) | set(requests):
        if not requests[key][0] <= ended.get(key, 0) <= requests[key][1]:
            wrong.append(f"{key}: {ended.get(key, 0):.0f} requests, must be {requests[key][0]} to {requests[key][1]}")
    generations = sum(value for (method, _), value in ended.items() if method == "Generate")
    if not every[0] <= generations <= every[1]:
        wrong.append(f"{generations:.0f} Generate requests, must be {every[0]} to {every[1]}")
    if calm and preempted:
        wrong.append("sequences were preempted in a calm")
    return wrong


class Soak:
    def __init__(self, args, cluster):
        self.args, self.cluster = args, cluster
        self.server = soak_clients.Server(cluster.address)
        self.context = args.context
        self.limits = Limits(args.max_open, args.max_waiting)
        self.canaries = [None] * CANARIES
        self.texts = [self.server.counted_text(text) for text in TEXTS]
        mix = soak_clients.Mix(self.server, args.context, [], [], f"{args.seed} heads")
        self.heads = [[2] + mix.ids(n) for n in (20, 64, 100, args.context // 4)]
        self.problems = []
        self.statuses = collections.Counter()
        self.kinds = collections.Counter()
        self.tokens = collections.Counter()
        self.begin = Meters(cluster)
        self.last = self.begin

    def clients(self, count, name):
        return [soak_clients.Client(self.server, soak_clients.Mix(self.server, self.context, self.heads, self.texts,
                                                                  f"{self.args.seed} {name} {i}"), self.canaries, self.limits)
                for i in range(count)]

    def run(self, clients, work, name, calm):
        """Each client's work on a thread of its own; then what they counted against what the server counted."""
        def guarded(client):
            try:
                work(client)
            except Exception as error:  # a thread that ends unseen would leave nothing to check
                client.problems.append(f"client ended by {error!r}")

        threads = [threading.Thread(target=guarded, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        outcomes = [o for client in clients for o in client.outcomes]
        others = sum((client.others for client in clients), collections.Counter())
        problems = [p for client in clients for p in client.problems]
        self.note(outcomes, others)
        self.problems += [f"{name}: {p}" for p in problems + self.settled(outcomes, others, calm)]

    def settled(self, outcomes, others, calm):
        """Waits until nothing is in flight and the counts agree; what still is wrong when they do not."""
        deadline = time.monotonic() + SETTLE
        while True:
            now = Meters(self.cluster)
            wrong = [f"{value:.0f} {what} in flight" for what, value in now.in_flight.items() if value]
            if now.idle_blocks > now.capacity:
                wrong.append(f"{now.idle_blocks} idle KV blocks of {now.capacity}")
            wrong += wrong_counts(self.last, now, outcomes, others, calm)
            if not wrong or time.monotonic() > deadline:
                self.last = now
                return wrong
            time.sleep(0.2)

    def note(self, outcomes, others):
        for (method, status), count in others.items():
            self.statuses[method, status] += count
        for o in outcomes:
            self.statuses["Generate", o.status] += 1
            self.kinds[o.ask.kind, o.status] += 1
            self.tokens += {"in": o.ask.prompt_tokens, "out": o.tokens, "cached": o.usage.cached_tokens if o.usage else 0}

    def round(self, number, seconds):
        begin = time.monotonic()

        def storm(client):
            client.storm()
            while time.monotonic() < begin + seconds:
                client.storm()

        self.run(self.clients(self.args.clients, f"squeeze {number}"), lambda c: c.squeeze(), f"squeeze {number}", calm=False)
        self.run(self.clients(self.args.clients, f"storm {number}"), storm, f"storm {number}", calm=False)
        for samples in (1, 4):
            self.run(self.clients(3, f"calm {number} {samples}"), lambda c, n=samples: [c.calm(n) for _ in range(6)],
                     f"calm {number} of {samples} samples", calm=True)

    def first_answers(self):
        """Of the requests that are asked again and again: one after the other, so that nothing stands between them."""
        self.run(self.clients(1, "canaries"), lambda c: [c.ask_canary(i) for i in range(CANARIES)], "canaries", calm=True)


class Memory:
    """Samples of each process's memory while it is entered."""

    def __init__(self, cluster, seconds):
        self.pids = {"coordinator": cluster.coordinator.pid} | {f"worker {i}": w.process.pid for i, w in enumerate(cluster.workers)}
        self.samples = []  # (time, bytes by process)
        self.every = min(5.0, seconds / 20)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self.begin = time.monotonic()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def _watch(self):
        while True:
            at = time.monotonic() - self.begin
            try:
                self.samples.append((at, {who: smaps(pid, "Pss_Anon") + smaps(pid, "Pss_Shmem") for who, pid in self.pids.items()}))
            except OSError:
                return  # a process ended: others tell
            if self.over.wait(self.every):
                return

    def report(self):
        """By process: bytes early and late after the warm-up, and the change."""
        whole = self.samples[-1][0]
        rest = [(at, by) for at, by in self.samples if at >= whole / 3]
        windows = [[by for at, by in rest if low <= (at / whole - 1 / 3) * 3 / 2 * 3 <= low + 1] for low in (0, 2)]
        if len(self.samples) < 20 or not all(windows):
            return {}
        early, late = ({who: statistics.median(by[who] for by in window) for who in self.pids} for window in windows)
        tenths = [[by for at, by in self.samples if i <= at / whole * 10 <= i + 1] for i in range(10)]
        return {who: {"early": early[who], "late": late[who], "change": round(late[who] / early[who] - 1, 4),
                      "by_tenth": [statistics.median(by[who] for by in tenth) for tenth in tenths]} for who in self.pids}


def leave(cluster):
    """Ends the coordinator; sequences that its admission still held by then."""
    cluster.coordinator.terminate()
    cluster.coordinator.wait(60)
    log = tail(cluster.log, 20000)
    held = re.search(r"shutting down, (\d+) open sequences", log)
    if cluster.coordinator.returncode != 0 or not held:
        return [f"the coordinator ended with status {cluster.coordinator.returncode}: {log[-500:]}"]
    return [] if held[1] == "0" else [f"the coordinator held {held[1]} open sequences at the end"]


def soak(args):
    flags = ["--context", str(args.context), "--max-sequences", str(args.max_sequences), "--max-open", str(args.max_open),
             "--kv-type", args.kv_type, "--lease", str(LEASE)]
    for tenant, weight in WEIGHTS.items():
        flags += ["--tenant-weight", f"{tenant}={weight}"]
    worker_flags = ["--memory", str(args.memory), "--max-waiting", str(args.max_waiting)]
    with Cluster(args.model, args.tp, args.ep, args.threads, flags, worker_flags, args.bin) as cluster:
        cluster.start()
        run = Soak(args, cluster)
        run.first_answers()
        rounds = max(1, round(args.minutes))
        with Memory(cluster, args.minutes * 60) as memory:
            for number in range(rounds):
                run.round(number, args.minutes * 60 / rounds)
                print(f"soak: round {number + 1} of {rounds}: {sum(run.statuses.values())} requests, {len(run.problems)} problems",
                      file=sys.stderr, flush=True)
        risen = {name: int(value - run.begin.counts[name]) for name, value in run.last.counts.items()}
        by_process, judged = memory.report(), args.minutes >= MEMORY_MINUTES
        problems = run.problems + leave(cluster)
    for name in ("worker_preemptions", "worker_prefix_hit_tokens"):
        if risen[name] == 0:
            problems.append(f"{name}: none")
    problems += [f"memory of {who} went from {m['early']:.0f} to {m['late']:.0f} bytes" for who, m in by_process.items()
                 if judged and abs(m["change"]) > MEMORY_CHANGE]
    if judged and not by_process:
        problems.append("memory was not sampled to the end")
    return {"minutes": args.minutes, "model": os.path.basename(args.model), "clients": args.clients, "requests": sum(run.statuses.values()),
            "by_status": {f"{method} {status}": n for (method, status), n in sorted(run.statuses.items())},
            "by_kind": {f"{kind} {status}": n for (kind, status), n in sorted(run.kinds.items())}, "tokens": dict(run.tokens),
            "server": risen, "in_flight": run.last.in_flight, "idle_kv_blocks": run.last.idle_blocks, "memory": by_process,
            "memory_judged": judged, "problems": len(problems), "first_problems": problems[:20]}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--minutes", type=float, default=20)
    p.add_argument("--model", default=os.path.join(ROOT, "models/tiny-moe"))
    p.add_argument("--bin", default=BIN)
    p.add_argument("--clients", type=int, default=64)
    p.add_argument("--tp", type=int, default=2)
    p.add_argument("--ep", type=int, default=0)
    p.add_argument("--threads", type=int, default=0, help="of each worker (0: the CPUs over the workers)")
    p.add_argument("--context", type=int, default=512)
    p.add_argument("--max-sequences", type=int, default=48, help="in the batch")
    p.add_argument("--memory", type=float, default=0.029, help="GiB of each worker for weights and KV: so little that KV is tight")
    p.add_argument("--kv-type", default="f32", choices=("bf16", "f32", "q8_0"), help="f32 makes KV tight in the least memory that a worker takes")
    p.add_argument("--max-open", type=int, default=100, help="sequences at the coordinator: beyond, it refuses")
    p.add_argument("--max-waiting", type=int, default=72, help="sequences in the engine's queue: beyond, it refuses")
    p.add_argument("--seed", default="1")
    args = p.parse_args()
    try:
        result = soak(args)
    except (Failure, grpc.RpcError, subprocess.SubprocessError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
