#!/usr/bin/env python3
"""`alphecca plan` as a person and a script use it.

  plan_test.py BIN_FOLDER REPOSITORY
"""
import json
import os
import sys
import tempfile
import unittest

from command_line import CommandLine

COMMAND = CommandLine(os.path.join(sys.argv[1], "alphecca"))
GIB = 2**30
KEYS = ["model", "weights", "fits", "reason", "missing_bytes", "tp", "ep", "expert_mode", "replicas", "total_weight_bytes", "ranks", "bound"]
RANK_KEYS = ["rank", "device", "weight_bytes", "mapped_bytes", "workspace_bytes", "kv_bytes", "kv_tokens"]


def plan(model, weights, devices, *args):
    """(exit status, the JSON)"""
    done = COMMAND.run("plan", "--model", model, "--weights", weights, "--devices", devices, "--json", *args)
    if done.returncode not in (0, 3):
        raise AssertionError(f"exit {done.returncode}: {done.stderr}")
    return done.returncode, json.loads(done.stdout)


class Plan(unittest.TestCase):
    def test_every_model_and_weight_type_adds_up(self):
        for model in ("e2b", "e4b", "12b", "26b-a4b", "31b"):
            for weights in ("bf16", "sfp8", "q4_0"):
                status, got = plan(model, weights, "1xb200", "--context", "8192")
                self.assertEqual(status, 0)
                self.assertEqual(list(got), KEYS)
                self.assertEqual(list(got["ranks"][0]), RANK_KEYS)
                self.assertEqual((got["model"], got["weights"], got["fits"], got["missing_bytes"]), (model, weights, True, 0))
                self.assertEqual((got["tp"], got["ep"], got["replicas"]), (1, 1, 1))
                rank = got["ranks"][0]
                self.assertEqual(rank["weight_bytes"] + rank["mapped_bytes"], got["total_weight_bytes"])
                self.assertEqual(rank["mapped_bytes"] > 0, model in ("e2b", "e4b"))
                self.assertGreaterEqual(rank["kv_tokens"], 8192)
                self.assertLess(rank["weight_bytes"] + rank["workspace_bytes"] + rank["kv_bytes"], 180 * GIB)
                self.assertGreater(got["bound"]["prefill_tokens_per_s"], got["bound"]["decode_tokens_per_s"])

    def test_a_group_and_its_replicas(self):
        status, got = plan("31b", "bf16", "4xh100-80g", "--context", "262144", "--concurrency", "16")
        self.assertEqual((status, got["fits"], got["tp"], got["replicas"]), (0, True, 2, 2))
        self.assertEqual([r["rank"] for r in got["ranks"]], [0, 1])
        self.assertEqual({r["device"] for r in got["ranks"]}, {"h100-80g"})
        self.assertGreaterEqual(got["ranks"][0]["kv_tokens"], 262144)

    def test_a_refusal_says_how_much_is_missing(self):
        status, got = plan("31b", "bf16", "2xrtx4090", "--context", "32768", "--concurrency", "1")
        self.assertEqual((status, got["fits"], got["replicas"]), (3, False, 0))
        self.assertIn(f"{got['missing_bytes'] / GIB:.1f} GiB short", got["reason"])
        self.assertIn("SFP8 fits", got["reason"])
        self.assertEqual(plan("31b", "sfp8", "2xrtx4090", "--context", "32768", "--concurrency", "1")[0], 0)
        people = COMMAND.run("plan", "--model", "31b", "--devices", "2xrtx4090")
        self.assertEqual(people.returncode, 3)
        self.assertIn("GiB short on each", people.stdout)

    def test_wide_ranks_hold_attention_whole_and_copies_of_experts(self):
        def weights(*args):
            status, got = plan("26b-a4b", "bf16", "4xl40s", "--context", "32768", *args)
            self.assertEqual((status, len(got["ranks"])), (0, 2))
            return got, [rank["weight_bytes"] for rank in got["ranks"]]
        with tempfile.TemporaryDirectory() as folder:
            load = os.path.join(folder, "load.json")
            with open(load, "w", encoding="utf-8") as f:
                json.dump({"layers": [[1 + e % 7 for e in range(128)]] * 30}, f)
            fused, fused_bytes = weights()
            wide, wide_bytes = weights("--expert-mode", "wide")
            self.assertEqual((fused["tp"], fused["ep"], fused["expert_mode"]), (2, 2, "fused"))
            self.assertEqual((wide["tp"], wide["ep"], wide["expert_mode"]), (1, 2, "wide"))
            experts = 30 * 128 * 3 * 704 * 2816 * 2
            rest = wide["total_weight_bytes"] - experts  # norms and the router are on every rank in any case
            self.assertEqual(wide_bytes, [rest + experts // 2] * 2)
            self.assertLess(sum(fused_bytes), sum(wide_bytes) - rest // 2)
            for mode, base in (("wide", wide_bytes), ("fused", fused_bytes)):
                _, copied = weights("--expert-mode", mode, "--expert-load", load, "--hot-experts", "3")
                self.assertEqual([b - a for a, b in zip(base, copied)], [30 * 3 * 3 * 704 * 2816 * 2] * 2, mode)
            people = COMMAND.run("plan", "--model", "26b-a4b", "--devices", "4xl40s", "--context", "32768", "--expert-mode",
                                 "wide", "--expert-load", load, "--hot-experts", "3")
            self.assertEqual(people.returncode, 0, people.stderr)
            for part in ("tp 1, ep 2, wide", "64-127+3", "sliding windows of 8 sequences"):
                self.assertIn(part, people.stdout)

    def test_a_table_for_people(self):
        done = COMMAND.run("plan", "--model", "26b-a4b", "--devices", "2xl40s,1xl4", "--context", "32768", "--drafter")
        self.assertEqual(done.returncode, 0, done.stderr)
        for part in ("1 group of 2 x l40s", "tp 2, ep 2", "64-127", "with its drafter", "a bound, not a promise",
                     "In none of these groups: 1 x l4"):
            self.assertIn(part, done.stdout)

    def test_wrong_use(self):
        good = {"--model": "31b", "--devices": "2xl4"}
        for wrong, says in (({"--model": "27b"}, "26b-a4b"), ({"--devices": "2xl5"}, "rtx4090"), ({"--devices": "0xl4"}, "1 to"),
                            ({"--devices": "2"}, "<count>x<name>"), ({"--devices": "9999999999xl4"}, "<count>x<name>"),
                            ({"--context": "262145"}, "262144"), ({"--context": "99999999999999999999"}, "262144"),
                            ({"--context": "-5"}, "-5"), ({"--concurrency": "0"}, "concurrency"), ({"--weights": "int3"}, "q4_0"),
                            ({"--expert-mode": "wide"}, "wants a model with experts"), ({"--hot-experts": "2"}, "hot experts"),
                            ({"--model": "26b-a4b", "--devices": "1xb200", "--expert-mode": "wide"}, "ep 2 or more"),
                            ({"--model": "26b-a4b", "--expert-load": "/no/such/load", "--hot-experts": "2"}, "/no/such/load"),
                            ({"--memory-share": "0"}, "share"), ({"--model": "12b", "--drafter": "true"}, "no drafter")):
            args = [text for pair in {**good, **wrong}.items() for text in pair]
            args = [text for text in args if text != "true"]
            done = COMMAND.run("plan", *args)
            self.assertEqual(done.returncode, 2, f"{wrong}: {done.stdout}")
            self.assertIn(says, done.stderr + done.stdout)
        self.assertEqual(COMMAND.run("plan").returncode, 2)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
