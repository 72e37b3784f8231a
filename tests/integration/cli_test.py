#!/usr/bin/env python3
"""`alphecca` with real processes: up, generate, status, verify through worker processes, wrong use.

  cli_test.py BIN_FOLDER REPOSITORY
"""
import json
import os
import sys
import unittest

from command_line import CommandLine

COMMAND = CommandLine(os.path.join(sys.argv[1], "alphecca"))
run, generate = COMMAND.run, COMMAND.generate
ROOT = sys.argv[2]
GOLDENS = os.path.join(ROOT, "tests/data/goldens")


class Generate(unittest.TestCase):
    def test_follows_the_reference_on_trained_models(self):
        for model in ("tiny-dense", "tiny-moe"):
            with open(os.path.join(ROOT, "models", model, "golden.json"), encoding="utf-8") as f:
                golden = json.load(f)
            prompt = golden["greedy"][0]
            ids, want = prompt["input_ids"], prompt["greedy_ids"]
            for tp in ("1", "2"):
                got = generate("--model", model, "--ids", ",".join(map(str, ids)), "--max-tokens", str(len(want)),
                               "--temperature", "0", "--ignore-eos", "--tp", tp, "--kv-type", "f32")
                self.assertEqual(got["ids"], want, f"{model} tp {tp}")
                self.assertEqual(got["finish_reason"], "length")
                self.assertEqual(got["prompt_tokens"], len(ids))
                self.assertGreater(got["timings"]["tokens_per_s"], 0)

    def test_a_seed_fixes_the_text(self):
        ask = ("--prompt", "And it came to pass", "--max-tokens", "20", "--temperature", "0.9")
        first, again, other = generate(*ask, "--seed", "7"), generate(*ask, "--seed", "7"), generate(*ask, "--seed", "8")
        self.assertEqual(first["ids"], again["ids"])
        self.assertNotEqual(first["ids"], other["ids"])

    def test_stop_string(self):
        text = generate("--prompt", "In the beginning", "--max-tokens", "30", "--temperature", "0")["text"]
        word = text.split()[3]
        stopped = generate("--prompt", "In the beginning", "--max-tokens", "30", "--temperature", "0", "--stop", word)
        self.assertEqual(stopped["text"], text[:text.index(word)])
        self.assertEqual(stopped["finish_reason"], "stop")

    def test_wrong_use(self):
        for args, says in ((("--model", "no-such-model", "--prompt", "x"), "tiny-moe"),
                           (("--prompt", "x", "--temperature", "-1"), "temperature"),
                           (("--prompt", "x", "--tp", "9"), "coordinator.log"),
                           ((), "--prompt")):
            done = run("generate", *args)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(says, done.stderr + done.stdout)


class Up(unittest.TestCase):
    def test_answers_serves_and_stops(self):
        with COMMAND.up("--max-tokens", "12") as (address, said):
            self.assertRegex(said, r"> In the beginning \w+")
            status = json.loads(run("status", "--connect", address, "--json").stdout)
            group = status["models"][0]["groups"][0]
            self.assertEqual((group["state"], group["tp"], group["ep"], len(group["ranks"])), ("ready", 2, 2, 2))
            people = run("status", "--connect", address).stdout
            self.assertIn("tiny-moe", people)
            self.assertIn("rank 1", people)
            answer = generate("--connect", address, "--model", "tiny-moe", "--prompt", "And God said", "--max-tokens", "5")
            self.assertEqual(len(answer["ids"]), 5)


class Verify(unittest.TestCase):
    def test_worker_processes_meet_the_goldens(self):
        for case in ("dense-31b-shape", "moe-26b-shape", "edge-e2b-shape", "edge-e4b-shape", "gemma3-270m-shape", "gguf/dense-31b-shape-q8_0"):
            done = run("verify", os.path.join(GOLDENS, case), "--tp", "2", "--processes", "--json", "--activations", "f32")
            self.assertEqual(done.returncode, 0, f"{case}: {done.stdout} {done.stderr}")
            report = json.loads(done.stdout)
            self.assertTrue(report["pass"])
            self.assertEqual(report["greedy_match"], "64/64", case)

    def test_a_json_line_a_case(self):
        cases = [os.path.join(GOLDENS, c) for c in ("iso-moe", "iso-ple")]
        done = run("verify", *cases, "--tp", "2", "--weights", "bf16", "--json")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual([json.loads(line)["pass"] for line in done.stdout.splitlines()], [True, True])

    def test_what_cannot_run_fails(self):
        done = run("verify", os.path.join(GOLDENS, "no-such-case"), os.path.join(GOLDENS, "iso-base"), "--json")
        self.assertEqual(done.returncode, 1)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual([line["pass"] for line in lines], [False, True])
        self.assertIn("no-such-case", lines[0]["error"])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
