#!/usr/bin/env python3
"""Resident memory of the weights of a model, over its ranks: what it takes beyond a worker without a model.

  memory.py [--bin build/release/bin] [--tp N] [--ep N] [--weights W] [--context N] MODEL...

A coordinator and its workers load each model and answer nothing. One JSON line a model: weight_gib is the sum over ranks of
(Pss when ready) minus (Pss before there was a model); peak_over_final the largest rank's peak resident memory while it loaded
over what it has at the end, both beyond the empty worker's; read_gib what each rank's process read or faulted in from storage
(0 when the file is in the page cache); load_s the time from assignment to ready.
"""
import argparse
import json
import os

from local_cluster import BIN, GIB, Cluster


def measure(args, model):
    flags = ["--weights", args.weights, "--context", str(args.context), "--max-sequences", "1"]
    with Cluster(model, args.tp, args.ep, flags=flags, binaries=args.bin) as cluster:
        workers = cluster.workers
        empty = [w.smaps("Pss") for w in workers]
        empty_rss = [w.smaps("Rss") for w in workers]
        loaded = cluster.start()
        final = [w.smaps("Pss") - e for w, e in zip(workers, empty)]
        over = max((w.peak() - e) / max(1, w.smaps("Rss") - e) for w, e in zip(workers, empty_rss))
        return {"model": os.path.basename(model), "weights": args.weights, "tp": args.tp, "ep": args.ep,
                "weight_gib": round(sum(final) / GIB, 3), "by_rank_gib": [round(f / GIB, 3) for f in final],
                "peak_over_final": round(over, 3), "read_gib": [round(w.read_bytes() / GIB, 3) for w in workers],
                "load_s": round(loaded, 2)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--bin", default=BIN)
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--ep", type=int, default=0)
    parser.add_argument("--weights", default="as-file")
    parser.add_argument("--context", type=int, default=512)
    args = parser.parse_args()
    for model in args.models:
        print(json.dumps(measure(args, model)), flush=True)


if __name__ == "__main__":
    main()
