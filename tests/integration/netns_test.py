#!/usr/bin/env python3
"""Workers on different hosts: each in a network namespace of its own, on a switch with the coordinator, so that ranks reach one
another over the network alone.

Needs the right to make network namespaces (root, or user namespaces for all): without it the test fails. The namespaces have no
names: they end with the processes in them, whatever ends those, and parallel runs do not meet.

  netns_test.py --bin DIR --models DIR --proto DIR --google DIR --stubs DIR [unittest arguments]
"""
import argparse
import json
import os
import subprocess
import sys
import time
import unittest

import local_cluster  # before grpc, which it quiets

import grpc

parser = argparse.ArgumentParser()
for flag in ("bin", "models", "proto", "google", "stubs"):
    parser.add_argument(f"--{flag}", required=True)
ARGS, REST = parser.parse_known_args()
local_cluster.make_stubs(ARGS.proto, ARGS.google, ARGS.stubs)

from alphecca.v1 import cluster_pb2, cluster_pb2_grpc, inference_pb2 as pb, inference_pb2_grpc, types_pb2  # noqa: E402

INSIDE = "ALPHECCA_NETNS_TEST_INSIDE"  # set in the process that has its namespace
SWITCH = "10.77.0.1"  # of the coordinator and this test
LEASE = 1.0
# What the coordinator needs beyond the lease to see it end and to tell the client: its ticks, on a busy machine.
SLACK = 1.5


def enter_namespace():
    """Starts this program again in a network namespace of its own."""
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    try:
        tried = subprocess.run([*unshare, "ip", "link", "add", "type", "bridge"], capture_output=True, text=True)
        refused = tried.returncode != 0 and (tried.stderr.strip() or f"exit status {tried.returncode}")
    except OSError as error:
        refused = str(error)
    if refused:
        sys.exit(f"netns_test needs network namespaces with veth and bridge devices: run it as root, outside of a container that "
                 f"forbids them (or leave it out: ctest -E netns_test). {' '.join(unshare)} ip link add: {refused}")
    os.environ[INSIDE] = "1"
    os.execvp(unshare[0], [*unshare, sys.executable, *sys.argv])


def ip(*arguments, prefix=()):
    subprocess.run([*prefix, "ip", *arguments], check=True, timeout=30)


class RemoteHost(local_cluster.Host):
    """A host on the switch: a namespace held by a process that ends when this one does."""

    def __init__(self, index):
        self.holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
        super().__init__(f"10.77.0.{10 + index}",
                         ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/proc/{self.holder.pid}/ns/net"])
        self.link = f"port{index}"
        own = os.readlink("/proc/self/ns/net")
        local_cluster.wait_until("a namespace for the host",
                                 lambda: os.readlink(f"/proc/{self.holder.pid}/ns/net") != own, 10)
        ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", str(self.holder.pid))
        ip("link", "set", self.link, "master", "switch", "up")
        ip("link", "set", "lo", "up", prefix=self.prefix)
        ip("addr", "add", f"{self.address}/24", "dev", "eth0", prefix=self.prefix)
        ip("link", "set", "eth0", "up", prefix=self.prefix)

    def plug(self, connected):
        ip("link", "set", self.link, "up" if connected else "down")

    def close(self):
        ip("link", "del", self.link)
        self.holder.stdin.close()
        self.holder.wait(10)


def greedy(ids, max_tokens):
    return pb.GenerateRequest(ids=pb.TokenIds(ids=ids), options=pb.GenerationOptions(
        sampling=types_pb2.Sampling(temperature=0.0), max_tokens=max_tokens, ignore_eos=True))


class DifferentHosts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        ip("link", "set", "lo", "up")
        ip("link", "add", "switch", "type", "bridge")
        cls.addClassCleanup(ip, "link", "del", "switch")
        ip("addr", "add", f"{SWITCH}/24", "dev", "switch")
        ip("link", "set", "switch", "up")
        cls.hosts = []
        for index in range(2):
            cls.hosts.append(RemoteHost(index))
            cls.addClassCleanup(cls.hosts[-1].close)

    def run(self, result=None):
        self.cluster = None
        before = len(result.failures) + len(result.errors)
        super().run(result)
        if self.cluster is not None:
            if len(result.failures) + len(result.errors) > before:
                print(self.cluster.logs(), file=sys.stderr)
            self.cluster.stop()

    def start(self, model, *flags):
        with open(os.path.join(ARGS.models, model, "golden.json"), encoding="utf-8") as f:
            self.golden = json.load(f)["greedy"]
        self.cluster = local_cluster.Cluster(ARGS.bin, os.path.join(ARGS.models, model), address=SWITCH, hosts=self.hosts,
                                             flags=("--kv-type", "f32", "--heartbeat", "0.2", "--lease", str(LEASE), *flags))
        self.stub = inference_pb2_grpc.InferenceStub(self.cluster.channel)
        self.cluster.wait_ready(20)

    def status(self):
        return cluster_pb2_grpc.ClusterStub(self.cluster.channel).GetStatus(cluster_pb2.GetStatusRequest(), timeout=10)

    def check_answers(self, count=None):
        for case in self.golden[:count]:
            events = list(self.stub.Generate(greedy(case["input_ids"], len(case["greedy_ids"])), timeout=30))
            self.assertEqual([i for event in events for i in event.ids], case["greedy_ids"])
            self.assertIn("/gloo/", events[-1].fingerprint)

    def check_hosts(self):
        status = self.status()
        self.assertEqual({w.address.rpartition(":")[0] for w in status.workers}, {host.address for host in self.hosts})
        group = status.models[0].groups[0]
        self.assertIn("/gloo/", group.fingerprint)
        self.assertEqual(len(group.ranks), 2)
        return group

    def test_dense_by_tensor_parallel(self):
        self.start("tiny-dense", "--tp", "2")
        self.check_hosts()
        self.check_answers()

    def test_moe_by_tensor_and_expert_parallel_over_cut_links(self):
        self.start("tiny-moe", "--tp", "2", "--ep", "2")
        group = self.check_hosts()
        self.check_answers()
        names = {w.worker_id: w.name for w in self.status().workers}
        leader, follower = (self.cluster.hosts[names[rank.worker_id]] for rank in group.ranks)
        for what, host in (("follower", follower), ("leader", leader)):
            with self.subTest(what):
                self.cut(host)

    def cut(self, host):
        call = self.stub.Generate(greedy(self.golden[0]["input_ids"], 4000), timeout=60)
        next(call)
        host.plug(False)
        try:
            cut = time.monotonic()
            with self.assertRaises(grpc.RpcError) as caught:
                for _ in call:
                    pass
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE, caught.exception.details())
            self.assertLess(time.monotonic() - cut, LEASE + SLACK)
            local_cluster.wait_until("not healthy", lambda: not self.cluster.healthy(), 2)
        finally:
            host.plug(True)
        self.cluster.wait_ready(20)
        self.check_hosts()
        self.check_answers(1)


if __name__ == "__main__":
    if INSIDE not in os.environ:
        enter_namespace()
    unittest.main(argv=[sys.argv[0], *REST], verbosity=2)
