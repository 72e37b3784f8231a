#!/usr/bin/env python3
"""Sends requests as many clients would, over the network API, and says what became of each.

  bench/load_generator.py --connect HOST:PORT --clients 8 --requests 16         each client sends its next one when one has ended
  bench/load_generator.py --connect HOST:PORT --rate 0.5 --requests 32          requests come at random times, whatever has ended
  bench/load_generator.py --http HOST:PORT --vocabulary 262144 ...              the same to llama.cpp's llama-server

Prompts are random token ids, of --prompt SHORTEST:LONGEST tokens; answers have --out tokens, greedy, past end tokens. One JSON line:
requests by status, tokens in and out, rates, and the 50th and 99th percentile of the time to the first token (ttft; with --rate from
when the request was due) and of the time per output token after it (tpot), by request. Exit status 1 if a request failed.
"""
import argparse
import collections
import dataclasses
import http.client
import json
import math
import os
import queue
import random
import sys
import tempfile
import threading
import time

from local_cluster import ROOT, Failure

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

TIMEOUT = 900  # seconds a request may take


@dataclasses.dataclass
class Answer:
    due: float                  # when it was to be sent; seconds of time.perf_counter, like all times here
    status: str = ""            # "OK", a gRPC code, "HTTP 503", or "INCOMPLETE": the stream ended before the answer did
    message: str = ""
    prompt_tokens: int = 0      # as the server counted
    output_tokens: int = 0
    cached_tokens: int = 0
    ids: list = dataclasses.field(default_factory=list)
    arrivals: list = dataclasses.field(default_factory=list)  # (time, tokens) of each piece of the answer
    ended: float = 0.0

    @property
    def ttft(self):
        return (self.arrivals[0][0] if self.arrivals else self.ended) - self.due

    @property
    def tpot(self):
        """Seconds a token after the first piece; None where there is no token after it. Tokens are the server's count: llama-server
        sends no ids with what is half a character."""
        if len(self.arrivals) < 2:
            return None
        return (self.arrivals[-1][0] - self.arrivals[0][0]) / (self.output_tokens - self.arrivals[0][1])


def stubs():
    """(messages, services, types) of the public API's generated client."""
    try:
        from alphecca.v1 import inference_pb2, inference_pb2_grpc, types_pb2
    except ImportError:
        from grpc_tools import protoc
        with tempfile.TemporaryDirectory() as out:
            protos = [f"alphecca/v1/{n}.proto" for n in ("types", "inference")]
            if protoc.main(["protoc", f"-I{ROOT}/proto", f"--python_out={out}", f"--grpc_python_out={out}", *protos]) != 0:
                raise RuntimeError("protoc failed") from None
            sys.path.insert(0, out)
            from alphecca.v1 import inference_pb2, inference_pb2_grpc, types_pb2
            sys.path.remove(out)
    return inference_pb2, inference_pb2_grpc, types_pb2


class GrpcServer:
    """Ours. Thread-safe."""

    def __init__(self, address, model="", timeout=TIMEOUT, sampling=None):
        """sampling: fields of Sampling; without: greedy."""
        import grpc
        self.timeout = timeout
        self.sampling = sampling or {"temperature": 0.0}
        self.error = grpc.RpcError
        self.pb, pb_grpc, self.types = stubs()
        self.model = model
        self.channel = grpc.insecure_channel(address)
        self.stub = pb_grpc.InferenceStub(self.channel)

    def vocabulary(self):
        return self.stub.GetModel(self.pb.GetModelRequest(name=self.model), timeout=30).vocabulary

    def ask(self, prompt, tokens, due=None, answer=None):
        """answer: one to fill, which others may watch."""
        answer = answer or Answer(due or time.perf_counter())
        request = self.pb.GenerateRequest(
            model=self.model, ids=self.pb.TokenIds(ids=prompt),
            options=self.pb.GenerationOptions(max_tokens=tokens, ignore_eos=True, sampling=self.types.Sampling(**self.sampling)))
        try:
            for event in self.stub.Generate(request, timeout=self.timeout):
                if event.ids:
                    answer.ids += event.ids
                    answer.arrivals.append((time.perf_counter(), len(event.ids)))
                if event.HasField("usage"):
                    answer.prompt_tokens, answer.output_tokens = event.usage.prompt_tokens, event.usage.completion_tokens
                    answer.cached_tokens = event.usage.cached_tokens
                    answer.status = "OK"
        except self.error as error:
            answer.status, answer.message = error.code().name, error.details()
        answer.ended = time.perf_counter()
        answer.status = answer.status or "INCOMPLETE"
        return answer


class HttpServer:
    """llama-server's /completion, streamed as server-sent events. Thread-safe."""

    def __init__(self, address):
        self.host, port = address.rsplit(":", 1)
        self.port = int(port)

    def ask(self, prompt, tokens, due=None):
        answer = Answer(due or time.perf_counter())
        connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT)
        body = {"prompt": prompt, "n_predict": tokens, "ignore_eos": True, "stream": True, "temperature": 0.0, "cache_prompt": False,
                "return_tokens": True}
        try:
            connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                answer.status, answer.message = f"HTTP {response.status}", response.read(500).decode("utf-8", "replace")
            else:
                self._read(response, answer)
        except (OSError, http.client.HTTPException, ValueError) as error:
            answer.status, answer.message = "INCOMPLETE", repr(error)
        finally:
            connection.close()
        answer.ended = time.perf_counter()
        answer.status = answer.status or "INCOMPLETE"
        return answer

    def _read(self, response, answer):
        for line in response:
            if not line.startswith(b"data: "):
                continue
            event = json.loads(line[len(b"data: "):])
            if "error" in event:
                answer.status, answer.message = "ERROR", json.dumps(event["error"])[:500]
                return
            if event.get("tokens"):
                answer.ids += event["tokens"]
                answer.arrivals.append((time.perf_counter(), len(event["tokens"])))
            if event.get("stop"):
                answer.prompt_tokens = event.get("tokens_evaluated", 0)
                answer.output_tokens = event.get("tokens_predicted", 0)
                answer.status = "OK"
                return


def make_prompts(count, shortest, longest, vocabulary, seed, first=2):
    """Random ids, none of the control tokens at the ends of the vocabulary; the first one is BOS."""
    rng = random.Random(seed)
    low, high = vocabulary // 8, vocabulary * 3 // 4
    return [[first] + [rng.randrange(low, high) for _ in range(rng.randint(shortest, longest) - 1)] for _ in range(count)]


def closed_loop(server, prompts, tokens, clients):
    """As many at a time as there are clients; the answers in the order in which they ended."""
    waiting = queue.SimpleQueue()
    for prompt in prompts:
        waiting.put(prompt)
    answers = []  # list.append is atomic

    def client():
        while True:
            try:
                prompt = waiting.get_nowait()
            except queue.Empty:
                return
            answers.append(server.ask(prompt, tokens))

    _run([threading.Thread(target=client) for _ in range(clients)])
    return _all(answers, prompts)


def open_loop(server, prompts, tokens, rate, seed, enough=lambda answers: False):
    """Requests come as a Poisson process of `rate` a second, however long answers take. Once the answers so far are `enough`, those
    that are not due yet are not sent."""
    rng = random.Random(seed)
    answers = []
    ended = threading.Event()
    due = time.perf_counter() + 0.05

    def client(prompt, due):
        if not ended.wait(max(0.0, due - time.perf_counter())):
            answers.append(server.ask(prompt, tokens, due))
            if enough(list(answers)):
                ended.set()

    threads = []
    for prompt in prompts:
        threads.append(threading.Thread(target=client, args=(prompt, due)))
        due += rng.expovariate(rate)
    _run(threads)
    return answers if ended.is_set() else _all(answers, prompts)


def _all(answers, prompts):
    if len(answers) != len(prompts):  # a client ended by an error of its own, told on stderr
        raise Failure(f"{len(prompts)} requests had {len(answers)} answers")
    return answers


def _run(threads):
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def percentile(values, share):
    """The least value that at least this share of the values does not exceed; None of none."""
    values = sorted(values)
    return values[max(0, math.ceil(share * len(values)) - 1)] if values else None


def together_rate(answers):
    """Tokens a second while all answers were being written: from the last one's first token to the first one's end."""
    if any(not a.arrivals for a in answers):
        raise Failure("an answer had no tokens")
    begin = max(a.arrivals[0][0] for a in answers)
    end = min(a.arrivals[-1][0] for a in answers)
    tokens = sum(n for a in answers for at, n in a.arrivals if begin < at <= end)
    if end <= begin or tokens == 0:
        raise Failure("the answers were not written at the same time: ask for more tokens")
    return tokens / (end - begin)


def summary(answers):
    good = [a for a in answers if a.status == "OK"]
    wall = max(a.ended for a in answers) - min(a.due for a in answers)
    tokens_in, tokens_out = sum(a.prompt_tokens for a in good), sum(a.output_tokens for a in good)
    result = {"requests": len(answers), "status": dict(collections.Counter(a.status for a in answers)),
              "tokens_in": tokens_in, "tokens_out": tokens_out, "wall_s": wall, "tokens_per_s": (tokens_in + tokens_out) / wall,
              "requests_per_s": len(good) / wall}
    for name, values in (("ttft", [a.ttft for a in good]), ("tpot", [a.tpot for a in good if a.tpot is not None])):
        result |= {f"{name}_p50_s": percentile(values, 0.5), f"{name}_p99_s": percentile(values, 0.99)}
    return result


def failures(answers):
    """What went wrong, as text; empty: nothing."""
    bad = [a for a in answers if a.status != "OK"]
    return f"{len(bad)} of {len(answers)} requests failed, first: {bad[0].status}: {bad[0].message}" if bad else ""


def prompt_range(text):
    shortest, _, longest = text.partition(":")
    result = int(shortest), int(longest or shortest)
    if not 1 <= result[0] <= result[1]:
        raise argparse.ArgumentTypeError(f"{text}: want SHORTEST:LONGEST, from 1")
    return result


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = p.add_mutually_exclusive_group(required=True)
    where.add_argument("--connect", metavar="HOST:PORT", help="an Alphecca coordinator (gRPC)")
    where.add_argument("--http", metavar="HOST:PORT", help="a llama-server")
    p.add_argument("--model", default="", help="of several that the coordinator serves")
    p.add_argument("--vocabulary", type=int, help="ids of prompts lie below; default: ask the coordinator")
    p.add_argument("--requests", type=int, default=16)
    p.add_argument("--clients", type=int, default=8)
    p.add_argument("--rate", type=float, help="requests a second, in place of --clients")
    p.add_argument("--prompt", type=prompt_range, default=(64, 1024), metavar="SHORTEST:LONGEST")
    p.add_argument("--out", type=int, default=128)
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    server = GrpcServer(args.connect, args.model) if args.connect else HttpServer(args.http)
    if args.http and not args.vocabulary:
        p.error("--http needs --vocabulary")
    prompts = make_prompts(args.requests, *args.prompt, args.vocabulary or server.vocabulary(), args.seed)
    answers = (open_loop(server, prompts, args.out, args.rate, args.seed) if args.rate
               else closed_loop(server, prompts, args.out, args.clients))
    print(json.dumps(summary(answers)))
    wrong = failures(answers)
    if wrong:
        print(f"load_generator: {wrong}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
