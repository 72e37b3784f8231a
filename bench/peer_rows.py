"""What the peer benchmark measures: suites of rows that share a model and the processes that serve it.

A suite has rows, measures each side for some of them, and knows the machine's bound. A side answers with a dict by row: a Measure,
or a Failure where that row alone failed; rows that a side does not know are left out.
"""
import collections
import collections.abc
import contextlib
import dataclasses
import itertools
import json
import math
import os
import subprocess
import tempfile
import threading
import time

from load_generator import Answer, GrpcServer, HttpServer, closed_loop, failures, make_prompts, open_loop, summary, together_rate
from local_cluster import ROOT, Cluster, Failure
from model_cost import ModelCost
from peer import Peer


OVERLOADED = ("RESOURCE_EXHAUSTED", "HTTP 503", "HTTP 429")  # status of a request that was turned away


@dataclasses.dataclass(frozen=True)
class Row:
    work: str
    unit: str
    digits: int = 2

    @property
    def aims(self):
        return AIMS.get(self.work, ())


@dataclasses.dataclass(frozen=True)
class Aim:
    """A bound of a field of a row's result."""
    field: str
    least: float | None = None
    most: float | None = None

    def met(self, line):
        """None: the field has no value."""
        value = line[self.field]
        return None if value is None else value >= self.least if self.most is None else value <= self.most


def ahead(ratio, share=None):
    return [Aim("ratio", least=ratio)] + ([Aim("share_of_bound", least=share)] if share else [])


AIMS = {
    "e2b decode 1 stream": ahead(1.15, 0.85), "e2b prefill 512": ahead(2, 0.5), "e2b 8 streams": ahead(2.5),
    "e2b 16 streams": ahead(2, 0.5), "26b-a4b decode 1 stream": ahead(1.15, 0.85), "26b-a4b prefill 512": ahead(2),
    "26b-a4b 8 streams": ahead(2), "270m decode 1 stream": ahead(1.15), "270m prefill 512": ahead(2), "server 8 clients": ahead(1.5),
    "server open loop": ahead(1.5), "prefix 2048 ttft": [Aim("ours", most=0.05)], "gap beside 32K prompt": [Aim("ours", most=500)],
    "sampling 16 streams": [Aim("ours", most=0.03)],
    "step overhead 256 sequences": [Aim("ours", most=150)], "tp2 follower idle gap": [Aim("ours", most=200)],
}


@dataclasses.dataclass
class Measure:
    """One round of one side."""
    value: float
    notes: dict = dataclasses.field(default_factory=dict)    # number by name: the median over the rounds is shown
    samples: dict = dataclasses.field(default_factory=dict)  # seconds by name: the 99th percentile over all rounds is shown


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Tokens and requests of the rows."""
    decode: int = 64
    prefill: int = 512
    stream_prompt: int = 16     # all streams' prompts fit one step, so that they decode together
    stream_tokens: int = 64
    server_requests: int = 16
    server_prompt: tuple = (64, 1024)
    server_tokens: int = 128
    open_requests: int = 40
    open_start: float = 0.5     # requests a second
    prefix: int = 2048
    prefix_tail: int = 32
    long_prompt: int = 32000
    beside_tokens: int = 700
    overhead_sequences: int = 256
    overhead_steps: int = 400
    gap_tokens: int = 256


QUICK = Sizes(decode=100, prefill=40, stream_tokens=1000, server_requests=10, server_prompt=(8, 40), server_tokens=8, open_requests=6,
              open_start=20.0, prefix=96, prefix_tail=8, long_prompt=300, beside_tokens=1000, overhead_sequences=32,
              overhead_steps=20, gap_tokens=16)


@dataclasses.dataclass
class Setting:
    """What all suites share. files: the path of a model's GGUF file, by name."""
    bin: str
    threads: int
    files: collections.abc.Callable[[str], str]
    peer: Peer | None
    sizes: Sizes
    machine: dict            # bytes_per_s, operations_per_s
    ttft_limit: float        # of the open loop, seconds
    tpot_limit: float
    costs: dict = dataclasses.field(default_factory=dict)
    executed: dict = dataclasses.field(default_factory=dict)
    salt: int = 0            # grows with each prompt that is made: none repeats, so no cache of prefixes answers

    def prompts(self, model, count, shortest, longest=None):
        self.salt += 1
        return make_prompts(count, shortest, longest or shortest, self.cost(model).vocabulary, self.salt)

    def cost(self, model):
        if model not in self.costs:
            self.costs[model] = ModelCost(self.files(model))
        return self.costs[model]

    @contextlib.contextmanager
    def ours(self, path, context, sequences=16, tp=1, worker_flags=()):
        """(cluster, client) of a model once it has answered."""
        flags = ["--context", str(context), "--max-sequences", str(sequences)]
        with Cluster(path, tp=tp, threads=max(1, self.threads // tp), flags=flags, worker_flags=worker_flags,
                     binaries=self.bin) as cluster:
            cluster.start()
            yield cluster, GrpcServer(cluster.address, "m")

    def program(self, name, *flags):
        """The JSON lines that one of our bench programs prints."""
        try:
            out = subprocess.run([os.path.join(self.bin, name), *flags], capture_output=True, text=True, check=True).stdout
        except subprocess.CalledProcessError as error:
            raise Failure(f"{name} ended with status {error.returncode}: {error.stderr.strip()}") from None
        except OSError as error:
            raise Failure(f"{name}: {error}; build it first") from None
        return [json.loads(line) for line in out.splitlines()]

    # ---- Bounds

    def decode_bound(self, model, streams, context):
        """Tokens a second of `streams` sequences that hold `context` tokens each."""
        moved, operations = self.cost(model).decode_step(streams, context)
        return streams / max(moved / self.machine["bytes_per_s"], operations / self.machine["operations_per_s"])

    def prefill_bound(self, model):
        return self.sizes.prefill * self.machine["operations_per_s"] / self.executed_operations(model)

    def executed_operations(self, model):
        """Of a prompt of sizes.prefill tokens, by the trace of a worker: what the forward pass leaves out is not counted."""
        if model not in self.executed:
            with tempfile.TemporaryDirectory() as folder:
                trace = os.path.join(folder, "trace.json")
                with self.ours(self.files(model), self.sizes.prefill + 16, worker_flags=["--trace", trace]) as (_, server):
                    check([server.ask(self.prompts(model, 1, self.sizes.prefill)[0], 1)])
                self.executed[model] = traced_operations(trace)
        return self.executed[model]


# Whose operations count, in a trace as in model_cost: products with matrices, and attention.
COUNTED = ("MatMul", "GatedMatMul", "Experts", "Attend")


def spans(trace):
    """The operations of a worker's trace."""
    with open(trace, encoding="utf-8") as f:
        for line in f:
            if line.startswith("{"):
                yield json.loads(line.rstrip().rstrip(","))


def traced_operations(trace):
    total = sum(span["args"]["flops"] for span in spans(trace) if span["name"] in COUNTED)
    if total == 0:
        raise Failure("the worker's trace holds no operations")
    return total


def check(answers):
    wrong = failures(answers)
    if wrong:
        raise Failure(wrong)
    return answers


def attempt(measure):
    """A row's Measure, or the Failure that kept it from one: the rows beside it go on."""
    try:
        return Measure(measure())
    except Failure as failure:
        return failure


class Suite:
    rows = ()
    has_peer = True  # llama.cpp can do the same

    def __init__(self, setting):
        self.setting = setting
        self.sizes = setting.sizes

    def ours(self, wanted):
        raise NotImplementedError

    def peer(self, wanted):
        return {}

    def bound(self, row):
        return None


class ModelSuite(Suite):
    """Decoding and prefill of one model, without a server on the peer's side; ours answers through its network API."""

    def __init__(self, setting, model, streams=()):
        super().__init__(setting)
        self.model = model
        self.streams = {Row(f"{model} {n} streams", "tokens/s"): n for n in streams}
        self.decode_row = Row(f"{model} decode 1 stream", "tokens/s")
        self.prefill_row = Row(f"{model} prefill 512", "tokens/s")
        self.rows = [self.decode_row, self.prefill_row, *self.streams]

    def ours(self, wanted):
        s = self.sizes
        measures = {self.decode_row: lambda: self._decode(server),
                    self.prefill_row: lambda: s.prefill / self._ask(server, s.prefill, 1).ttft}
        measures |= {row: lambda n=n: self._together(server, n) for row, n in self.streams.items()}
        context = max(s.prefill, s.stream_prompt + s.stream_tokens, s.decode) + 16
        with self.setting.ours(self.setting.files(self.model), context) as (_, server):
            self._ask(server, s.stream_prompt, 2)  # first use
            return {row: attempt(measures[row]) for row in wanted}

    def _ask(self, server, prompt, tokens):
        return check([server.ask(self.setting.prompts(self.model, 1, prompt)[0], tokens)])[0]

    def _decode(self, server):
        tpot = self._ask(server, 1, self.sizes.decode + 1).tpot
        if tpot is None:
            raise Failure("the whole answer came at once: no rate to be had of it")
        return 1 / tpot

    def _together(self, server, streams):
        for tries in itertools.count(1):
            prompts = self.setting.prompts(self.model, streams, self.sizes.stream_prompt)
            answers = check(closed_loop(server, prompts, self.sizes.stream_tokens, streams))
            try:
                return together_rate(answers)
            except Failure:  # a client came too late: a busy machine and a fast model
                if tries == 5:
                    raise

    def peer(self, wanted):
        s, path, peer = self.sizes, self.setting.files(self.model), self.setting.peer
        measures = {self.decode_row: lambda: peer.bench(path, 0, s.decode)["decode"],
                    self.prefill_row: lambda: peer.bench(path, s.prefill, 0)["prefill"]}
        measures |= {row: lambda n=n: peer.decode_streams(path, n, s.stream_prompt, s.stream_tokens) for row, n in self.streams.items()}
        return {row: attempt(measures[row]) for row in wanted}

    def bound(self, row):
        s = self.sizes
        if row == self.prefill_row:
            return self.setting.prefill_bound(self.model)
        if row == self.decode_row:
            return self.setting.decode_bound(self.model, 1, s.decode // 2)
        return self.setting.decode_bound(self.model, self.streams[row], s.stream_prompt + s.stream_tokens // 2)


class Served(Suite):
    """Both sides behind their network APIs, asked by our load generator."""
    model = ""
    slots = 8

    @property
    def context(self):
        return self.sizes.server_prompt[1] + self.sizes.server_tokens + 32

    def ours(self, wanted):
        with self.setting.ours(self.setting.files(self.model), self.context, self.slots) as (_, server):
            return {self.rows[0]: self.load(server, "ours")}

    def peer(self, wanted):
        with self.setting.peer.server(self.setting.files(self.model), self.slots, self.context) as address:
            return {self.rows[0]: self.load(HttpServer(address), "peer")}

    def load(self, server, side):
        raise NotImplementedError


class ClosedLoop(Served):
    """Eight clients, each with one request at a time; tokens in and out a second."""
    model = "e2b"
    rows = (Row("server 8 clients", "tokens/s"),)

    def load(self, server, side):
        s = self.sizes
        check([server.ask(self.setting.prompts(self.model, 1, 8)[0], 2)])
        # The same in every round and on both sides; no process outlives a round.
        prompts = make_prompts(s.server_requests, *s.server_prompt, self.setting.cost(self.model).vocabulary, seed=1)
        answers = check(closed_loop(server, prompts, s.server_tokens, self.slots))
        return Measure(summary(answers)["tokens_per_s"],
                       samples={"tpot": [a.tpot for a in answers if a.tpot is not None], "ttft": [a.ttft for a in answers]})

    def bound(self, row):
        """Prompts at the bound of arithmetic, then answers at that of eight streams."""
        s = self.sizes
        into, out = sum(s.server_prompt) / 2, s.server_tokens
        left_in = self.setting.executed_operations(self.model) / self.setting.cost(self.model).prefill_operations(s.prefill)
        operations = self.setting.cost(self.model).prefill_operations(int(into)) * left_in
        seconds = (operations / self.setting.machine["operations_per_s"]
                   + out / self.setting.decode_bound(self.model, self.slots, int(into) + out // 2))
        return (into + out) / seconds


class OpenLoop(Served):
    """Requests at random times: the highest rate at which the 99th percentiles stay within the limits."""
    model = "270m"
    slots = 16
    rows = (Row("server open loop", "requests/s"),)
    STEP = 1.25   # between rates that are tried, halved once at the end
    LEAST = 1e-2  # requests a second; below: nothing is held
    MOST = 1e3

    def __init__(self, setting):
        super().__init__(setting)
        self.start = {}  # by side: where the next round begins

    def load(self, server, side):
        check([server.ask(self.setting.prompts(self.model, 1, 8)[0], 2)])
        trials = itertools.count(1)
        rate = search(lambda rate: self.holds(server, rate, next(trials)), self.start.get(side, self.sizes.open_start), self.STEP,
                      self.LEAST, self.MOST)
        self.start[side] = max(rate, self.LEAST)
        return Measure(rate)

    def holds(self, server, rate, trial):
        s = self.sizes
        # No prompt comes twice while a server is up.
        prompts = make_prompts(s.open_requests, *s.server_prompt, self.setting.cost(self.model).vocabulary, seed=trial)
        answers = open_loop(server, prompts, s.server_tokens, rate, seed=1, enough=self.fails)
        if any(a.status in OVERLOADED for a in answers):
            return False
        check(answers)
        return not self.fails(answers)

    def fails(self, answers):
        """Whether these answers, of all that a trial may have, put a 99th percentile past its limit."""
        most = self.sizes.open_requests - math.ceil(0.99 * self.sizes.open_requests)
        late = sum(a.ttft > self.setting.ttft_limit for a in answers)
        slow = sum(a.tpot is not None and a.tpot > self.setting.tpot_limit for a in answers)
        return max(late, slow) > most or any(a.status in OVERLOADED for a in answers)


def search(holds, start, step, least, most):
    """The highest rate found to hold, going up or down from `start` by factors of `step`; 0: none from `least` on holds."""
    rate = start
    if holds(rate):
        while rate * step <= most and holds(rate * step):
            rate *= step
    else:
        rate /= step
        while not holds(rate):
            rate /= step
            if rate < least:
                return 0.0
    between = rate * step ** 0.5
    return between if between <= most and holds(between) else rate


class Prefix(Suite):
    """A second request with the prefix of the first: how much of the first token's wait is left."""
    model = "e2b"
    has_peer = False
    rows = (Row("prefix 2048 ttft", "share of cold", digits=3),)

    def ours(self, wanted):
        s = self.sizes
        prefix, = self.setting.prompts(self.model, 1, s.prefix)
        tails = [tail[1:] for tail in self.setting.prompts(self.model, 2, s.prefix_tail + 1)]
        with self.setting.ours(self.setting.files(self.model), s.prefix + s.prefix_tail + 32) as (_, server):
            check([server.ask(self.setting.prompts(self.model, 1, s.stream_prompt)[0], 2)])
            cold, warm = (check([server.ask(prefix + tail, 1)])[0] for tail in tails)
        return {self.rows[0]: Measure(warm.ttft / cold.ttft,
                                      notes={"cold ttft, s": cold.ttft, "cached tokens": warm.cached_tokens})}


class LongPrompt(Suite):
    """The longest wait for a token of an answer while a long prompt is read beside it."""
    model = "270m"
    has_peer = False
    rows = (Row("gap beside 32K prompt", "ms", digits=0),)

    def ours(self, wanted):
        s = self.sizes
        (short,), (prompt,) = (self.setting.prompts(self.model, 1, tokens) for tokens in (s.stream_prompt, s.long_prompt))
        with self.setting.ours(self.setting.files(self.model), s.long_prompt + s.beside_tokens, sequences=2) as (_, server):
            beside = Answer(time.perf_counter())
            thread = threading.Thread(target=server.ask, args=(short, s.beside_tokens), kwargs={"answer": beside})
            thread.start()
            while not beside.arrivals and thread.is_alive():
                time.sleep(0.001)
            read = server.ask(prompt, 1)
            thread.join()
        check([beside, read])
        times = [at for at, _ in beside.arrivals]
        if times[-1] <= read.ended:
            raise Failure(f"the answer ended {read.ended - times[-1]:.1f} s before the prompt was read")
        return {self.rows[0]: Measure(1e3 * max(b - a for a, b in zip(times, times[1:])), notes={"prompt read in, s": read.ttft})}


class Sampling(Suite):
    """What choosing tokens takes of the time of all operations, where all streams sample."""
    model = "e2b"
    has_peer = False
    rows = (Row("sampling 16 streams", "share of a step", digits=3),)
    STREAMS = 16
    OPERATIONS = ("Candidates", "Choose")

    def ours(self, wanted):
        s = self.sizes
        with tempfile.TemporaryDirectory() as folder:
            trace = os.path.join(folder, "trace.json")
            with self.setting.ours(self.setting.files(self.model), s.stream_prompt + s.stream_tokens + 16,
                                   worker_flags=["--trace", trace]) as (cluster, _):
                server = GrpcServer(cluster.address, "m", sampling={"temperature": 1.0, "top_k": 64, "top_p": 0.95})
                check(closed_loop(server, self.setting.prompts(self.model, self.STREAMS, s.stream_prompt), s.stream_tokens, self.STREAMS))
            took = collections.Counter()
            for span in spans(trace):
                took[span["name"]] += span["dur"]
        took.pop("Pack", None)  # of loading
        return {self.rows[0]: Measure(sum(took[name] for name in self.OPERATIONS) / took.total())}


class StepOverhead(Suite):
    """A step of a real engine over a backend that computes nothing."""
    has_peer = False
    rows = (Row("step overhead 256 sequences", "µs", digits=1),)

    def ours(self, wanted):
        line, = self.setting.program("step_bench", "--sequences", str(self.sizes.overhead_sequences), "--steps",
                                     str(self.sizes.overhead_steps))
        return {self.rows[0]: Measure(line["value"])}


class FollowerGap(Suite):
    """What a follower's rank waits between two steps: a request's time less the time its steps took there."""
    has_peer = False
    rows = (Row("tp2 follower idle gap", "µs", digits=1),)

    def ours(self, wanted):
        with self.setting.ours(os.path.join(ROOT, "models/tiny-dense"), 1024, tp=2) as (cluster, server):
            prompts = make_prompts(2, 16, 16, 4096, seed=1)
            check([server.ask(prompts[0], 8)])
            follower, = (w for w in cluster.workers if w.metric("alphecca_worker_generated_tokens_total") == 0)
            before = follower.metric("alphecca_worker_step_seconds_sum"), follower.metric("alphecca_worker_steps_total")
            answer, = check([server.ask(prompts[1], self.sizes.gap_tokens)])
            steps = follower.metric("alphecca_worker_steps_total") - before[1]
            in_steps = follower.metric("alphecca_worker_step_seconds_sum") - before[0]
        idle = answer.arrivals[-1][0] - answer.due - in_steps
        return {self.rows[0]: Measure(1e6 * idle / steps, notes={"µs in a step": 1e6 * in_steps / steps})}


def suites(setting):
    """All there are, in the order in which their rows are shown."""
    return [ModelSuite(setting, "e2b", streams=(8, 16)), ModelSuite(setting, "26b-a4b", streams=(8,)), ModelSuite(setting, "270m"),
            ClosedLoop(setting), OpenLoop(setting), Prefix(setting), LongPrompt(setting), Sampling(setting), StepOverhead(setting),
            FollowerGap(setting)]
