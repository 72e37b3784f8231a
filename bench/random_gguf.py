#!/usr/bin/env python3
"""Writes GGUF files with a published model's shapes and types and random weights: as fast or slow as the real one, none of its sense.

  bench/random_gguf.py --model e2b --tokenizer gemma-3-270m.gguf --out e2b-q4_0.gguf

Matrices are Q4_0, embeddings Q6_K, the per-layer projection BF16, routers and vectors F32, as llama.cpp's quantiser leaves them.
The tokenizer (262,144 tokens) is copied from another GGUF file. Weights are scaled so that activations stay near 1; routers so that
tokens choose different experts. Random data is made once for a type and repeated, so memory stays below 500 MB.
"""
import argparse
import dataclasses
import json
import os
import shutil
import struct
import sys

import numpy as np

from gguf_file import BOOL, F32, I32, SCALARS, STRING, TYPE_IDS, U32, ARRAY, GgufFile, tensor_bytes

VOCABULARY = 262144
ALIGNMENT = 32
TILE_BYTES = 48 << 20
FULL_WIDTH, SLIDING_WIDTH = 512, 256  # of an attention head


@dataclasses.dataclass(frozen=True)
class Shape:
    title: str
    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int            # of sliding layers
    window: int
    full_every: int          # each such layer has full attention, and the last
    context: int
    full_kv_heads: int = 0   # 0: as kv_heads
    keys_are_values: bool = False  # in full layers
    per_layer: int = 0       # width of the per-layer embeddings
    shared: int = 0          # last layers that read another layer's KV; they have MLPs of twice the width
    experts: int = 0
    experts_used: int = 0
    expert_mlp: int = 0

    def full(self, i):
        return (i + 1) % self.full_every == 0 or i == self.layers - 1

    def width(self, i):
        return FULL_WIDTH if self.full(i) else SLIDING_WIDTH

    def kv(self, i):
        return self.full_kv_heads if self.full(i) and self.full_kv_heads else self.kv_heads

    def mlp_of(self, i):
        return self.mlp * (2 if i >= self.layers - self.shared else 1)


SHAPES = {
    "e2b": Shape("Gemma 4 E2B, random weights", layers=35, hidden=1536, mlp=6144, heads=8, kv_heads=1, window=512, full_every=5,
                 context=131072, per_layer=256, shared=20),
    "26b-a4b": Shape("Gemma 4 26B-A4B, random weights", layers=30, hidden=2816, mlp=2112, heads=16, kv_heads=8, window=1024,
                     full_every=6, context=262144, full_kv_heads=2, keys_are_values=True, experts=128, experts_used=8,
                     expert_mlp=704),
}


@dataclasses.dataclass
class Tensor:
    name: str
    dims: tuple          # the contiguous dimension first
    type: str
    deviation: float = 0.0   # of random weights; 0: `fill` instead
    fill: object = 1.0       # a number, or an array of the tensor's length

    @property
    def bytes(self):
        return tensor_bytes(self.type, self.dims)


def matrix(name, inputs, outputs, type_="Q4_0"):
    return Tensor(name, (inputs, outputs), type_, inputs ** -0.5)


def vector(name, length, fill=1.0):
    return Tensor(name, (length,), "F32", fill=fill)


def attention_tensors(s, i, p):
    width = s.width(i)
    scale = width ** -0.25  # of query and key norms: Gemma 4 does not scale scores
    yield vector(p + "attn_norm.weight", s.hidden)
    yield matrix(p + "attn_q.weight", s.hidden, s.heads * width)
    yield vector(p + "attn_q_norm.weight", width, scale)
    yield matrix(p + "attn_k.weight", s.hidden, s.kv(i) * width)
    yield vector(p + "attn_k_norm.weight", width, scale)
    if not (s.keys_are_values and s.full(i)):
        yield matrix(p + "attn_v.weight", s.hidden, s.kv(i) * width)
    yield matrix(p + "attn_output.weight", s.heads * width, s.hidden)
    yield vector(p + "post_attention_norm.weight", s.hidden)


def mlp_tensors(s, i, p):
    yield vector(p + "ffn_norm.weight", s.hidden)
    yield matrix(p + "ffn_gate.weight", s.hidden, s.mlp_of(i))
    yield matrix(p + "ffn_up.weight", s.hidden, s.mlp_of(i))
    yield matrix(p + "ffn_down.weight", s.mlp_of(i), s.hidden)
    yield vector(p + "post_ffw_norm.weight", s.hidden)


def expert_tensors(s, p):
    yield Tensor(p + "ffn_gate_inp.weight", (s.hidden, s.experts), "F32", 1.0)
    yield vector(p + "ffn_gate_inp.scale", s.hidden)
    for norm in ("pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2"):
        yield vector(f"{p}{norm}.weight", s.hidden)
    yield Tensor(p + "ffn_gate_up_exps.weight", (s.hidden, 2 * s.expert_mlp, s.experts), "Q4_0", s.hidden ** -0.5)
    yield Tensor(p + "ffn_down_exps.weight", (s.expert_mlp, s.hidden, s.experts), "Q4_0", s.expert_mlp ** -0.5)
    yield vector(p + "ffn_down_exps.scale", s.experts)


def tensors(s):
    yield Tensor("token_embd.weight", (s.hidden, VOCABULARY), "Q6_K", s.hidden ** -0.5)
    yield vector("output_norm.weight", s.hidden)
    if s.per_layer:
        yield Tensor("per_layer_token_embd.weight", (s.per_layer * s.layers, VOCABULARY), "Q6_K", s.per_layer ** -0.5)
        yield matrix("per_layer_model_proj.weight", s.hidden, s.per_layer * s.layers, "BF16")
        yield vector("per_layer_proj_norm.weight", s.per_layer)
    # Divides angles: a quarter of a full layer's pairs turns, the rest stands still.
    pairs = FULL_WIDTH // 2
    yield vector("rope_freqs.weight", pairs, np.where(np.arange(pairs) < pairs // 4, 1.0, 1e30))
    for i in range(s.layers):
        p = f"blk.{i}."
        yield from attention_tensors(s, i, p)
        yield from mlp_tensors(s, i, p)
        if s.experts:
            yield from expert_tensors(s, p)
        if s.per_layer:
            yield matrix(p + "inp_gate.weight", s.hidden, s.per_layer)
            yield matrix(p + "proj.weight", s.per_layer, s.hidden)
            yield vector(p + "post_norm.weight", s.hidden)
        yield vector(p + "layer_output_scale.weight", 1)


def metadata(s):
    every = range(s.layers)

    def numbers(of_layer):
        values = [of_layer(i) for i in every]
        return (U32, values[0]) if len(set(values)) == 1 else (I32, values)

    own = {
        "context_length": (U32, s.context), "embedding_length": (U32, s.hidden), "block_count": (U32, s.layers),
        "feed_forward_length": numbers(s.mlp_of), "attention.head_count": (U32, s.heads),
        "attention.head_count_kv": numbers(s.kv), "attention.layer_norm_rms_epsilon": (F32, 1e-6),
        "attention.key_length": (U32, FULL_WIDTH), "attention.value_length": (U32, FULL_WIDTH),
        "attention.key_length_swa": (U32, SLIDING_WIDTH), "attention.value_length_swa": (U32, SLIDING_WIDTH),
        "attention.sliding_window": (U32, s.window),
        "attention.sliding_window_pattern": (BOOL, [not s.full(i) for i in every]),
        "attention.shared_kv_layers": (U32, s.shared), "embedding_length_per_layer_input": (U32, s.per_layer),
        "rope.freq_base": (F32, 1e6), "rope.freq_base_swa": (F32, 1e4), "rope.dimension_count": (U32, FULL_WIDTH),
        "rope.dimension_count_swa": (U32, SLIDING_WIDTH), "final_logit_softcapping": (F32, 30.0),
    }
    if s.experts:
        own |= {"expert_count": (U32, s.experts), "expert_used_count": (U32, s.experts_used),
                "expert_feed_forward_length": (U32, s.expert_mlp)}
    return {"general.architecture": (STRING, "gemma4"), "general.type": (STRING, "model"), "general.name": (STRING, s.title),
            "general.file_type": (U32, 2), "general.quantization_version": (U32, 2)} | {f"gemma4.{k}": v for k, v in own.items()}


def encode_text(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def encode_pair(key, kind, value):
    if isinstance(value, list):
        body = struct.pack(f"<IIQ{len(value)}{SCALARS[kind]}", ARRAY, kind, len(value), *value)
    elif kind == STRING:
        body = struct.pack("<I", kind) + encode_text(value)
    else:
        body = struct.pack(f"<I{SCALARS[kind]}", kind, value)
    return encode_text(key) + body


class Tiles:
    """Random blocks of a type with a wanted standard deviation, as bytes."""

    # What a block with d = 1 deviates by: nibbles 1 to 15 about 8; 6-bit codes about 32, times scales of +-8.
    UNIT = {"Q4_0": np.r_[-7, -7:8].std(), "Q6_K": 8 * np.arange(-32, 32).std()}
    LAYOUT = {"Q4_0": np.dtype([("d", "<f2"), ("codes", "u1", 16)]),
              "Q6_K": np.dtype([("low", "u1", 128), ("high", "u1", 64), ("scales", "i1", 16), ("d", "<f2")])}

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.made = {}

    def _blocks(self, type_):
        if type_ not in self.made:
            layout = self.LAYOUT.get(type_, np.dtype("<f4"))
            count = TILE_BYTES // layout.itemsize | 1  # odd, so that tiles and rows don't fall into step
            if layout.names is None:
                self.made[type_] = self.rng.standard_normal(count, dtype=np.float32)
            else:
                blocks = np.frombuffer(self.rng.bytes(count * layout.itemsize), layout).copy()
                if type_ == "Q4_0":
                    low, high = blocks["codes"] & 15, blocks["codes"] >> 4
                    blocks["codes"] = np.maximum(low, 1) | np.maximum(high, 1) << 4
                else:
                    blocks["scales"] = np.where(blocks["scales"] < 0, -8, 8)
                self.made[type_] = blocks
        return self.made[type_]

    def bytes_of(self, type_, deviation):
        blocks = self._blocks(type_)
        if type_ in self.LAYOUT:
            blocks["d"] = deviation / self.UNIT[type_]
            return memoryview(blocks).cast("B")
        values = blocks * np.float32(deviation)
        if type_ == "BF16":
            return memoryview((values.view(np.uint32) >> 16).astype("<u2")).cast("B")
        return memoryview(values).cast("B")

    def block_bytes(self, type_):
        return self.LAYOUT[type_].itemsize if type_ in self.LAYOUT else {"BF16": 2, "F32": 4}[type_]


def write_tensor(f, tensor, tiles):
    if tensor.deviation == 0:
        f.write(np.broadcast_to(np.asarray(tensor.fill, "<f4"), tensor.dims[::-1]).tobytes())
    else:
        tile = tiles.bytes_of(tensor.type, tensor.deviation)
        block = tiles.block_bytes(tensor.type)
        at, left = int(tiles.rng.integers(len(tile) // block)) * block, tensor.bytes
        while left:
            piece = tile[at:at + left]
            f.write(piece)
            left, at = left - len(piece), 0
    f.write(bytes(-tensor.bytes % ALIGNMENT))


def make(model, tokenizer, out, seed=1, shape=None):
    """Writes the file under a passing name, then renames it. OSError, ValueError."""
    shape = shape or SHAPES[model]
    source = GgufFile(tokenizer)
    if source.vocabulary != VOCABULARY:
        raise ValueError(f"{tokenizer}: has {source.vocabulary} tokens; the model needs {VOCABULARY}")
    pairs = [encode_pair(key, kind, value) for key, (kind, value) in metadata(shape).items()]
    pairs += [raw for key, raw in source.raw.items() if key.startswith("tokenizer.")]
    listed = list(tensors(shape))
    infos, offset = [], 0
    for t in listed:
        infos.append(encode_text(t.name) + struct.pack(f"<I{len(t.dims)}QIQ", len(t.dims), *t.dims, TYPE_IDS[t.type], offset))
        offset += t.bytes + -t.bytes % ALIGNMENT
    free = shutil.disk_usage(os.path.dirname(os.path.abspath(out))).free
    if free < offset * 1.02:
        raise OSError(f"{out}: needs {offset / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free")
    head = b"GGUF" + struct.pack("<IQQ", 3, len(listed), len(pairs)) + b"".join(pairs + infos)
    partial = f"{out}.{os.getpid()}.part"
    tiles = Tiles(seed)
    try:
        with open(partial, "wb", buffering=1 << 20) as f:
            f.write(head + bytes(-len(head) % ALIGNMENT))
            for tensor in listed:
                write_tensor(f, tensor, tiles)
        os.replace(partial, out)
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, choices=SHAPES)
    p.add_argument("--tokenizer", required=True, help="a GGUF file whose tokenizer is copied (models/gemma3-270m/fetch.py has one)")
    p.add_argument("--out", required=True)
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    try:
        make(args.model, args.tokenizer, args.out, args.seed)
    except (OSError, ValueError) as error:
        raise SystemExit(f"random_gguf: {error}") from None
    print(json.dumps({"file": args.out, "bytes": os.path.getsize(args.out)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
