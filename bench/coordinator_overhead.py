#!/usr/bin/env python3
"""What a request costs beside the model: time from the client's call to its last event, minus the time its steps took.

  .venv/bin/python bench/coordinator_overhead.py [--requests 300]

Starts a cluster of tiny-draft on one worker, asks for one token again and again over one channel, and subtracts the worker's
own step time (alphecca_worker_step_seconds) from what the client saw: client library, coordinator (checks, tokenizer, routing, the
group's stream) and engine scheduling are what is left. One JSON line.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.request

from load_generator import stubs

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def step_seconds(metrics):
    text = urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10).read().decode()
    find = lambda name: sum(float(v) for v in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.M))
    return find("alphecca_worker_step_seconds_sum"), find("alphecca_worker_step_seconds_count")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bin", default=os.path.join(ROOT, "build/release/bin/alphecca"))
    p.add_argument("--requests", type=int, default=300)
    args = p.parse_args()
    import grpc
    pb, pb_grpc, _ = stubs()
    up = subprocess.Popen([args.bin, "up", "--model", "tiny-draft", "--tp", "1", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"],
                          stdout=subprocess.PIPE, text=True)
    try:
        address = worker = None
        for line in up.stdout:
            address = address or (m := re.search(r"served at (\S+)", line)) and m.group(1)
            worker = worker or (m := re.search(r"http://(\S+)/metrics  \(worker\)", line)) and m.group(1)
            if "Ctrl-C" in line:
                break
        stub = pb_grpc.InferenceStub(grpc.insecure_channel(address))
        request = pb.GenerateRequest(text="In the beginning", options=pb.GenerationOptions(max_tokens=1))

        def ask():
            start = time.perf_counter()
            for _ in stub.Generate(request):
                pass
            return time.perf_counter() - start

        for _ in range(20):
            ask()
        before = step_seconds(worker)
        latencies = [ask() for _ in range(args.requests)]
        after = step_seconds(worker)
        step = (after[0] - before[0]) / max(1, after[1] - before[1])
        print(json.dumps({"work": "overhead of a request", "unit": "ms", "requests": args.requests,
                          "latency_p50": round(1e3 * statistics.median(latencies), 3), "step_mean": round(1e3 * step, 3),
                          "ours": round(1e3 * (statistics.median(latencies) - step), 3), "aim": 2.0}))
    finally:
        up.terminate()
        up.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
