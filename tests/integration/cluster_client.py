"""What tests of a cluster of two workers share: their arguments, which compile the stubs, requests, answers, and one cluster a class."""
import argparse
import sys
import unittest

import local_cluster  # before grpc, which it quiets

import grpc

parser = argparse.ArgumentParser()
for flag in ("bin", "model", "proto", "google", "stubs"):
    parser.add_argument(f"--{flag}", required=True)
ARGS, REST = parser.parse_known_args()
local_cluster.make_stubs(ARGS.proto, ARGS.google, ARGS.stubs)

from alphecca.v1 import cluster_pb2, cluster_pb2_grpc, inference_pb2 as pb, inference_pb2_grpc, types_pb2  # noqa: E402

Code = grpc.StatusCode
STOP, LENGTH = types_pb2.FINISH_REASON_STOP, types_pb2.FINISH_REASON_LENGTH
PROMPT = "In the beginning"


def options(temperature=0.0, max_tokens=16, **more):
    fields = [f.name for f in types_pb2.Sampling.DESCRIPTOR.fields]
    sampling = types_pb2.Sampling(temperature=temperature, **{k: more.pop(k) for k in fields if k in more})
    return pb.GenerationOptions(sampling=sampling, max_tokens=max_tokens, **more)


def text_request(text=PROMPT, model="", **more):
    return pb.GenerateRequest(model=model, text=text, options=options(**more))


class Answer:
    """All events of one Generate, by sample."""

    def __init__(self, events):
        self.events = list(events)
        self.ids, self.text, self.finish, self.logprobs = {}, {}, {}, {}
        for event in self.events:
            self.ids.setdefault(event.sample, []).extend(event.ids)
            self.text[event.sample] = self.text.get(event.sample, "") + event.text
            self.logprobs.setdefault(event.sample, []).extend(event.logprobs)
            if event.finish_reason:
                assert event.sample not in self.finish, "two finish reasons"
                self.finish[event.sample] = event.finish_reason
        self.usage = self.events[-1].usage

    def __eq__(self, other):
        return self.ids == other.ids and self.text == other.text


class ClusterTest(unittest.TestCase):
    """One cluster for all tests of a class."""

    @classmethod
    def setUpClass(cls):
        cls.cluster = local_cluster.Cluster(ARGS.bin, ARGS.model, flags=("--tp", "2", "--ep", "2"))
        cls.addClassCleanup(cls.cluster.stop)
        cls.stub = inference_pb2_grpc.InferenceStub(cls.cluster.channel)
        try:
            cls.cluster.wait_ready()
        except AssertionError:
            print(cls.cluster.logs(), file=sys.stderr)
            raise

    def run(self, result=None):
        before = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > before:
            print(self.cluster.logs(), file=sys.stderr)

    def generate(self, request, timeout=60):
        return Answer(self.stub.Generate(request, timeout=timeout))

    def status(self):
        return cluster_pb2_grpc.ClusterStub(self.cluster.channel).GetStatus(cluster_pb2.GetStatusRequest(), timeout=10)

    def wait_idle(self):
        local_cluster.wait_until("nothing runs or waits", lambda: self.cluster.metric("alphecca_sequences_running") == 0 and
                                 self.cluster.metric("alphecca_sequences_waiting") == 0 and
                                 self.cluster.metric("alphecca_requests_open") == 0, 20)

    def wait_running(self, count=1):
        local_cluster.wait_until("the sequence runs",
                                 lambda: self.cluster.metric("alphecca_sequences_running") >= count, 20)
