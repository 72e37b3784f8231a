"""What the clients of a soak do, what must become of it, and what the server must have counted of it."""
import collections
import contextlib
import dataclasses
import math
import random
import re
import socket
import struct
import threading
import time

import grpc

from load_generator import GrpcServer

TIMEOUT = 600  # seconds that a request without a deadline of its own may take: it must end long before
TENANTS = ("default", "light", "heavy", "late")
CHUNK = 1 << 16
MOST_SAMPLES = 16
GENERATE = "/alphecca.v1.Inference/Generate"
# Enough at once for what a server refuses with RESOURCE_EXHAUSTED. Numbers: there are, and may be.
REFUSALS = (re.compile(r"(\d+) sequences are open, at most (\d+) may be"), re.compile(r"the queue is full: (\d+)"))


@dataclasses.dataclass
class Ask:
    """A generation request, and what is known of its answer beforehand."""
    kind: str
    request: object
    prompt_tokens: int
    samples: int = 1
    most_tokens: int = 1        # of a sample
    exact: bool = True          # every sample has that many
    timeout: float = TIMEOUT
    canary: int = -1            # which of the requests that are asked again and again


@dataclasses.dataclass
class Outcome:
    ask: Ask
    status: str = ""
    message: str = ""
    acted: bool = False         # the client broke it off, or its deadline did
    events: int = 0
    ids: list = dataclasses.field(default_factory=list)  # by sample
    finished: int = 0           # samples
    usage: object = None
    problem: str = ""

    @property
    def tokens(self):
        return sum(map(len, self.ids))


class Wire:
    """A connection of its own to the server, through a socket that can be cut, as a client that dies cuts it."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.server = (host, int(port))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.ends = []
        self.threads = [threading.Thread(target=self._serve)]
        self.threads[0].start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.listener.getsockname()[1]}",
                                             options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)])

    def _serve(self):
        with contextlib.suppress(OSError):
            near, _ = self.listener.accept()
            self.listener.close()  # one connection only: what is cut stays cut
            far = socket.create_connection(self.server)
            self.ends += [near, far]
            back = threading.Thread(target=self._pump, args=(far, near))
            back.start()
            self._pump(near, far)
            back.join()

    @staticmethod
    def _pump(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self):
        """The server's side gets a reset, no end of the call."""
        for end in reversed(self.ends):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.cut()
        self.channel.close()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join()
        for end in self.ends:
            end.close()


class Mix:
    """Makes requests at random: all of a soak's kinds. One a thread; equal seeds make equal requests."""

    def __init__(self, server, context, heads, texts, seed):
        self.server, self.pb, self.context = server, server.pb, context
        self.heads, self.texts = heads, texts
        self.rng = random.Random(seed)

    def ids(self, tokens):
        return [self.rng.randrange(300, self.server.size - 300) for _ in range(tokens)]

    def length(self, most):
        """Small ones often, large ones sometimes."""
        return max(1, round(math.exp(self.rng.uniform(0, math.log(most)))))

    def options(self, tokens, samples=1, **more):
        temperature = self.rng.choice((0.0, 0.7, 1.0))
        return self.pb.GenerationOptions(
            max_tokens=tokens, n=samples, ignore_eos=True, tenant=self.rng.choice(TENANTS), priority=self.rng.choice((0, 0, 0, -5, 7)),
            sampling=self.server.types.Sampling(temperature=temperature, seed=self.rng.getrandbits(63)), **more)

    def well_formed(self, kind, most_samples=4, most_tokens=None, **more):
        """Random ids, or a head that others begin with too and random ids, or a text; n samples."""
        budget = most_tokens or self.context
        samples = self.rng.choice((1, 1, 1, 1, 1, 2, most_samples)) if most_samples > 1 else 1
        tokens = self.length(budget // 3)
        form = self.rng.random()
        if form < 0.15:
            text, count = self.rng.choice(self.texts)
            request = self.pb.GenerateRequest(text=text, options=self.options(tokens, samples, **more))
        else:
            head = self.rng.choice(self.heads) if form < 0.55 else [2]
            ids = (head + self.ids(self.length(budget // 2)))[:budget - tokens]
            request, count = self.pb.GenerateRequest(ids=self.pb.TokenIds(ids=ids), options=self.options(tokens, samples, **more)), len(ids)
        return Ask(kind, request, count, samples, tokens)

    def plain(self):
        extra = self.rng.random()
        if extra < 0.15:
            return dataclasses.replace(self.well_formed("stop", stop=["e", "\n", "the"]), exact=False)
        if extra < 0.3:
            return self.well_formed("logprobs", logprobs=self.rng.randrange(5), prompt_logprobs=self.rng.randrange(3))
        return self.well_formed("plain")

    def canary(self, index):
        """The same each time it is made."""
        fixed = Mix(self.server, self.context, self.heads, self.texts, f"canary {index}")
        return dataclasses.replace(fixed.well_formed("canary", most_tokens=self.context // 2), canary=index)

    def long(self, kind):
        """One whose answer takes a while."""
        ask = self.well_formed(kind)
        left = self.context - ask.prompt_tokens
        ask.request.options.max_tokens = ask.most_tokens = max(1, left * 3 // 4)
        return ask

    def deadline(self):
        return dataclasses.replace(self.long("deadline"), timeout=math.exp(self.rng.uniform(math.log(0.02), math.log(8))))

    def bad(self):
        """(what is wrong, the request's bytes, the code it must end with)"""
        pb, sampling = self.pb, self.server.types.Sampling
        ids = pb.TokenIds(ids=[2, 500])

        def bytes_of(**more):
            return pb.GenerateRequest(ids=ids, options=pb.GenerationOptions(**({"max_tokens": 4} | more))).SerializeToString()

        return self.rng.choice((
            ("no prompt", pb.GenerateRequest().SerializeToString(), "INVALID_ARGUMENT"),
            ("no such token", pb.GenerateRequest(ids=pb.TokenIds(ids=[2, self.server.size])).SerializeToString(), "INVALID_ARGUMENT"),
            ("prompt over the context", pb.GenerateRequest(ids=pb.TokenIds(ids=self.ids(self.context))).SerializeToString(),
             "INVALID_ARGUMENT"),
            ("answer over the context", bytes_of(max_tokens=self.context), "INVALID_ARGUMENT"),
            ("temperature", bytes_of(sampling=sampling(temperature=-1.0)), "INVALID_ARGUMENT"),
            ("samples", bytes_of(n=17), "INVALID_ARGUMENT"),
            ("tenant", bytes_of(tenant="two words"), "INVALID_ARGUMENT"),
            ("priority", bytes_of(priority=101), "INVALID_ARGUMENT"),
            ("stop", bytes_of(stop=[""]), "INVALID_ARGUMENT"),
            ("logprobs", bytes_of(logprobs=21), "INVALID_ARGUMENT"),
            ("model", pb.GenerateRequest(model="nobody", ids=ids).SerializeToString(), "NOT_FOUND"),
            ("bytes", self.rng.randbytes(self.length(4096)) + b"\xff", "INVALID_ARGUMENT"),
        ))


class Client:
    """Runs what a Mix makes, one request at a time. `outcomes` and `others`, (method, status) of what is not a generation, are
    the thread's own."""

    def __init__(self, server, mix, canaries, limits):
        self.server, self.mix, self.canaries, self.limits = server, mix, canaries, limits
        self.rng = mix.rng
        self.outcomes, self.others, self.problems = [], collections.Counter(), []
        self.raw = server.channel.unary_stream(GENERATE, request_serializer=bytes, response_deserializer=bytes)

    def storm(self):
        """One request of any kind."""
        do = self.rng.choices((self.ask_plain, self.ask_canary, self.cancel, self.cut, self.deadline, self.slow, self.bad, self.unary),
                              (40, 10, 10, 5, 10, 8, 12, 5))[0]
        do()

    def calm(self, samples):
        """One request that nobody breaks off and that meets no lack of room."""
        most = self.mix.context // 4
        self.generate(self.mix.well_formed("calm", samples, most))

    def squeeze(self):
        """One of many that begin together with little and grow to more than KV holds of all."""
        mix = self.mix
        ids, tokens = [2] + mix.ids(mix.length(mix.context // 16)), mix.context // 2
        request = mix.pb.GenerateRequest(ids=mix.pb.TokenIds(ids=ids), options=mix.options(tokens))
        self.generate(Ask("squeeze", request, len(ids), most_tokens=tokens))

    def ask_plain(self):
        self.generate(self.mix.plain())

    def ask_canary(self, index=None):
        self.generate(self.mix.canary(self.rng.randrange(len(self.canaries)) if index is None else index))

    def cancel(self):
        self.generate(self.mix.long("cancel"), break_off=lambda call: call.cancel())

    def cut(self):
        wire = Wire(self.server.address)
        try:
            stub = self.server.make_stub(wire.channel)
            self.generate(self.mix.long("cut"), stub=stub, break_off=lambda _: wire.cut(), least_events=1)
        finally:
            wire.close()

    def deadline(self):
        self.generate(self.mix.deadline())

    def slow(self):
        self.generate(self.mix.well_formed("slow"), pause=self.rng.choice((0.003, 0.02, 0.1)))

    def generate(self, ask, stub=None, break_off=None, least_events=0, pause=0.0):
        outcome = Outcome(ask, ids=[[] for _ in range(ask.samples)])
        after = self.rng.randint(least_events, 12) if break_off else math.inf
        call = (stub or self.server.stub).Generate(ask.request, timeout=ask.timeout)
        try:
            if after == 0:
                time.sleep(self.rng.uniform(0, 0.05))
                outcome.acted = True
                break_off(call)
            for event in call:
                outcome.events += 1
                self.take(outcome, event)
                if outcome.events >= after and not outcome.acted:
                    outcome.acted = True
                    break_off(call)
                elif pause:
                    time.sleep(pause)
            outcome.status = "OK"
        except grpc.RpcError as error:
            outcome.status, outcome.message = error.code().name, error.details()
        self.judge(outcome)
        self.outcomes.append(outcome)

    @staticmethod
    def take(outcome, event):
        outcome.ids[event.sample].extend(event.ids)
        if len(event.logprobs) != (len(event.ids) if outcome.ask.request.options.HasField("logprobs") else 0):
            outcome.problem = f"{len(event.logprobs)} log-probabilities with {len(event.ids)} tokens"
        if outcome.usage is not None:
            outcome.problem = "an event after the one with the usage"
        if event.finish_reason:
            outcome.finished += 1
        if event.HasField("usage"):
            outcome.usage = event.usage

    def judge(self, outcome):
        """Sets the outcome's problem, if its status or answer is not what it must be."""
        kind, status = outcome.ask.kind, outcome.status
        if status == "DEADLINE_EXCEEDED" and kind == "deadline":
            outcome.acted = True
        elif status == "RESOURCE_EXHAUSTED":
            outcome.acted = False  # refused before it was broken off
            outcome.problem = outcome.problem or self.refusal_problem(outcome.message, outcome.ask.samples)
        elif status == "OK":
            # Broken off as late as this: all of the answer was there already.
            outcome.acted = False
            outcome.problem = outcome.problem or self.answer_problem(outcome)
        elif not outcome.acted or status not in {"cancel": ["CANCELLED"], "cut": ["UNAVAILABLE", "CANCELLED"]}[kind]:
            outcome.problem = f"ended with {status}"
        if outcome.problem:
            self.problems.append(f"{kind}: {outcome.problem} (status {status}: {outcome.message})")
        if status == "RESOURCE_EXHAUSTED":
            time.sleep(0.1)  # as a client that is told to retry later

    def refusal_problem(self, message, samples):
        open_, queue = (pattern.search(message) for pattern in REFUSALS)
        if open_ and int(open_[1]) + samples > int(open_[2]) == self.limits.open >= int(open_[1]) / 2:
            return ""
        if queue and int(queue[1]) == self.limits.waiting:
            return ""
        return "refused where there was room"

    def answer_problem(self, outcome):
        ask, usage, lengths = outcome.ask, outcome.usage, list(map(len, outcome.ids))
        if usage is None or outcome.finished != ask.samples:
            return f"an answer of {ask.samples} samples ended after {outcome.finished}, {'with' if usage else 'without'} usage"
        if usage.prompt_tokens != ask.prompt_tokens or usage.completion_tokens != sum(lengths) or usage.cached_tokens >= ask.prompt_tokens:
            return f"usage {usage} of {ask.prompt_tokens} prompt tokens and answers of {lengths}".replace("\n", " ")
        if max(lengths) > ask.most_tokens or (ask.exact and min(lengths) < ask.most_tokens):
            return f"answers of {lengths} tokens where {ask.most_tokens} were asked for"
        if ask.canary >= 0 and self.canaries[ask.canary] not in (None, outcome.ids):
            return f"request {ask.canary} has another answer than the first time"
        if ask.canary >= 0:
            self.canaries[ask.canary] = outcome.ids
        return ""

    def bad(self):
        what, data, want = self.mix.bad()
        try:
            list(self.raw(data, timeout=TIMEOUT))
            status = "OK"
        except grpc.RpcError as error:
            status = error.code().name
            if status == "RESOURCE_EXHAUSTED" and not self.refusal_problem(error.details(), MOST_SAMPLES):
                want = status  # room is looked for first
        self.note("Generate", status, want, what)

    def unary(self):
        text, count = self.rng.choice(self.mix.texts)
        pb, stub = self.server.pb, self.server.stub
        ids = stub.Tokenize(pb.TokenizeRequest(text=text), timeout=TIMEOUT).ids
        back = stub.Detokenize(pb.DetokenizeRequest(ids=ids), timeout=TIMEOUT).text
        stub.ListModels(pb.ListModelsRequest(), timeout=TIMEOUT)
        for method in ("Tokenize", "Detokenize", "ListModels"):
            self.note(method, "OK", "OK", "")
        if back != text or len(ids) + 1 != count:
            self.problems.append(f"{text!r} became {len(ids)} tokens and then {back!r}")
        try:
            stub.GetModel(pb.GetModelRequest(name="nobody"), timeout=TIMEOUT)
            self.note("GetModel", "OK", "NOT_FOUND", "nobody")
        except grpc.RpcError as error:
            self.note("GetModel", error.code().name, "NOT_FOUND", "nobody")

    def note(self, method, status, want, what):
        self.others[method, status] += 1
        if status != want:
            self.problems.append(f"{method}: {what}: ended with {status}, must be {want}")


class Server(GrpcServer):
    """The API, and what clients need to know of the model."""

    def __init__(self, address):
        super().__init__(address)
        self.address = address
        self.size = self.vocabulary()

    def make_stub(self, channel):
        return type(self.stub)(channel)

    def counted_text(self, text):
        """(text, tokens of a prompt of it)"""
        return text, 1 + len(self.stub.Tokenize(self.pb.TokenizeRequest(text=text), timeout=TIMEOUT).ids)
