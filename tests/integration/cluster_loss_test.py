#!/usr/bin/env python3
"""Clusters whose processes die, come late, do not fit or are told to stop: what becomes of groups, and of requests.

  cluster_loss_test.py --bin DIR --model DIR --proto DIR --google DIR --stubs DIR [unittest arguments]
"""
import concurrent.futures
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import unittest

from cluster_client import ARGS, REST, Answer, ClusterTest, Code, text_request  # first: it makes the stubs

import grpc
import local_cluster
from alphecca.v1 import cluster_pb2, cluster_pb2_grpc, inference_pb2_grpc


class Loss(ClusterTest):
    def lose(self, name):
        """Kills a worker while a sequence streams; the group must say so fast, form anew and answer as before."""
        before = self.generate(text_request())
        call = self.stub.Generate(text_request(max_tokens=4000, ignore_eos=True), timeout=120)
        next(call)
        self.cluster.workers[name].kill()
        killed = time.monotonic()
        with self.assertRaises(grpc.RpcError) as caught:
            for _ in call:
                pass
        self.assertEqual(caught.exception.code(), Code.UNAVAILABLE, caught.exception.details())
        self.assertLess(time.monotonic() - killed, 1.0)
        local_cluster.wait_until("not ready any more", lambda: self.cluster.page("/readyz")[0] == 503 and
                                 not self.cluster.healthy(), 10)
        with self.assertRaises(grpc.RpcError) as caught:
            self.generate(text_request())
        self.assertEqual(caught.exception.code(), Code.UNAVAILABLE)
        local_cluster.wait_until("the status says what is missing", lambda: "1 more" in self.status().models[0].groups[0].message, 10)
        self.cluster.start_worker(name)
        self.cluster.wait_ready()
        self.assertEqual(self.generate(text_request()), before)

    def test_a_follower_and_then_a_leader(self):
        status = self.status()
        names = {w.worker_id: w.name for w in status.workers}
        ranks = [names[r.worker_id] for r in status.models[0].groups[0].ranks]
        self.lose(ranks[1])
        self.lose(ranks[0])


class Faults(unittest.TestCase):
    """Workers that die before the group is ready, or cannot serve: the status says so, and the group forms with others."""

    def start(self, model=ARGS.model, flags=(), **more):
        self.cluster = local_cluster.Cluster(ARGS.bin, model, flags=("--tp", "2", "--ep", "2", "--lease", "60", *flags), **more)
        self.addCleanup(self.cluster.stop)
        self.stub = cluster_pb2_grpc.ClusterStub(self.cluster.channel)

    def status(self):
        return self.stub.GetStatus(cluster_pb2.GetStatusRequest(), timeout=10)

    def group(self):
        return self.status().models[0].groups[0]

    def wait_group(self, state, text):
        try:
            local_cluster.wait_until(f"group {state}: {text}", lambda: self.group().state == state and text in self.group().message, 30)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.group()}{self.cluster.logs()}") from error

    def wait_workers(self, *names):
        local_cluster.wait_until(f"workers {names}", lambda: sorted(w.name for w in self.status().workers) == sorted(names), 30)

    def serves(self):
        self.cluster.wait_ready()
        answer = Answer(inference_pb2_grpc.InferenceStub(self.cluster.channel).Generate(text_request(max_tokens=4), timeout=30))
        self.assertEqual(len(answer.ids[0]), 4)

    def begin_loading(self):
        """w0 and w1 load; w1 stands still since before there were two, so that loading lasts until it goes on or dies."""
        self.start(workers=0)
        self.cluster.start_worker("w1")
        self.wait_workers("w1")
        stopped = self.cluster.workers["w1"].process
        stopped.send_signal(signal.SIGSTOP)
        self.addCleanup(stopped.send_signal, signal.SIGCONT)
        self.cluster.start_worker("w0")
        self.wait_group("loading", "loading on 2 workers")

    def test_a_worker_dies_while_idle(self):
        self.start(workers=1)
        self.wait_workers("w0")
        self.cluster.workers["w0"].kill()
        self.wait_workers()
        self.wait_group("waiting for workers", "2 more")
        self.cluster.start_worker("w0")
        self.cluster.start_worker("w1")
        self.serves()

    def test_a_worker_dies_while_loading_and_another_comes(self):
        self.begin_loading()
        self.cluster.workers["w1"].kill()
        self.wait_group("waiting for workers", "1 more")
        self.wait_workers("w0")
        self.cluster.start_worker("w1")
        self.serves()

    def test_a_worker_dies_while_loading_and_a_spare_takes_its_place(self):
        self.begin_loading()
        self.cluster.start_worker("w2")
        self.wait_workers("w0", "w1", "w2")
        self.cluster.workers["w1"].kill()
        self.serves()
        self.wait_workers("w0", "w2")

    def test_the_worker_that_waits_for_the_others_dies(self):
        self.begin_loading()
        self.cluster.workers["w0"].kill()
        self.wait_group("waiting for workers", "1 more")
        self.cluster.workers["w1"].process.send_signal(signal.SIGCONT)
        self.cluster.start_worker("w0")
        self.serves()

    def test_another_checkpoint_on_the_workers_host(self):
        folder = tempfile.TemporaryDirectory(prefix="alphecca-checkpoint-")
        self.addCleanup(folder.cleanup)
        model = os.path.join(folder.name, "model")
        shutil.copytree(ARGS.model, model)
        self.start(model=model, workers=0)
        os.rename(model, model + ".seen")
        shutil.copytree(os.path.join(os.path.dirname(ARGS.model), "tiny-dense"), model)
        self.cluster.start_worker("w0")
        self.cluster.start_worker("w1")
        self.wait_group("failed", "on this host, the coordinator saw")
        self.assertRegex(self.group().message, r"^rank [01] on w[01] .*has revision [0-9a-f]{32} .*; next try \(2\) in")
        shutil.rmtree(model)
        os.rename(model + ".seen", model)
        self.serves()

    def test_too_little_memory(self):
        self.start(workers=2, memory_gib=0.02)
        self.wait_group("waiting for workers", "w0 has 20.5 MiB")
        self.cluster.memory_gib = None
        self.cluster.start_worker("w2")
        self.cluster.start_worker("w3")
        self.serves()

    def test_another_build(self):
        self.start(workers=1)
        self.wait_workers("w0")
        leave = threading.Event()
        self.addCleanup(leave.set)
        device = cluster_pb2.Device(kind="cpu", name="other", memory_bytes=1 << 30, threads=1, isa="scalar")
        register = cluster_pb2.Register(protocol_version=1, build="0.0.0 (another)", device=device, address="127.0.0.1:9", name="old",
                                        host="here")

        def messages():
            yield cluster_pb2.WorkerMessage(register=register)
            leave.wait(60)

        call = self.stub.Join(messages())
        self.addCleanup(call.cancel)
        self.wait_workers("w0", "old")
        self.wait_group("waiting for workers", "needs 2 idle workers of one device kind and build, 1 there: start 1 more")
        self.assertIn("; old is a cpu of build 0.0.0 (another)", self.group().message)
        self.assertIn(f"; w0 is a cpu of build {self.status().build}", self.group().message)
        self.cluster.start_worker("w1")
        self.serves()


class SeveralModels(unittest.TestCase):
    """cluster.yaml: one model split by hand, one as the workers' memory wants and as often as they allow."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="alphecca-config-")
        self.addCleanup(self.folder.cleanup)
        self.config = os.path.join(self.folder.name, "cluster.yaml")

    def start(self, yaml, **more):
        with open(self.config, "w", encoding="utf-8") as f:
            f.write(yaml)
        cluster = local_cluster.Cluster(ARGS.bin, flags=("--config", self.config), **more)
        self.addCleanup(cluster.stop)
        return cluster, cluster_pb2_grpc.ClusterStub(cluster.channel), inference_pb2_grpc.InferenceStub(cluster.channel)

    def groups(self, stub, model):
        status = stub.GetStatus(cluster_pb2.GetStatusRequest())
        return next(m.groups for m in status.models if m.name == model)

    def test_each_has_its_groups(self):
        dense = os.path.join(os.path.dirname(ARGS.model), "tiny-dense")
        cluster, status, inference = self.start(
            f"models:\n  - path: {ARGS.model}\n    name: pair\n    tp: 2\n    ep: 1\n"
            f"  - path: {dense}\n    name: many\n    tp: auto\n    replicas: auto\n    context: 512\n", workers=3)
        cluster.wait_ready()
        for model in ("pair", "many"):
            self.assertEqual(len(Answer(inference.Generate(text_request(model=model, max_tokens=4), timeout=30)).ids[0]), 4)
        self.assertEqual([(g.state, g.tp, g.ep) for g in self.groups(status, "pair")], [("ready", 2, 1)])
        self.assertEqual([(g.state, g.tp) for g in self.groups(status, "many")], [("ready", 1), ("waiting for workers", 1)])
        with self.assertRaises(grpc.RpcError) as caught:
            list(inference.Generate(text_request(), timeout=30))  # which of the two?
        self.assertEqual(caught.exception.code(), Code.INVALID_ARGUMENT)
        cluster.start_worker("w3")
        local_cluster.wait_until("a second replica", lambda: [g.state for g in self.groups(status, "many")].count("ready") == 2)
        cluster.workers.pop("w3").kill()
        local_cluster.wait_until("one again", lambda: [g.state for g in self.groups(status, "many")].count("ready") == 1)

    def test_memory_decides_the_split(self):
        # tiny-moe: 7.6 M parameters of 2 bytes, activations, and at least 16 MiB of cache: more than 0.03 GiB, halves take less.
        cluster, status, inference = self.start(f"models:\n  - path: {ARGS.model}\n    name: m\n    context: 4096\n",
                                                workers=1, memory_gib=0.03)
        local_cluster.wait_until("the worker is known", lambda: "w0 has 30.7 MiB" in self.groups(status, "m")[0].message)
        self.assertEqual(self.groups(status, "m")[0].state, "waiting for workers")
        cluster.start_worker("w1")
        cluster.wait_ready()
        group = self.groups(status, "m")[0]
        self.assertEqual((group.state, group.tp, group.ep), ("ready", 2, 2))
        self.assertEqual(len(Answer(inference.Generate(text_request(model="m", max_tokens=4), timeout=30)).ids[0]), 4)


class Shutdown(unittest.TestCase):
    def test_sigterm_lets_open_requests_end(self):
        cluster = local_cluster.Cluster(ARGS.bin, ARGS.model, flags=("--tp", "2"))
        self.addCleanup(cluster.stop)
        cluster.wait_ready()
        stub = inference_pb2_grpc.InferenceStub(cluster.channel)
        call = stub.Generate(text_request(max_tokens=300, ignore_eos=True), timeout=60)
        events = [next(call)]
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            stopping = pool.submit(cluster.coordinator.stop)
            local_cluster.wait_until("new requests are refused", lambda: self.refused(stub), 10)
            events += list(call)
            self.assertEqual(stopping.result(60), 0)
        self.assertEqual(sum(len(e.ids) for e in events), 300)

    def refused(self, stub):
        try:
            list(stub.Generate(text_request(max_tokens=1), timeout=10))
            return False
        except grpc.RpcError as error:
            self.assertEqual(error.code(), Code.UNAVAILABLE)
            return True


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *REST], verbosity=2)
