#!/usr/bin/env python3
"""Encodes texts with the embedded models' tokenizer.json by Hugging Face's tokenizers (0.23.3 made the file here).

usage: make_tiny_tokenizer_goldens.py TOKENIZER_JSON CASES.jsonl > tokenizer/tiny.jsonl
CASES.jsonl: any lines with a "text". Texts that spell a control token are left out: HF would parse them.
"""
import json
import random
import sys

from tokenizers import Tokenizer


def main():
    tokenizer = Tokenizer.from_file(sys.argv[1])
    special = [t["content"] for t in json.load(open(sys.argv[1]))["added_tokens"]]
    texts = [json.loads(line).get("text") for line in open(sys.argv[2], encoding="utf-8")]
    generator = random.Random(1611)
    words = "In the beginning God created heaven and earth \n , . ; : ' \u00e9 \u65e5\u672c \U0001f600 \u2581 <0x41> tt aaaa".split(" ")
    for _ in range(300):
        texts.append("".join(generator.choice(words) + generator.choice(["", " ", "  ", "\n"]) for _ in range(12)))
    for text in dict.fromkeys(t for t in texts if t and not any(s in t for s in special)):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        print(json.dumps({"text": text, "ids": ids}, ensure_ascii=False))


if __name__ == "__main__":
    main()
