#!/usr/bin/env python3
"""Decoding speed beside llama.cpp on the same file: both sides in turn, same threads, medians; one JSON line a model.

  bench/peer_decode.py --peer DIR/llama.cpp/build/bin/llama-bench [--threads 2] [--tokens 64] [--rounds 5] FILE.gguf...

Ours: `alphecca generate` (coordinator and one worker, over gRPC), rate of the tokens after the first. Theirs: llama-bench's
token generation test. Each round runs both, so that a machine whose speed drifts slows both.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def ours(args, model):
    command = [args.bin, "generate", "--model", model, "--ids", "2", "--max-tokens", str(args.tokens + 1), "--temperature", "0",
               "--ignore-eos", "--context", "2048", "--threads", str(args.threads), "--json"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True).stdout
    return json.loads(out.strip().splitlines()[-1])["timings"]["tokens_per_s"]


def peer(args, model):
    command = [args.peer, "-m", model, "-t", str(args.threads), "-p", "0", "-n", str(args.tokens), "-r", "1", "-o", "json"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True).stdout
    return json.loads(out)[0]["avg_ts"]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", nargs="+")
    p.add_argument("--bin", default=os.path.join(ROOT, "build/release/bin/alphecca"))
    p.add_argument("--peer", required=True, help="path of llama-bench")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--rounds", type=int, default=5)
    args = p.parse_args()
    for model in args.models:
        pairs = [(ours(args, model), peer(args, model)) for _ in range(args.rounds)]
        print(json.dumps({
            "work": f"{os.path.basename(model)} decode {args.tokens}, 1 stream", "unit": "tokens/s", "threads": args.threads,
            "ours": round(statistics.median(a for a, _ in pairs), 2), "peer": round(statistics.median(b for _, b in pairs), 2),
            "ratio": round(statistics.median(a / b for a, b in pairs), 3), "rounds": args.rounds}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
