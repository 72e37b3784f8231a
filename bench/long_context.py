#!/usr/bin/env python3
"""That a context of 131,072 tokens is real: planned, admitted and run within the bytes of keys and values that the model's shape asks for.

  bench/long_context.py                    E2B's attention (heads of 256 and 512, one of keys and values, window 512), 131,072 tokens
  bench/long_context.py --context 8192     a shorter one

A model of two sliding layers and a full one, with one query head, random weights and a narrow residual stream, is served by a
coordinator and a worker. A prompt that leaves room for a few tokens is read in chunks, then tokens are generated at full context. The
same prompt again must be found in the prefix cache and get the same tokens. `alphecca plan` is asked what E2B needs for one sequence of
131,072 tokens and 26B-A4B for one of 262,144.

One JSON line: bytes of KV in use and of the table (tokens times bytes of a token of each full layer, the window times those of each
sliding one), tokens a second of the first and the last sixteenth of the prompt, time of a token at the start and at full context. Exit
status 1 if a full layer takes other than the table's bytes, or a sliding one more than window, chunk and block; or if an answer fails.
"""
import argparse
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

from load_generator import GrpcServer
from local_cluster import BIN, ROOT, Cluster, Failure, metrics

TOKENIZER = os.path.join(ROOT, "models/tiny-dense")
VOCABULARY, HIDDEN, MLP = 4096, 64, 64
LAYERS = ("sliding", "sliding", "full")
WIDTH = {"sliding": 256, "full": 512}
WINDOW, BLOCK, CHUNK = 512, 16, 256   # tokens; those of a step at most
TOKEN_BYTES = {kind: 2 * 2 * width for kind, width in WIDTH.items()}  # of one layer, keys and values in BF16
DECODES = 8
LEAST = 8192  # of a shorter one the gauges of KV, renewed five times a second, would miss the end
TIMEOUT = 7200
GIB = 1 << 30
# The published shapes: context, and by kind layers that own KV, bytes a token of one; the window.
SHAPES = {"e2b": (131072, {"full": (3, 2048), "sliding": (12, 1024)}, 512),
          "26b-a4b": (262144, {"full": (5, 4096), "sliding": (25, 8192)}, 1024)}


def config(context):
    with open(os.path.join(TOKENIZER, "config.json"), encoding="utf-8") as f:
        whole = json.load(f)
    whole["text_config"] |= {
        "hidden_size": HIDDEN, "intermediate_size": MLP, "num_hidden_layers": len(LAYERS), "sliding_window": WINDOW,
        "layer_types": [f"{kind}_attention" for kind in LAYERS], "max_position_embeddings": context, "head_dim": WIDTH["sliding"],
        "global_head_dim": WIDTH["full"], "num_attention_heads": 1, "num_key_value_heads": 1, "num_global_key_value_heads": None,
        "attention_k_eq_v": False}
    return whole


def tensors():
    """(name, shape); matrices are [out, in]"""
    p = "model.language_model."
    yield p + "embed_tokens.weight", (VOCABULARY, HIDDEN)
    yield p + "norm.weight", (HIDDEN,)
    for i, kind in enumerate(LAYERS):
        layer, width = f"{p}layers.{i}.", WIDTH[kind]
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            yield f"{layer}{norm}_layernorm.weight", (HIDDEN,)
        for which in "qkv":
            yield f"{layer}self_attn.{which}_proj.weight", (width, HIDDEN)
        for which in "qk":
            yield f"{layer}self_attn.{which}_norm.weight", (width,)
        yield f"{layer}self_attn.o_proj.weight", (HIDDEN, width)
        yield f"{layer}mlp.gate_proj.weight", (MLP, HIDDEN)
        yield f"{layer}mlp.up_proj.weight", (MLP, HIDDEN)
        yield f"{layer}mlp.down_proj.weight", (HIDDEN, MLP)
        yield f"{layer}layer_scalar", (1,)


def values(name, shape, rng):
    """BF16, as 16-bit numbers. Scores are not scaled: query and key norms keep them of the order of 1."""
    if len(shape) == 2:
        numbers = rng.standard_normal(shape, dtype=np.float32) * np.float32(shape[1] ** -0.5)
    else:
        numbers = np.full(shape, shape[0] ** -0.25 if name.endswith(("q_norm.weight", "k_norm.weight")) else 1, np.float32)
    return (numbers.view(np.uint32) >> 16).astype("<u2")


def write_model(folder, context):
    rng = np.random.default_rng(1)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config(context), f)
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(TOKENIZER, name), folder)
    header, blobs, offset = {}, [], 0
    for name, shape in tensors():
        blobs.append(values(name, shape, rng).tobytes())
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + len(blobs[-1])]}
        offset += len(blobs[-1])
    text = json.dumps(header).encode()
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


class Watch:
    """Follows a worker while it works: rows that its steps had by time, and KV blocks in use by pool."""

    def __init__(self, worker):
        self.address = worker.metrics_address
        self.rows = []      # (time, rows so far)
        self.blocks = []    # (time, blocks by pool)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._follow)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def _follow(self):
        while not self.over.wait(0.1):
            now, series = time.perf_counter(), metrics(self.address)
            self.rows.append((now, series["alphecca_worker_step_rows_total"]))
            self.blocks.append((now, {pool: series[f'alphecca_worker_kv_blocks_used{{pool="{pool}"}}'] for pool in ("full", "sliding")}))

    def rate(self, low, high):
        """Rows a second between these numbers of rows; None: too few samples."""
        base = self.rows[0][1]
        between = [(at, rows) for at, rows in self.rows if low <= rows - base <= high]
        if len(between) < 2 or between[-1][1] == between[0][1]:
            return None
        return (between[-1][1] - between[0][1]) / (between[-1][0] - between[0][0])

    def most(self, pool):
        return max(blocks[pool] for _, blocks in self.blocks)


def used(watch, context):
    """KV of the pools at its most, and the table's; what is wrong with it."""
    kv, wrong = {}, []
    for kind, tokens in (("full", context), ("sliding", WINDOW)):
        of_token = LAYERS.count(kind) * TOKEN_BYTES[kind]
        kv[kind] = {"used_bytes": int(watch.most(kind)) * BLOCK * of_token, "table_bytes": tokens * of_token}
    if kv["full"]["used_bytes"] != kv["full"]["table_bytes"]:
        wrong.append(f"full layers took {kv['full']['used_bytes']} bytes, the table says {kv['full']['table_bytes']}")
    allowed = (WINDOW + CHUNK + BLOCK) * LAYERS.count("sliding") * TOKEN_BYTES["sliding"]
    if not 0 < kv["sliding"]["used_bytes"] <= allowed:
        wrong.append(f"sliding layers took {kv['sliding']['used_bytes']} bytes, window, chunk and block are {allowed}")
    return kv, wrong


def run(args, folder):
    flags = ["--context", str(args.context), "--max-sequences", "1"]
    with Cluster(folder, threads=args.threads, flags=flags, binaries=args.bin) as cluster:
        cluster.start()
        server = GrpcServer(cluster.address, timeout=TIMEOUT)
        rng = random.Random(1)
        prompt = [2] + [rng.randrange(300, VOCABULARY - 300) for _ in range(args.context - DECODES - 1)]
        short = server.ask([2, 500, 600], DECODES)
        with Watch(cluster.workers[0]) as watch:
            answer = server.ask(prompt, DECODES)
        again = server.ask(prompt, DECODES)
    kv, wrong = used(watch, args.context)
    for a, want in ((short, 3), (answer, len(prompt)), (again, len(prompt))):
        if (a.status, a.prompt_tokens, a.output_tokens) != ("OK", want, DECODES):
            wrong.append(f"a prompt of {want} tokens ended with {a.status} {a.message} after {a.output_tokens} tokens")
    if again.ids != answer.ids or again.cached_tokens < len(prompt) - WINDOW:
        wrong.append(f"again, with {again.cached_tokens} tokens cached: {again.ids}, at first {answer.ids}")
    part = len(prompt) // 16
    return {"tokens": answer.prompt_tokens + answer.output_tokens, "kv": kv, "prefill_s": answer.ttft,
            "prefill_tokens_per_s": {"start": watch.rate(0, part), "end": watch.rate(len(prompt) - part, len(prompt)),
                                     "all": len(prompt) / answer.ttft},
            "decode_s": {"start": short.tpot, "full_context": answer.tpot}, "again": {"cached_tokens": again.cached_tokens, "ttft_s": again.ttft},
            }, wrong


def planned(binaries, model):
    """Bytes of KV that one sequence of the whole context is planned with, and the table's; what is wrong with it."""
    context, layers, window = SHAPES[model]
    command = [f"{binaries}/alphecca", "plan", "--model", model, "--devices", "1xcpu:1", "--memory-share", "1", "--context", str(context),
               "--concurrency", "1", "--step-rows", str(CHUNK), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 3:  # GiB is too little: what is missing tells what is needed
        raise Failure(f"{command} ended with status {done.returncode}: {done.stderr}")
    plan = json.loads(done.stdout)
    rank = plan["ranks"][0]
    needed = plan["missing_bytes"] + GIB - rank["weight_bytes"] - rank["workspace_bytes"]
    of_token = {kind: count * size for kind, (count, size) in layers.items()}
    table = {"full": context * of_token["full"], "sliding": window * of_token["sliding"]}
    sliding = needed - table["full"]
    wrong = [] if table["sliding"] <= sliding <= (window + CHUNK + BLOCK) * of_token["sliding"] else [
        f"{model}: planned with {needed} bytes of KV, the table says {table}"]
    return {"context": context, "kv_bytes": needed, "table_full_bytes": table["full"], "table_sliding_bytes": table["sliding"],
            "sliding_bytes": sliding}, wrong


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--context", type=int, default=131072, help="a multiple of 16")
    p.add_argument("--threads", type=int, default=0, help="of the worker (0: the CPUs)")
    p.add_argument("--bin", default=BIN)
    args = p.parse_args()
    if args.context % BLOCK or args.context < LEAST:
        p.error(f"--context {args.context}: want a multiple of {BLOCK} from {LEAST}")
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder, args.context)
        result, wrong = run(args, folder)
    result["planned"] = {}
    for model in SHAPES:
        result["planned"][model], more = planned(args.bin, model)
        wrong += more
    print(json.dumps(result))
    for text in wrong:
        print(f"long_context: {text}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
