#!/usr/bin/env python3
"""The benchmark programs on tiny models: what they count and print, and how they fail. No figure is judged.

  bench_test.py BIN_FOLDER REPOSITORY
"""
import collections
import http.server
import json
import os
import stat
import subprocess
import sys
import tempfile
import threading
import time
import types
import unittest

import grpc

BIN, ROOT = sys.argv[1:3]
sys.path.insert(0, os.path.join(ROOT, "bench"))

import docs_section  # noqa: E402
import load_generator as load  # noqa: E402
import long_context  # noqa: E402
import local_cluster  # noqa: E402
import peer_bench  # noqa: E402
import peer_rows  # noqa: E402
import random_gguf  # noqa: E402
import soak  # noqa: E402
import soak_clients  # noqa: E402
from gguf_file import GgufFile  # noqa: E402

KEYS = ["work", "unit", "ours", "peer", "ratio", "bound", "share_of_bound"]
DENSE = os.path.join(ROOT, "models/tiny-dense")
DOCUMENT = f"# Title\n\nbefore\n\n{docs_section.BEGIN}\n{docs_section.END}\n\nafter\n"


def answer(due, arrivals, status="OK", tokens=None):
    return load.Answer(due, status, output_tokens=tokens or sum(n for _, n in arrivals), arrivals=arrivals, ended=arrivals[-1][0])


class Arithmetic(unittest.TestCase):
    def test_percentile_is_a_value_that_enough_do_not_exceed(self):
        values = list(range(100, 0, -1))
        self.assertEqual([load.percentile(values, q) for q in (0.5, 0.99, 1.0)], [50, 99, 100])
        self.assertEqual(load.percentile([7.0], 0.99), 7.0)
        self.assertIsNone(load.percentile([], 0.5))

    def test_times_of_an_answer(self):
        one = answer(10.0, [(12.0, 1), (13.0, 2), (14.0, 2)])
        self.assertEqual((one.ttft, one.tpot), (2.0, 0.5))
        self.assertIsNone(answer(0.0, [(1.0, 1)]).tpot)
        self.assertEqual(answer(0.0, [(1.0, 1), (3.0, 1)], tokens=5).tpot, 0.5)  # half characters came without ids

    def test_rate_of_answers_that_are_written_together(self):
        slow = answer(0.0, [(1.0, 1), (2.0, 1), (3.0, 1), (4.0, 1)])
        late = answer(0.0, [(2.0, 1), (2.5, 1), (3.0, 1), (5.0, 1)])
        self.assertEqual(load.together_rate([slow, late]), 2.0)  # after 2 until 4: two tokens each
        with self.assertRaisesRegex(local_cluster.Failure, "not written at the same time"):
            load.together_rate([slow, answer(0.0, [(6.0, 1), (7.0, 1)])])

    def test_a_client_that_dies_is_not_passed_over(self):
        def ask(prompt, tokens, due=0.0):
            if prompt == [2]:
                raise KeyError("usage")
            return answer(due, [(1.0, 1)])
        server = types.SimpleNamespace(ask=ask)
        before = threading.excepthook
        threading.excepthook = lambda args: None
        self.addCleanup(setattr, threading, "excepthook", before)
        with self.assertRaisesRegex(local_cluster.Failure, "3 requests had 2 answers"):
            load.closed_loop(server, [[1], [2], [3]], 4, 2)
        with self.assertRaisesRegex(local_cluster.Failure, "3 requests had 2 answers"):
            load.open_loop(server, [[1], [2], [3]], 4, 1000, 1)
        with self.assertRaisesRegex(local_cluster.Failure, "an answer had no tokens"):
            load.together_rate([load.Answer(0.0, "OK")])

    def test_an_open_loop_ends_early_once_it_has_seen_enough(self):
        server = types.SimpleNamespace(ask=lambda prompt, tokens, due: answer(due, [(due + 1.0, 1)]))
        answers = load.open_loop(server, [[1]] * 1000, 4, 1000, 1, enough=lambda answers: len(answers) >= 2)
        self.assertTrue(2 <= len(answers) < 1000, len(answers))

    def test_a_trial_fails_by_the_first_answer_past_what_a_percentile_allows(self):
        def fails(requests, ttfts, tpot=0.1, status="OK"):
            setting = types.SimpleNamespace(sizes=peer_rows.Sizes(open_requests=requests), ttft_limit=2.0, tpot_limit=0.5)
            answers = [answer(0.0, [(ttft, 1), (ttft + 10 * tpot, 10)], status) for ttft in ttfts]
            return peer_rows.OpenLoop(setting).fails(answers)
        self.assertFalse(fails(40, [1.0] * 40))
        self.assertTrue(fails(40, [1.0, 2.1]))
        self.assertTrue(fails(40, [1.0], tpot=0.6))
        self.assertTrue(fails(40, [1.0], status="HTTP 503"))
        self.assertFalse(fails(200, [1.0, 3.0, 3.0]))  # the 198th of 200 is within
        self.assertTrue(fails(200, [3.0, 3.0, 3.0]))

    def test_search_finds_the_highest_rate_that_holds(self):
        for limit in (0.3, 1.0, 2.9, 40.0):
            for start in (0.5, 1.0, 8.0):
                rate = peer_rows.search(lambda r: r <= limit, start, 1.25, 0.01, 1000.0)
                self.assertLessEqual(rate, limit)
                self.assertGreater(rate * 1.25 ** 0.5 * 1.0001, limit, f"limit {limit} from {start}")
        self.assertEqual(peer_rows.search(lambda r: False, 1.0, 1.25, 0.01, 1000.0), 0.0)
        self.assertLessEqual(peer_rows.search(lambda r: True, 1.0, 1.25, 0.01, 1000.0), 1000.0)


class Shapes(unittest.TestCase):
    def test_random_models_have_the_published_sizes(self):
        for model, parameters, size in (("e2b", 4647450147, 3344341132), ("26b-a4b", 25233142046, 14423538808)):
            listed = list(random_gguf.tensors(random_gguf.SHAPES[model]))
            count = sum(random_gguf.np.prod(t.dims, dtype=object) for t in listed)
            self.assertEqual((count, sum(t.bytes for t in listed)), (parameters, size))

    def test_a_random_model_is_one_that_we_serve(self):
        shape = random_gguf.Shape("small", layers=2, hidden=256, mlp=96, heads=2, kv_heads=1, window=64, full_every=2, context=512,
                                  keys_are_values=True, experts=4, experts_used=2, expert_mlp=32)
        tokenizer = subprocess.run([sys.executable, os.path.join(ROOT, "models/gemma3-270m/fetch.py")], stdout=subprocess.PIPE, text=True,
                                   check=True).stdout.strip()
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "small.gguf")
            random_gguf.make(None, tokenizer, path, shape=shape)
            file = GgufFile(path)
            self.assertEqual([(t.name, t.dims, t.type) for t in file.tensors],
                             [(t.name, t.dims, t.type) for t in random_gguf.tensors(shape)])
            done = subprocess.run([os.path.join(BIN, "alphecca"), "generate", "--json", "--model", path, "--ids", "2,500,600",
                                   "--max-tokens", "4", "--temperature", "0", "--ignore-eos"], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(len(json.loads(done.stdout.splitlines()[-1])["ids"]), 4)
            with self.assertRaisesRegex(ValueError, "tokens; the model needs 262144"):
                random_gguf.make(None, os.path.join(ROOT, "tests/data/goldens/gguf/moe-26b-shape-q4_0/model.gguf"), path, shape=shape)

    def test_what_is_counted_is_what_runs(self):
        with tempfile.TemporaryDirectory() as folder:
            for model in ("tiny-dense", "tiny-moe"):
                path = os.path.join(folder, f"{model}.gguf")
                subprocess.run([os.path.join(BIN, "alphecca"), "convert", "--model", os.path.join(ROOT, "models", model), "--weights", "q4_0",
                                "--out", path], check=True, capture_output=True)
                setting = peer_rows.Setting(bin=BIN, threads=1, files=lambda _, p=path: p, peer=None, sizes=peer_rows.Sizes(prefill=150),
                                            machine={}, ttft_limit=1, tpot_limit=1)
                self.assertEqual(setting.executed_operations(model), setting.cost(model).prefill_operations(150))


class Document(unittest.TestCase):
    MACHINE = {"name": "a processor", "rates": "fast"}
    ORDER = ["one", "two", "three"]

    def result(self, work, **more):
        return {"work": work, "unit": "tokens/s", "ours": 12.0, "peer": 10.0, "ratio": 1.2, "bound": 24.0, "share_of_bound": 0.5} | more

    def write(self, text, *results, machine=None):
        return docs_section.rewrite(text, results, self.ORDER, machine or self.MACHINE, "today")

    def test_only_the_section_and_only_measured_rows_change(self):
        first = self.write(DOCUMENT, self.result("three"), self.result("one", ratio=0.9))
        self.assertTrue(first.startswith("# Title\n\nbefore\n\n" + docs_section.BEGIN))
        self.assertTrue(first.endswith(docs_section.END + "\n\nafter\n"))
        self.assertIn("| one | tokens/s | 12 | 10 | 0.9 | 24 | 50 % |  | today, fast |\n| three | tokens/s |", first)
        self.assertIn("Behind llama.cpp: one (0.9).", first)
        second = self.write(first, self.result("two"), self.result("one", ours=15.0))
        self.assertEqual([line.split(" | ")[0] for line in second.splitlines() if line.endswith("today, fast |")], ["| one", "| two", "| three"])
        self.assertIn("| one | tokens/s | 15 |", second)
        self.assertIn("No row is behind llama.cpp.", second)

    def test_what_is_missing_is_told(self):
        text = self.write(DOCUMENT, self.result("two", rounds=1))
        self.assertIn("| rounds: 1 | today, fast |", text)
        self.assertIn("No row is behind llama.cpp. Not measured on this machine: one, three.", text)

    def test_rows_of_another_machine_go(self):
        first = self.write(DOCUMENT, self.result("one"))
        self.assertNotIn("| one |", self.write(first, self.result("two"), machine={"name": "another", "rates": "slow"}))

    def test_missed_aims_and_missing_values_are_shown(self):
        text = self.write(DOCUMENT, self.result("one", peer=None, ratio=None, bound=None, share_of_bound=None, unit="µs", ours=212.4,
                                                aims=[{"of": "ours", "least": None, "most": 150.0, "met": False}],
                                                notes={"p99 tpot, ms": {"ours": 31.0, "peer": 42.0}}, others=0.3))
        self.assertIn("| one | µs | 212 |  |  |  |  | aim: at most 150, MISSED; p99 tpot, ms: ours 31, llama.cpp 42; "
                      "others took up to 30 % of the CPUs | today, fast |", text)
        self.assertIn("Aims missed, in part: one.", text)

    def test_aims_of_ratio_and_share(self):
        text = self.write(DOCUMENT, self.result("one", aims=[{"of": "ratio", "least": 1.15, "most": None, "met": True},
                                                             {"of": "share_of_bound", "least": 0.85, "most": None, "met": False}]))
        self.assertIn("| aim: ratio at least 1.15, met; aim: share at least 0.85, MISSED | today, fast |", text)

    def test_a_document_without_the_markers_is_refused(self):
        with self.assertRaisesRegex(ValueError, "no lines '<!-- bench-peer"):
            self.write("# Title\n", self.result("one"))


class Load(unittest.TestCase):
    """The load generator against a real cluster."""

    @classmethod
    def setUpClass(cls):
        cls.cluster = local_cluster.Cluster(DENSE, threads=1, flags=["--context", "256", "--max-sequences", "4"], binaries=BIN)
        cls.addClassCleanup(cls.cluster.__exit__)
        cls.cluster.start()
        cls.server = load.GrpcServer(cls.cluster.address)

    def counted(self):
        return [local_cluster.metric(self.cluster.metrics_address, f"alphecca_{what}_tokens_total") for what in ("prompt", "output")]

    def metrics_rise_to(self, before, tokens_in, tokens_out):
        """The coordinator counts a request when it has ended, the client may know first."""
        want = [before[0] + tokens_in, before[1] + tokens_out]
        deadline = time.monotonic() + 20
        while self.counted() != want and time.monotonic() < deadline:
            time.sleep(0.02)
        self.assertEqual(self.counted(), want)

    def test_closed_loop_counts_what_the_server_counts(self):
        before = self.counted()
        prompts = load.make_prompts(12, 4, 60, self.server.vocabulary(), seed=3)
        answers = load.closed_loop(self.server, prompts, 20, clients=5)
        report = load.summary(answers)
        self.assertEqual(report["status"], {"OK": 12})
        self.assertEqual(report["tokens_in"], sum(map(len, prompts)))
        self.assertEqual(report["tokens_out"], 12 * 20)
        self.assertEqual([sum(n for _, n in a.arrivals) for a in answers], [20] * 12)
        self.assertTrue(all(a.due <= a.arrivals[0][0] <= a.arrivals[-1][0] <= a.ended for a in answers))
        self.metrics_rise_to(before, report["tokens_in"], report["tokens_out"])
        self.assertEqual(load.failures(answers), "")

    def test_every_status_is_counted(self):
        before = self.counted()
        prompts = load.make_prompts(6, 10, 10, 4096, seed=4)
        prompts[2] = prompts[2] * 30  # more than the context
        prompts[4] = [2, 1 << 20]     # no such token
        answers = load.closed_loop(self.server, prompts, 8, clients=2)
        self.assertEqual(load.summary(answers)["status"], {"OK": 4, "INVALID_ARGUMENT": 2})
        self.assertRegex(load.failures(answers), "^2 of 6 requests failed, first: INVALID_ARGUMENT: .+")
        self.metrics_rise_to(before, 40, 32)

    def test_open_loop_sends_all_and_counts_from_when_they_were_due(self):
        before = self.counted()
        prompts = load.make_prompts(10, 4, 20, 4096, seed=5)
        answers = load.open_loop(self.server, prompts, 6, rate=200.0, seed=1)
        self.assertEqual(load.summary(answers)["status"], {"OK": 10})
        self.assertEqual(len({a.due for a in answers}), 10)
        self.assertTrue(all(a.ttft > 0 for a in answers))
        self.metrics_rise_to(before, sum(map(len, prompts)), 60)

    def test_nobody_there(self):
        answers = load.closed_loop(load.GrpcServer(f"127.0.0.1:{local_cluster.free_port()}"), [[2, 3]], 4, 1)
        self.assertEqual(load.summary(answers)["status"], {"UNAVAILABLE": 1})
        answers = load.closed_loop(load.HttpServer(f"127.0.0.1:{local_cluster.free_port()}"), [[2, 3]], 4, 1)
        self.assertEqual(load.summary(answers)["status"], {"INCOMPLETE": 1})

    def test_a_stream_that_ends_too_early(self):
        server = load.GrpcServer(self.cluster.address)
        events = list(server.stub.Generate(server.pb.GenerateRequest(ids=server.pb.TokenIds(ids=[2, 500]),
                                                                     options=server.pb.GenerationOptions(max_tokens=4))))

        class Cut:
            def Generate(self, *_, **__):
                return iter(events[:-1])

        server.stub = Cut()
        self.assertEqual(server.ask([2, 500], 4).status, "INCOMPLETE")

    def test_the_command_says_what_failed(self):
        command = [sys.executable, os.path.join(ROOT, "bench/load_generator.py"), "--connect", self.cluster.address, "--requests", "3",
                   "--clients", "2", "--prompt", "8:16"]
        done = subprocess.run([*command, "--out", "5"], capture_output=True, text=True)
        self.assertEqual((done.returncode, json.loads(done.stdout)["tokens_out"]), (0, 15), done.stderr)
        done = subprocess.run([*command, "--out", "5000"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(json.loads(done.stdout)["status"], {"INVALID_ARGUMENT": 3})
        self.assertIn("3 of 3 requests failed, first: INVALID_ARGUMENT", done.stderr)


def outcome(status="OK", acted=False, tokens=(5,), usage=(10, 3), events=2, message="", kind="plain"):
    """Of a request with a prompt of 10 tokens and samples of at most 5."""
    ask = soak_clients.Ask(kind, None, 10, len(tokens), 5)
    used = usage and types.SimpleNamespace(prompt_tokens=usage[0], cached_tokens=usage[1], completion_tokens=sum(tokens))
    return soak_clients.Outcome(ask, status, message, acted, events, [[7] * n for n in tokens], len(tokens), used)


def meters(requests=(), **counts):
    every = dict.fromkeys([*soak.Meters.COORDINATOR, *(f"worker_{name}" for name in soak.Meters.WORKER)], 0)
    return types.SimpleNamespace(requests=dict(requests), counts=every | counts)


class Soak(unittest.TestCase):
    """What a soak takes for right; soak.py itself runs as a test of its own."""
    ONE = {"prompt_tokens": 10, "cached_prompt_tokens": 3, "output_tokens": 5, "worker_sequences": 1, "worker_prompt_tokens": 10,
           "worker_generated_tokens": 5, "worker_prefix_tokens": 10, "worker_prefix_hit_tokens": 3}
    OK = {("Generate", "OK"): 1}

    def wrong(self, outcomes, requests, calm=True, others=(), **counts):
        return soak.wrong_counts(meters({("Generate", "OK"): 0}), meters(requests, **counts), outcomes, collections.Counter(dict(others)), calm)

    def test_whole_answers_are_counted_to_the_last(self):
        self.assertEqual(self.wrong([outcome()], self.OK, **self.ONE), [])
        for name, value in self.ONE.items():
            for off in (value - 1, value + 1):
                self.assertRegex(self.wrong([outcome()], self.OK, **self.ONE | {name: off})[0], f"^{name} rose by {off}, must be {value} to")
        self.assertEqual(len(self.wrong([outcome()], {("Generate", "OK"): 2}, **self.ONE)), 2)  # of this code, and in all
        self.assertEqual(len(self.wrong([outcome()], self.OK | {("Generate", "INTERNAL"): 1}, **self.ONE)), 2)
        self.assertEqual(self.wrong([outcome()], self.OK | {("Tokenize", "OK"): 2}, others={("Tokenize", "OK"): 2}, **self.ONE), [])
        self.assertIn("preempted in a calm", self.wrong([outcome()], self.OK, worker_preemptions=1, **self.ONE)[0])
        again = self.ONE | {"worker_prefix_tokens": 24, "worker_prefix_hit_tokens": 9, "worker_preemptions": 1}
        self.assertEqual(self.wrong([outcome()], self.OK, calm=False, **again), [])

    def test_of_a_request_that_was_broken_off_only_bounds_are_known(self):
        gone = outcome("CANCELLED", acted=True, tokens=(2,), usage=None)
        for status in ("OK", "CANCELLED"):
            for out in (2, 5):
                counted = self.ONE | {"output_tokens": out, "worker_generated_tokens": out}
                self.assertEqual(self.wrong([gone], {("Generate", status): 1}, **counted), [])
        self.assertIn("output_tokens", self.wrong([gone], {("Generate", "OK"): 1}, **self.ONE | {"output_tokens": 1})[0])
        self.assertEqual(len(self.wrong([gone], {("Generate", "INVALID_ARGUMENT"): 1}, **self.ONE)), 1)
        self.assertEqual(len(self.wrong([gone], {}, **self.ONE)), 1)  # something came back: it was there
        self.assertEqual(self.wrong([outcome("CANCELLED", acted=True, tokens=(0,), usage=None, events=0)], {}), [])

    def test_what_was_refused_is_not_counted_further(self):
        refused = outcome("RESOURCE_EXHAUSTED", tokens=(0,), usage=None, events=0, message="9 sequences are open, at most 9 may be")
        self.assertEqual(self.wrong([refused], {("Generate", "RESOURCE_EXHAUSTED"): 1}), [])
        self.assertNotEqual(self.wrong([refused], {("Generate", "RESOURCE_EXHAUSTED"): 1}, prompt_tokens=10), [])

    def test_answers_and_refusals_are_judged(self):
        client = soak_clients.Client(types.SimpleNamespace(channel=grpc.insecure_channel("127.0.0.1:1")),
                                     types.SimpleNamespace(rng=None), [None], soak.Limits(open=9, waiting=4))
        for text, samples, right in (("9 sequences are open, at most 9 may be", 1, True), ("8 sequences are open, at most 9 may be", 1, False),
                                     ("8 sequences are open, at most 9 may be", 2, True), ("18 sequences are open, at most 9 may be", 1, True),
                                     ("19 sequences are open, at most 9 may be", 1, False), ("the queue is full: 4 sequences wait", 1, True),
                                     ("the queue is full: 3 sequences wait", 1, False), ("no", 1, False)):
            self.assertEqual(client.refusal_problem(text, samples) == "", right, text)
        for bad in (outcome("UNAVAILABLE"), outcome("INTERNAL", acted=True, kind="cancel"), outcome("CANCELLED"),
                    outcome("DEADLINE_EXCEEDED"), outcome(tokens=(4,)), outcome(usage=None), outcome(usage=(11, 3))):
            client.judge(bad)
            self.assertTrue(bad.problem, bad)
        for good in (outcome(), outcome("DEADLINE_EXCEEDED", kind="deadline"), outcome("CANCELLED", acted=True, kind="cancel")):
            client.judge(good)
            self.assertEqual(good.problem, "")

    def test_memory_is_told_by_what_follows_the_warm_up(self):
        memory = soak.Memory(types.SimpleNamespace(coordinator=types.SimpleNamespace(pid=0), workers=[]), 100)
        for grown, change in ((0, 0.0), (9, 0.06)):
            memory.samples = [(at, {"coordinator": 50 if at < 30 else 100 + (grown * (at - 30) / 60)}) for at in range(0, 91)]
            self.assertAlmostEqual(memory.report()["coordinator"]["change"], change, delta=0.005)

    def test_one_sequence_of_the_whole_context_is_planned_with_the_bytes_of_its_shape(self):
        for model, full in (("e2b", 805306368), ("26b-a4b", 5368709120)):
            plan, wrong = long_context.planned(BIN, model)
            self.assertEqual((plan["table_full_bytes"], wrong), (full, []))


class FakeLlamaServer(http.server.BaseHTTPRequestHandler):
    """Answers /completion as llama-server does; what it does wrong, the prompt's last token says."""
    REFUSE, FAIL, BREAK_OFF = 1000, 1001, 1002
    seen = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(body)
        last = body["prompt"][-1]
        self.send_response(503 if last == self.REFUSE else 200)
        self.end_headers()
        if last == self.REFUSE:
            self.wfile.write(b'{"error":{"message":"Loading model"}}')
            return
        for i in range(body["n_predict"]):
            if i == 2 and last == self.FAIL:
                self.event({"error": {"message": "out of memory"}})
                return
            if i == 2 and last == self.BREAK_OFF:
                return
            self.event({"content": "x", "tokens": [7], "stop": False})
        self.event({"content": "", "tokens": [], "stop": True, "tokens_predicted": body["n_predict"],
                    "tokens_evaluated": len(body["prompt"])})

    def event(self, data):
        self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())

    def log_message(self, *_):
        pass


class PeerLoad(unittest.TestCase):
    def test_answers_refusals_and_broken_streams(self):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeLlamaServer)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        prompts = [[2, 5, 6], [2, 5], [2, FakeLlamaServer.REFUSE], [2, FakeLlamaServer.FAIL], [2, FakeLlamaServer.BREAK_OFF]]
        answers = load.closed_loop(load.HttpServer(f"127.0.0.1:{server.server_port}"), prompts, 4, 3)
        report = load.summary(answers)
        self.assertEqual(report["status"], {"OK": 2, "HTTP 503": 1, "ERROR": 1, "INCOMPLETE": 1})
        self.assertEqual((report["tokens_in"], report["tokens_out"]), (5, 8))
        self.assertIn("out of memory", next(a.message for a in answers if a.status == "ERROR"))
        self.assertEqual(sorted(len(b["prompt"]) for b in FakeLlamaServer.seen), [2, 2, 2, 2, 3])
        self.assertTrue(all(b["cache_prompt"] is False and b["ignore_eos"] and b["n_predict"] == 4 for b in FakeLlamaServer.seen))


class Others(unittest.TestCase):
    def test_work_of_a_child_is_our_own(self):
        before = peer_bench.cpu_seconds()
        burnt = float(subprocess.run([sys.executable, "-c", "import time\nsum(range(20_000_000))\nprint(time.process_time())"],
                                     stdout=subprocess.PIPE, text=True, check=True).stdout)
        machine, own = (b - a for a, b in zip(before, peer_bench.cpu_seconds()))
        self.assertGreaterEqual(own, burnt)
        self.assertGreaterEqual(machine, burnt - 0.05)  # counted in ticks


class Rows(unittest.TestCase):
    """peer_bench.py as a whole."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.docs = os.path.join(self.folder, "benchmarks.md")
        with open(self.docs, "w", encoding="utf-8") as f:
            f.write(DOCUMENT)

    def bench(self, *flags, binaries=BIN):
        done = subprocess.run([sys.executable, os.path.join(ROOT, "bench/peer_bench.py"), "--quick", "--bin", binaries, "--docs", self.docs,
                               *flags], capture_output=True, text=True)
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr

    def document(self):
        with open(self.docs, encoding="utf-8") as f:
            return f.read()

    def program(self, name, script):
        folder = os.path.join(self.folder, "llama.cpp/build/bin")
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write("#!/bin/sh\n" + script)
        os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)

    def test_every_row_without_a_peer(self):
        code, rows, said = self.bench("--rounds", "1")
        self.assertEqual(code, 0, said)
        listed = subprocess.run([sys.executable, os.path.join(ROOT, "bench/peer_bench.py"), "--list"], capture_output=True, text=True,
                                check=True).stdout.splitlines()
        self.assertEqual(collections.Counter(row["work"] for row in rows), collections.Counter(listed))
        for row in rows:
            self.assertEqual(list(row)[:len(KEYS)], KEYS)
            self.assertGreaterEqual(row["ours"], 0, row)
            self.assertIsNone(row["peer"] or row["ratio"], row)
            self.assertTrue(-0.1 < row["others"] <= 1.1, row)
            self.assertEqual(row["bound"] is None, row["share_of_bound"] is None)
            self.assertIn(f"\n| {row['work']} | ", self.document())
        by_work = {row["work"]: row for row in rows}
        for work in ("e2b decode 1 stream", "e2b prefill 512", "26b-a4b 8 streams", "270m decode 1 stream", "server 8 clients"):
            self.assertGreater(by_work[work]["bound"], 0)
        self.assertGreater(by_work["server 8 clients"]["notes"]["p99 tpot, ms"]["ours"], 0)
        missed = said.split("aims missed:")[1:]
        for row in rows:
            (value, aim), = [(row[a["of"]], a) for a in row["aims"] if a["of"] != "ratio"] or [(None, None)]
            if value is None:
                continue
            self.assertEqual(aim["met"], value >= aim["least"] if aim["most"] is None else value <= aim["most"], row)
            if not aim["met"]:
                self.assertIn(row["work"], missed[0])

    def test_a_peer_that_answers_and_one_that_fails(self):
        self.program("llama-bench", 'for a; do case $last in -p) p=$a;; -n) n=$a;; esac; last=$a; done\n'
                     'echo "[{\\"n_prompt\\": $p, \\"n_gen\\": $n, \\"avg_ts\\": 10.0}]"\n')
        self.program("llama-batched-bench", "echo the batch is too large >&2\nexit 3\n")
        code, rows, said = self.bench("--peers", self.folder, "--only", "e2b*", "--rounds", "3")
        self.assertEqual(code, 1)
        self.assertEqual([row["work"] for row in rows], ["e2b decode 1 stream", "e2b prefill 512"])
        for row in rows:
            self.assertEqual((row["peer"], row["rounds"]), (10.0, 3))
            self.assertAlmostEqual(row["ratio"], row["ours"] / 10, delta=0.002)
        self.assertIn("not measured: e2b 8 streams: peer: llama-batched-bench ended with status 3: the batch is too large", said)
        self.assertIn("2 rows were not measured: e2b 8 streams, e2b 16 streams", said)
        self.assertNotIn("| e2b 8 streams |", self.document())

    def test_a_peer_that_is_not_there(self):
        code, rows, said = self.bench("--peers", self.folder, "--only", "server 8 clients")
        self.assertEqual((code, rows), (1, []))
        self.assertIn("not measured: server 8 clients: peer: no program llama-server in", said)
        self.assertEqual(self.document(), DOCUMENT)

    def test_our_side_fails(self):
        for name, script in (("roofline", f'exec {BIN}/roofline "$@"\n'), ("alphecca", f'exec {BIN}/alphecca "$@"\n'),
                             ("alphecca-worker", "echo no memory >&2\nexit 4\n")):
            self.program(name, script)
        code, rows, said = self.bench("--only", "270m decode*", binaries=os.path.join(self.folder, "llama.cpp/build/bin"))
        self.assertEqual((code, rows), (1, []))
        self.assertIn("not measured: 270m decode 1 stream: ours: alphecca-worker ended with status 4: no memory", said)

    def test_not_built(self):
        code, rows, said = self.bench("--only", "270m*", binaries=self.folder)
        self.assertEqual((code, rows), (1, []))
        self.assertIn("roofline: ", said)
        self.assertIn("build it first", said)

    def test_no_such_row(self):
        code, _, said = self.bench("--only", "e3b*")
        self.assertEqual(code, 2)
        self.assertIn("no row 'e3b*'; there are: e2b decode 1 stream,", said)

    def test_the_documents_own_markers(self):
        with open(os.path.join(ROOT, "docs/benchmarks.md"), encoding="utf-8") as f:
            text = f.read()
        self.assertEqual((text.count(docs_section.BEGIN), text.count(docs_section.END)), (1, 1))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
