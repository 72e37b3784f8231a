"""What a token must read and compute, from the head of a model's GGUF file: the numerators of a roofline.

Bytes are those of the file's types. An operation is a multiplication or an addition; products with matrices and attention count,
norms and activation functions don't. What a model holds but never uses (keys and values of layers that share another's) and
rows that are only looked up are no operations.
"""
import re

from gguf_file import GgufFile

KV_BYTES = 2  # of an element: BF16 or F16, on both sides


class ModelCost:
    def __init__(self, path):
        file = GgufFile(path)
        self.vocabulary = file.vocabulary
        self.layers = file.setting("block_count")
        self.first_shared = self.layers - (file.setting("attention.shared_kv_layers") or 0)
        self.experts = file.setting("expert_count", 0)
        self.experts_used = file.setting("expert_used_count", 0)
        self.has_head = any(t.name == "output.weight" for t in file.tensors)
        self.dense_bytes = self.dense_products = 0      # of each row, or of a step whatever its rows
        self.head_bytes = self.head_products = 0        # of rows that want logits
        self.expert_bytes = self.expert_products = 0    # of all experts together
        self.lookup_bytes = 0                           # of each row
        for tensor in file.tensors:
            self._add(tensor)
        self.attention = list(self._attention(file))

    def _add(self, tensor):
        name = tensor.name
        block = re.match(r"blk\.(\d+)\.attn_[kv]", name)
        if block and int(block.group(1)) >= self.first_shared or name == "rope_freqs.weight":
            return
        if name == "per_layer_token_embd.weight" or name == "token_embd.weight" and self.has_head:
            self.lookup_bytes += tensor.bytes // tensor.dims[1]
        elif name in ("token_embd.weight", "output.weight"):
            self.head_bytes += tensor.bytes
            self.head_products += tensor.elements
        elif "_exps." in name:
            self.expert_bytes += tensor.bytes
            self.expert_products += tensor.elements if len(tensor.dims) > 1 else 0
        else:
            self.dense_bytes += tensor.bytes
            self.dense_products += tensor.elements if len(tensor.dims) > 1 else 0

    def _attention(self, file):
        """(query heads x width, kv heads x width, window or None), by layer. A layer that reads another's keys and values reads them again."""
        heads, kv_heads = file.per_layer("attention.head_count"), file.per_layer("attention.head_count_kv")
        width = file.setting("attention.key_length")
        sliding_width = file.setting("attention.key_length_swa", width)
        window = file.setting("attention.sliding_window")
        pattern = file.setting("attention.sliding_window_pattern", 6)
        for i in range(self.layers):
            sliding = window and (pattern[i] if isinstance(pattern, list) else (i + 1) % pattern != 0)
            w = sliding_width if sliding else width
            yield heads[i] * w, kv_heads[i] * w, window if sliding else None

    def _keys(self, window, context):
        return min(window, context) if window else context

    def decode_step(self, streams, context):
        """(bytes, operations) of one token for each of `streams` sequences that hold `context` tokens; experts routed evenly."""
        used = self.experts_used / self.experts if self.experts else 0
        touched = 1 - (1 - used) ** streams
        kv = sum(2 * self._keys(window, context) * kv_width * KV_BYTES for _, kv_width, window in self.attention)
        scores = sum(4 * self._keys(window, context) * width for width, _, window in self.attention)
        products = self.dense_products + self.head_products + used * self.expert_products
        return (self.dense_bytes + self.head_bytes + touched * self.expert_bytes + streams * (self.lookup_bytes + kv),
                streams * (2 * products + scores))

    def prefill_operations(self, tokens):
        """Of a prompt in which every row goes through every layer and the last one alone wants logits."""
        used = self.experts_used / self.experts if self.experts else 0
        scores = 0
        for width, _, window in self.attention:
            w = self._keys(window, tokens)
            scores += 4 * width * (w * (w + 1) // 2 + (tokens - w) * w)
        return 2 * tokens * (self.dense_products + used * self.expert_products) + 2 * self.head_products + scores
