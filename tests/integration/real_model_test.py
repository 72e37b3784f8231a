#!/usr/bin/env python3
"""The real Gemma 3 270M and its vocabulary of 262,144: tokenizer, chat ids, continuations by two workers and by one.

  real_model_test.py BIN_FOLDER REPOSITORY

Fetched once into the cache by its name; a failed fetch fails the test.
"""
import json
import os
import sys
import unittest

from command_line import CommandLine

COMMAND = CommandLine(os.path.join(sys.argv[1], "alphecca"))
DATA = os.path.join(sys.argv[2], "tests/data")
MODEL = "gemma3-270m"
MARGIN = 0.3  # int8 activations may choose otherwise where the reference's two best logits are nearer than this


def rows(name):
    with open(os.path.join(DATA, "text/tokenizer", name), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


class Vocabulary(unittest.TestCase):
    def test_encodes_and_decodes_as_the_reference(self):
        cases = rows("gemma3.jsonl") + rows("gemma3-invalid-utf8.jsonl")
        self.assertEqual(len(cases), 450)
        encoded = [c for c in cases if "hex" in c or "text" in c]
        source = [{"hex" if "hex" in c else "text": c.get("hex", c.get("text")), "special": c["special"]} for c in encoded]
        for case, got in zip(encoded, COMMAND.filter(source, "tokenize", "--model", MODEL), strict=True):
            self.assertEqual(got["ids"], case["ids"], case["name"])
        source = [{"ids": c["ids"]} for c in cases]
        for case, got in zip(cases, COMMAND.filter(source, "tokenize", "--model", MODEL), strict=True):
            self.assertEqual(got["text"], case.get("decode", case.get("text")), case["name"])


class Continuations(unittest.TestCase):
    def test_follow_the_reference_on_one_worker_and_two(self):
        with open(os.path.join(DATA, "goldens/gemma3-270m-real.json"), encoding="utf-8") as f:
            prompts = json.load(f)["prompts"]
        self.assertEqual(len(prompts), 24)
        for tp in ("1", "2"):
            with COMMAND.up("--model", MODEL, "--tp", tp, "--prompt", "The three primary colors are",
                            "--max-tokens", "8") as (address, said):
                self.assertIn("The three primary colors are red, blue, and yellow.", said)
                for row in prompts:
                    self.follows(row, address, tp)

    def follows(self, row, address, tp):
        ids = COMMAND.generate("--connect", address, "--model", MODEL, "--prompt", row["prompt"], "--max-tokens",
                               str(len(row["greedy"])), "--temperature", "0", "--ignore-eos")["ids"]
        self.assertEqual(len(ids), len(row["greedy"]))
        step = next((i for i, (want, got) in enumerate(zip(row["greedy"], ids)) if want != got), None)
        if step is not None:
            self.assertLess(row["margin"][step], MARGIN, f"tp {tp}, {row['prompt']!r}: left the reference at step {step}")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
