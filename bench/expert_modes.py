#!/usr/bin/env python3
"""Fused and wide expert parallelism by number of streams: where the one overtakes the other.

  bench/expert_modes.py [--ranks 2] [--streams 1,2,4,8,16,32] [--rounds 3] [--out 32] MOE-FILE.gguf

One cluster a mode and round, in turn; streams decode at once from prompts of 16 tokens. One JSON line a number of streams: the sum
of the streams' rates (tokens a second after the first token), medians over the rounds, and wide over fused.
"""
import argparse
import json
import statistics

from local_cluster import BIN, Cluster


def prompt(stream, salt):
    return [2] + [(i * 7919 + stream * 104729 + salt * 1299709) % 200 + 100 for i in range(15)]


def rates(args, mode, salt):
    tp = args.ranks if mode == "fused" else 1
    flags = ["--expert-mode", mode, "--context", "512", "--max-sequences", str(max(args.streams)), *args.flag]
    with Cluster(args.model, tp, args.ranks, threads=args.threads, flags=flags, binaries=args.bin) as cluster:
        cluster.start()
        cluster.generate(prompt(0, 0), 2)  # first use
        by_streams = {}
        for streams in args.streams:
            answers = cluster.generate_many([prompt(i, salt) for i in range(streams)], args.out + 1)
            by_streams[streams] = sum(a["timings"]["tokens_per_s"] for a in answers)
        return by_streams


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--bin", default=BIN)
    p.add_argument("--ranks", type=int, default=2)
    p.add_argument("--threads", type=int, default=1, help="of each worker")
    p.add_argument("--streams", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 4, 8, 16, 32])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--out", type=int, default=32)
    p.add_argument("--flag", action="append", default=[], help="a further flag of the coordinator")
    args = p.parse_args()
    seen = {}
    for salt in range(args.rounds):
        for mode in ("fused", "wide"):
            for streams, rate in rates(args, mode, salt).items():
                seen.setdefault((streams, mode), []).append(rate)
    for streams in args.streams:
        fused, wide = (statistics.median(seen[streams, mode]) for mode in ("fused", "wide"))
        print(json.dumps({"streams": streams, "unit": "tokens/s", "fused": round(fused, 2), "wide": round(wide, 2),
                          "ratio": round(wide / fused, 3)}), flush=True)


if __name__ == "__main__":
    main()
