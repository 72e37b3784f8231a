#!/usr/bin/env python3
"""`alphecca` with real processes: up, generate, status, verify through worker processes, wrong use.

  cli_test.py BIN_FOLDER REPOSITORY
"""
import json
import os
import sys
import tempfile
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

    def test_wide_experts_with_copies_follow_the_reference(self):
        with open(os.path.join(ROOT, "models/tiny-moe/golden.json"), encoding="utf-8") as f:
            prompt = json.load(f)["greedy"][0]
        with tempfile.TemporaryDirectory() as folder:
            load = os.path.join(folder, "experts.json")
            text = os.path.join(folder, "text")
            with open(text, "w", encoding="utf-8") as f:
                f.write("And it came to pass in those days, that there went out a decree.\n" * 20)
            done = run("perplexity", "--model", "tiny-moe", "--text", text, "--record-experts", load)
            self.assertEqual(done.returncode, 0, done.stderr)
            ask = ("--model", "tiny-moe", "--ids", ",".join(map(str, prompt["input_ids"])), "--max-tokens",
                   str(len(prompt["greedy_ids"])), "--temperature", "0", "--ignore-eos", "--kv-type", "f32")
            prints = set()
            for ranks, flags in (("2", ()), ("3", ()), ("2", ("--expert-load", load, "--hot-experts", "1"))):
                got = generate(*ask, "--tp", "1", "--ep", ranks, "--expert-mode", "wide", *flags)
                self.assertEqual(got["ids"], prompt["greedy_ids"], f"{ranks} ranks {flags}")
                prints.add(got["fingerprint"])
            self.assertEqual(len(prints), 3)
            done = run("generate", *ask, "--tp", "2", "--ep", "2", "--expert-mode", "wide")
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("tp 1", done.stderr)

    def test_a_seed_fixes_the_text(self):
        ask = ("--prompt", "And it came to pass", "--max-tokens", "20", "--temperature", "0.9")
        first, again, other = generate(*ask, "--seed", "7"), generate(*ask, "--seed", "7"), generate(*ask, "--seed", "8")
        self.assertEqual(first["ids"], again["ids"])
        self.assertNotEqual(first["ids"], other["ids"])

    def test_penalties_and_bias(self):
        ask = ("--prompt", "In the beginning", "--max-tokens", "24", "--temperature", "0")
        plain = generate(*ask)["ids"]
        for flags in (("--repetition-penalty", "1.5"), ("--presence-penalty", "2"), ("--frequency-penalty", "2")):
            self.assertGreater(len(set(generate(*ask, *flags)["ids"])), len(set(plain)), flags)
        biased = generate(*ask, "--presence-penalty", "-1", "--logit-bias", f"{plain[0]}=-100,{plain[1]}=-100")["ids"]
        self.assertFalse(set(plain[:2]) & set(biased))

    def test_stop_string(self):
        text = generate("--prompt", "In the beginning", "--max-tokens", "30", "--temperature", "0")["text"]
        word = text.split()[3]
        stopped = generate("--prompt", "In the beginning", "--max-tokens", "30", "--temperature", "0", "--stop", word)
        self.assertEqual(stopped["text"], text[:text.index(word)])
        self.assertEqual(stopped["finish_reason"], "stop")

    def test_wrong_use(self):
        for args, says in ((("--model", "no-such-model", "--prompt", "x"), "tiny-moe"),
                           (("--prompt", "x", "--temperature", "-1"), "temperature"),
                           (("--prompt", "x", "--repetition-penalty", "0"), "repetition-penalty"),
                           (("--prompt", "x", "--presence-penalty", "-3"), "presence-penalty"),
                           (("--prompt", "x", "--frequency-penalty", "many"), "frequency-penalty"),
                           (("--prompt", "x", "--logit-bias", "5"), "'5' is not ID=BIAS"),
                           (("--prompt", "x", "--logit-bias", "5=1,6=nan"), "'6=nan'"),
                           (("--prompt", "x", "--logit-bias", "5=100.5"), "'5=100.5'"),
                           (("--prompt", "x", "--logit-bias", "-5=1"), "'-5=1'"),
                           (("--prompt", "x", "--logit-bias", "4096=1"), "vocabulary"),
                           (("--prompt", "x", "--tp", "9"), "coordinator.log"),
                           ((), "--prompt")):
            done = run("generate", *args)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(says, done.stderr + done.stdout)


class Weights(unittest.TestCase):
    """Weights in another type: converted at load or beforehand, measured."""
    TEXT = os.path.join(ROOT, "tests/data/text/kjv-heldout.txt")

    def test_a_converted_checkpoint_answers_like_one_converted_at_load(self):
        ask = ("--prompt", "And it came to pass", "--max-tokens", "24", "--temperature", "0", "--tp", "2")
        with tempfile.TemporaryDirectory() as folder:
            for weights, name in (("bf16", "b.gguf"), ("q4_0", "q.gguf"), ("sfp8", "s")):
                out = os.path.join(folder, name)
                done = run("convert", "--model", "tiny-moe", "--weights", weights, "--out", out)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertEqual(done.stdout.strip(), out)
                again = run("convert", "--model", "tiny-moe", "--weights", weights, "--out", out)
                self.assertEqual(again.returncode, 1)
                self.assertIn("--force", again.stderr)
                written, loaded = generate("--model", out, *ask), generate("--model", "tiny-moe", "--weights", weights, *ask)
                self.assertEqual((written["ids"], written["text"]), (loaded["ids"], loaded["text"]), weights)
            self.assertEqual(sorted(os.listdir(folder)), ["b.gguf", "q.gguf", "s"])
            logs = os.path.join(folder, "logs")
            refused = run("generate", "--model", os.path.join(folder, "q.gguf"), "--weights", "sfp8", "--logs", logs, *ask)
            self.assertNotEqual(refused.returncode, 0)
            with open(os.path.join(logs, "coordinator.log"), encoding="utf-8") as log:
                self.assertIn("the file has it as Q4_0", log.read())

    def test_perplexity_rises_with_what_is_rounded_away(self):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
            with open(self.TEXT, encoding="utf-8") as whole:
                text.write(whole.read(8000))
            text.flush()
            def measure(*args):
                done = run("perplexity", "--model", "tiny-dense", "--text", text.name, "--json", *args)
                self.assertEqual(done.returncode, 0, done.stderr)
                return json.loads(done.stdout)
            base, q4 = measure(), measure("--weights", "q4_0")
            self.assertEqual((base["tp"], base["context"], base["weights"]), (1, 512, "as-file"))
            self.assertLess(15, base["perplexity"])
            self.assertLess(base["perplexity"], q4["perplexity"])
            self.assertLess(q4["perplexity"], 1.1 * base["perplexity"])
            for weights in ("f32", "bf16"):  # the file's own values
                self.assertAlmostEqual(measure("--weights", weights)["nll"], base["nll"], places=5)
            self.assertAlmostEqual(measure("--tp", "2")["nll"], base["nll"], places=3)

    def test_wrong_use(self):
        for args, says in ((("perplexity", "--model", "tiny-dense", "--text", "/no/such/file"), "/no/such/file"),
                           (("perplexity", "--model", "tiny-dense", "--text", self.TEXT, "--weights", "q5_0"), "q5_0"),
                           (("perplexity", "--model", "tiny-moe", "--text", self.TEXT, "--record-experts", "/no/such/f"),
                            "--record-experts /no/such/f"),
                           (("convert", "--model", "tiny-dense", "--weights", "f32", "--out", "x"), "f32"),
                           (("convert", "--model", os.path.join(GOLDENS, "gguf/dense-31b-shape-q8_0"), "--weights", "q4_0",
                             "--out", "/tmp/never"), "Q8_0")):
            done = run(*args)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(says, done.stderr)


class Up(unittest.TestCase):
    def test_answers_serves_and_stops(self):
        with COMMAND.up("--max-tokens", "12") as (address, said):
            self.assertRegex(said, r"> In the beginning \w+")
            status = json.loads(run("status", "--connect", address, "--json").stdout)
            group = status["models"][0]["groups"][0]
            self.assertEqual((group["state"], group["tp"], group["ep"], len(group["ranks"])), ("ready", 2, 2, 2))
            self.assertEqual(group["expert_mode"], "fused")
            people = run("status", "--connect", address).stdout
            self.assertIn("tiny-moe", people)
            self.assertIn("tp 2  ep 2  experts fused  ready", people)
            self.assertIn("rank 1", people)
            answer = generate("--connect", address, "--model", "tiny-moe", "--prompt", "And God said", "--max-tokens", "5")
            self.assertEqual(len(answer["ids"]), 5)


    def test_wide_chooses_degrees_that_are_not_given(self):
        for flags, ranks in (((), 2), (("--ep", "3"), 3)):
            with COMMAND.up("--expert-mode", "wide", "--max-tokens", "2", *flags) as (address, said):
                self.assertIn(f"{ranks} workers", said)
                group = json.loads(run("status", "--connect", address, "--json").stdout)["models"][0]["groups"][0]
                self.assertEqual((group["tp"], group["ep"], group["expert_mode"]), (1, ranks, "wide"))
                people = run("status", "--connect", address).stdout
                self.assertIn(f"tp 1  ep {ranks}  experts wide  ready", people)

    def test_experts_are_of_models_that_have_some(self):
        with COMMAND.up("--model", "tiny-dense", "--tp", "1", "--max-tokens", "2") as (address, _):
            group = json.loads(run("status", "--connect", address, "--json").stdout)["models"][0]["groups"][0]
            self.assertEqual(group["expert_mode"], "")
            self.assertIn("tp 1  ep 1  ready", run("status", "--connect", address).stdout)


class Verify(unittest.TestCase):
    def test_worker_processes_meet_the_goldens(self):
        for case in ("dense-31b-shape", "moe-26b-shape", "edge-e2b-shape", "edge-e4b-shape", "gemma3-270m-shape", "gguf/dense-31b-shape-q8_0"):
            done = run("verify", os.path.join(GOLDENS, case), "--tp", "2", "--processes", "--json", "--activations", "f32")
            self.assertEqual(done.returncode, 0, f"{case}: {done.stdout} {done.stderr}")
            report = json.loads(done.stdout)
            self.assertTrue(report["pass"])
            self.assertEqual(report["greedy_match"], "64/64", case)

    def test_converted_weights_meet_a_reference_of_their_own(self):
        for case, weights in (("dense-31b-shape", "sfp8"), ("moe-26b-shape", "q4_0")):
            for how in ((), ("--processes",)):
                done = run("verify", os.path.join(GOLDENS, case), "--tp", "2", "--weights", weights, "--activations", "f32",
                           "--json", *how)
                self.assertEqual(done.returncode, 0, f"{case} {how}: {done.stdout} {done.stderr}")
                report = json.loads(done.stdout)
                self.assertEqual((report["weights"], report["rule"], report["greedy_match"]), (weights, "f32", "64/64"))

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
