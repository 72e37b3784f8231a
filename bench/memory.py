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
import re
import subprocess
import time


def smaps(pid, field):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
        return int(re.search(rf"^{field}:\s+(\d+) kB", f.read(), re.M).group(1)) * 1024


def peak(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return int(re.search(r"^VmHWM:\s+(\d+) kB", f.read(), re.M).group(1)) * 1024


def read_bytes(pid):
    with open(f"/proc/{pid}/io", encoding="ascii") as f:
        return int(re.search(r"^read_bytes: (\d+)", f.read(), re.M).group(1))


def start(command):
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return process, json.loads(process.stdout.readline())


def measure(args, model):
    ranks = max(args.tp, args.ep or 1)
    processes = []
    try:
        # Workers look for a coordinator until there is one: so they are measured before it starts.
        address = f"127.0.0.1:{args.port}"
        workers = [start([f"{args.bin}/alphecca-worker", "--coordinator", address, "--threads", str(max(1, os.cpu_count() // ranks))])[0]
                   for _ in range(ranks)]
        processes += workers
        empty = [smaps(w.pid, "Pss") for w in workers]
        empty_rss = [smaps(w.pid, "Rss") for w in workers]
        began = time.monotonic()
        coordinator, _ = start([f"{args.bin}/alphecca-coordinator", "--listen", address, "--metrics", "127.0.0.1:0", "--model",
                                f"m={model}", "--tp", str(args.tp), "--ep", str(args.ep), "--weights", args.weights,
                                "--context", str(args.context), "--max-sequences", "1"])
        processes.append(coordinator)
        while True:
            status = json.loads(subprocess.run([f"{args.bin}/alphecca", "status", "--connect", address, "--json"],
                                               capture_output=True, text=True, check=True).stdout)
            group = status["models"][0]["groups"][0]
            if group["state"] == "ready":
                break
            if group["state"] == "failed":
                raise SystemExit(f"{model}: {group['message']}")
            time.sleep(0.1)
        loaded = time.monotonic() - began
        final = [smaps(w.pid, "Pss") - e for w, e in zip(workers, empty)]
        over = max((peak(w.pid) - e) / max(1, smaps(w.pid, "Rss") - e) for w, e in zip(workers, empty_rss))
        gib = 1 << 30
        return {"model": os.path.basename(model), "weights": args.weights, "tp": args.tp, "ep": args.ep,
                "weight_gib": round(sum(final) / gib, 3), "by_rank_gib": [round(f / gib, 3) for f in final],
                "peak_over_final": round(over, 3), "read_gib": [round(read_bytes(w.pid) / gib, 3) for w in workers],
                "load_s": round(loaded, 2)}
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--bin", default="build/release/bin")
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--ep", type=int, default=0)
    parser.add_argument("--weights", default="as-file")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--port", type=int, default=7390)
    args = parser.parse_args()
    for model in args.models:
        print(json.dumps(measure(args, model)), flush=True)


if __name__ == "__main__":
    main()
