#!/usr/bin/env python3
"""A model at full shape over two worker processes of one thread each, beside llama.cpp on the same file.

  bench/full_shape.py --peer DIR [--rounds 3] [--tp 2] [--ep 2] FILE.gguf

DIR has llama.cpp's programs: llama-bench, and its RPC server (rpc-server or ggml-rpc-server). Prints a JSON line a measure:
time until ready and bytes read and held by rank; then, round by round so that drift meets all sides alike, decoding (a prompt of
128 tokens, then 32 more) and prefill of 512 for
  ours, two ranks      two workers of one thread, through the coordinator by gRPC
  ours, one rank       one worker of one thread (prefill only)
  peer, one process    llama-bench with two threads
  peer, two processes  llama-bench over two RPC servers of one thread
Rates are tokens a second, medians over the rounds. collective_share: of the steps' time on a rank, that which it spent in
collectives, waiting for the other rank included.
"""
import argparse
import glob
import json
import os
import statistics
import subprocess

from local_cluster import BIN, GIB, Cluster, await_port, free_port
from peer import Peer

PROMPT, OUT, LONG = 128, 32, 512


def prompt(length, salt):
    """Any ids, and others each time, so that no cache of prefixes answers."""
    return [2] + [(i * 7919 + salt * 104729) % 200000 + 1000 for i in range(length - 1)]


def collective_seconds(worker):
    return worker.metric("alphecca_worker_collective_seconds_sum")


def ours(args, ranks, decode):
    tp, ep = (args.tp, args.ep) if ranks > 1 else (1, 1 if args.ep else 0)
    with Cluster(args.model, tp, ep, threads=1, flags=["--context", "1024", "--max-sequences", "1"], binaries=args.bin) as cluster:
        ready = cluster.start()
        workers = cluster.workers
        result = {"ready_s": ready, "resident_gib": [w.smaps("Rss") / GIB for w in workers],
                  "read_gib": [w.read_bytes() / GIB for w in workers], "prefill": [], "decode": [], "collective_share": []}
        cluster.generate(prompt(16, 0), 2)  # first use
        for i in range(args.repeat):
            timings = cluster.generate(prompt(LONG, i + 1), 1)["timings"]
            result["prefill"].append(LONG / timings["ttft_s"])
            if decode:
                before = [(collective_seconds(w), w.metric("alphecca_worker_step_seconds_sum")) for w in workers]
                timings = cluster.generate(prompt(PROMPT, i + 50), OUT + 1)["timings"]
                result["decode"].append(timings["tokens_per_s"])
                shares = [(collective_seconds(w) - c) / (w.metric("alphecca_worker_step_seconds_sum") - s)
                          for w, (c, s) in zip(workers, before)]
                result["collective_share"].append(max(shares))
        return result


def llama_bench(args, threads, *flags):
    return {what: [rate] for what, rate in Peer(args.peer, threads).bench(args.model, LONG, OUT, *flags, repeat=args.repeat).items()}


def peer_two_processes(args):
    server = next(iter(glob.glob(os.path.join(args.peer, "*rpc-server"))))
    ports = [free_port(), free_port()]
    servers = [subprocess.Popen([server, "-H", "127.0.0.1", "-p", str(port), "-t", "1"], stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL) for port in ports]
    try:
        for port in ports:
            await_port(port)
        return llama_bench(args, 1, "-ngl", "99", "--rpc", ",".join(f"127.0.0.1:{port}" for port in ports))
    finally:
        for process in servers:
            process.terminate()
            process.wait()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--bin", default=BIN)
    p.add_argument("--peer", help="folder of llama.cpp's programs; without it ours alone")
    p.add_argument("--tp", type=int, default=2)
    p.add_argument("--ep", type=int, default=0, help="expert-parallel sets; 0: a model without experts")
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--repeat", type=int, default=2, help="measures of a side in a round")
    args = p.parse_args()
    sides = {"ours, two ranks": lambda: ours(args, 2, True), "ours, one rank": lambda: ours(args, 1, False)}
    if args.peer:
        sides |= {"peer, one process": lambda: llama_bench(args, 2), "peer, two processes": lambda: peer_two_processes(args)}
    rates = {}
    for _ in range(args.rounds):
        for side, run in sides.items():
            result = run()
            print(json.dumps({"side": side, **{k: v if isinstance(v, (int, float)) else [round(x, 3) for x in v] for k, v in result.items()}}),
                  flush=True)
            for what in ("prefill", "decode"):
                rates.setdefault((side, what), []).extend(result.get(what, []))
    median = {key: statistics.median(values) for key, values in rates.items() if values}
    for what, against in (("decode", "peer, one process"), ("decode", "peer, two processes"), ("prefill", "ours, one rank"),
                          ("prefill", "peer, one process")):
        if (against, what) in median:
            mine, theirs = median["ours, two ranks", what], median[against, what]
            print(json.dumps({"work": f"{os.path.basename(args.model)} {what}", "unit": "tokens/s", "ours": round(mine, 2),
                              "against": against, "theirs": round(theirs, 2), "ratio": round(mine / theirs, 2)}), flush=True)


if __name__ == "__main__":
    main()
