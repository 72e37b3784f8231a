#!/usr/bin/env python3
"""A coordinator and two workers that share tiny-moe by tensor and expert parallelism, used as a client would.

  cluster_e2e_test.py --bin DIR --model DIR --proto DIR --google DIR --stubs DIR [unittest arguments]
"""
import concurrent.futures
import sys
import time
import unittest

from cluster_client import ARGS, LENGTH, PROMPT, REST, STOP, ClusterTest, Code, options, text_request  # first: it makes the stubs

import grpc
import local_cluster
from alphecca.v1 import inference_pb2 as pb, inference_pb2_grpc
from google.rpc import error_details_pb2, status_pb2


class Serving(ClusterTest):
    def test_streams_an_answer(self):
        answer = self.generate(text_request(request_id="mine"))
        self.assertGreater(len(answer.events), 1, "not streamed")
        first, last = answer.events[0], answer.events[-1]
        self.assertEqual(first.request_id, "mine")
        self.assertEqual(answer.finish, {0: LENGTH})
        self.assertEqual(len(answer.ids[0]), 16)
        self.assertEqual(answer.usage.completion_tokens, 16)
        self.assertEqual(answer.usage.prompt_tokens, 1 + len(self.stub.Tokenize(pb.TokenizeRequest(text=PROMPT)).ids))
        self.assertTrue(last.fingerprint)
        self.assertEqual(self.stub.Detokenize(pb.DetokenizeRequest(ids=answer.ids[0])).text, answer.text[0])

    def test_ids_give_what_their_text_gives(self):
        ids = self.stub.Tokenize(pb.TokenizeRequest(text=PROMPT)).ids
        by_ids = self.generate(pb.GenerateRequest(ids=pb.TokenIds(ids=ids), options=options()))
        self.assertEqual(by_ids, self.generate(text_request()))

    def test_same_seed_same_tokens(self):
        one = self.generate(text_request(temperature=1.0, seed=11, max_tokens=32))
        self.assertEqual(one, self.generate(text_request(temperature=1.0, seed=11, max_tokens=32)))
        self.assertEqual(one.events[-1].seed, 11)
        self.assertNotEqual(one, self.generate(text_request(temperature=1.0, seed=12, max_tokens=32)))

    def test_a_drawn_seed_is_told_and_repeats_the_answer(self):
        drawn = self.generate(text_request(temperature=1.0, max_tokens=24))
        self.assertEqual(drawn, self.generate(text_request(temperature=1.0, max_tokens=24, seed=drawn.events[-1].seed)))

    def test_two_samples(self):
        both = self.generate(text_request(temperature=1.0, seed=3, n=2, max_tokens=24))
        self.assertEqual(set(both.finish), {0, 1})
        self.assertNotEqual(both.ids[0], both.ids[1])
        self.assertEqual(both.usage.completion_tokens, len(both.ids[0]) + len(both.ids[1]))
        self.assertEqual([bool(e.HasField("usage")) for e in both.events].count(True), 1)
        alone = self.generate(text_request(temperature=1.0, seed=3, max_tokens=24))
        self.assertEqual(alone.ids[0], both.ids[0])

    def test_together_as_alone(self):
        requests = [text_request(f"And {name} said", temperature=1.0, seed=i, max_tokens=24)
                    for i, name in enumerate(["Moses", "David", "the king", "Ruth"])]
        alone = [self.generate(r) for r in requests]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for one, other in zip(alone, pool.map(self.generate, requests)):
                self.assertEqual(one, other)

    def test_logprobs(self):
        answer = self.generate(text_request(logprobs=3, prompt_logprobs=2, max_tokens=8))
        self.assertEqual(len(answer.logprobs[0]), 8)
        for id_, position in zip(answer.ids[0], answer.logprobs[0]):
            self.assertEqual(position.token.id, id_)
            self.assertLessEqual(position.token.logprob, 0)
            tops = [t.logprob for t in position.top]
            self.assertEqual(len(tops), 3)
            self.assertEqual(tops, sorted(tops, reverse=True))
            self.assertEqual(position.top[0].id, id_, "greedy takes the likeliest")
        self.assertEqual(len(answer.events[0].prompt_logprobs), answer.usage.prompt_tokens - 1)
        self.assertTrue(all(len(p.top) == 2 for p in answer.events[0].prompt_logprobs))

    def test_penalties_and_bias(self):
        plain = self.generate(text_request(max_tokens=32, logprobs=1))
        repeats = len(plain.ids[0]) - len(set(plain.ids[0]))
        self.assertGreater(repeats, 8, "greedy repeats itself")
        for penalty in ({"repetition_penalty": 1.5}, {"frequency_penalty": 2.0}, {"presence_penalty": 2.0}):
            other = self.generate(text_request(max_tokens=32, **penalty))
            self.assertLess(len(other.ids[0]) - len(set(other.ids[0])), repeats, penalty)
            self.assertEqual(other, self.generate(text_request(max_tokens=32, **penalty)))
        first = plain.ids[0][0]
        self.assertNotIn(first, self.generate(text_request(max_tokens=32, logit_bias={first: -100})).ids[0])
        forced = self.generate(text_request(max_tokens=4, logit_bias={777: 100}, logprobs=1))
        self.assertEqual(forced.ids[0], [777] * 4)
        # The model's own log-probability, whatever was added.
        self.assertLess(forced.logprobs[0][0].token.logprob, -1)
        self.assertEqual(forced.logprobs[0][0].top[0], plain.logprobs[0][0].top[0])

    def test_suppressed_ids_are_never_sampled(self):
        forced = self.generate(text_request(max_tokens=8, logit_bias={0: 100, 2: 100}, ignore_eos=True))
        self.assertEqual(len(forced.ids[0]), 8)
        self.assertFalse({0, 2} & set(forced.ids[0]))

    def test_stop_strings(self):
        whole = self.generate(text_request(max_tokens=40))
        stop = whole.text[0][20:24]
        cut = self.generate(text_request(max_tokens=40, stop=["never there", stop]))
        self.assertEqual(cut.text[0], whole.text[0][:whole.text[0].index(stop)])
        self.assertEqual(cut.finish[0], STOP)
        self.assertLess(cut.usage.completion_tokens, 40)
        self.assertEqual(cut.ids[0], whole.ids[0][:len(cut.ids[0])])
        self.assertEqual(cut.usage.completion_tokens, len(cut.ids[0]))
        self.wait_idle()

    def test_models(self):
        models = self.stub.ListModels(pb.ListModelsRequest()).models
        self.assertEqual([m.name for m in models], ["tiny"])
        model = self.stub.GetModel(pb.GetModelRequest(name="tiny"))
        self.assertTrue(model.ready)
        self.assertEqual((model.context, model.vocabulary, model.family), (4096, 4096, "gemma4"))
        self.assertTrue(model.fingerprint and model.revision)

    def test_chat(self):
        request = pb.ChatRequest(messages=[pb.Message(role="user", content=[pb.ContentPart(text="Who made heaven?")])],
                                 options=options(max_tokens=12, prompt_logprobs=1))
        if not self.stub.GetModel(pb.GetModelRequest(name="tiny")).chat:
            with self.assertRaises(grpc.RpcError) as caught:
                list(self.stub.Chat(request, timeout=30))
            self.assertEqual(caught.exception.code(), Code.FAILED_PRECONDITION)
            return
        events = list(self.stub.Chat(request, timeout=60))
        self.assertTrue(events[-1].finish_reason)
        self.assertGreater(events[-1].usage.completion_tokens, 0)
        self.assertEqual(len(events[0].prompt_logprobs), events[-1].usage.prompt_tokens - 1)

    def test_status_shows_the_group(self):
        status = self.status()
        group = status.models[0].groups[0]
        self.assertEqual((group.state, group.tp, group.ep, len(group.ranks)), ("ready", 2, 2, 2))
        self.assertEqual({w.name for w in status.workers}, {"w0", "w1"})
        self.assertTrue(group.plan_hash)

    def test_reflection_and_health(self):
        reflect = self.cluster.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                                                     request_serializer=lambda b: b, response_deserializer=lambda b: b)
        listed = b"".join(reflect(iter([b"\x3a\x00"]), timeout=10))  # list_services
        for service in (b"alphecca.v1.Inference", b"alphecca.v1.Cluster", b"grpc.health.v1.Health"):
            self.assertIn(service, listed)
        self.assertTrue(self.cluster.healthy("alphecca.v1.Inference"))
        self.assertEqual(self.cluster.page("/readyz")[0], 200)
        self.assertEqual(self.cluster.page("/healthz")[0], 200)

    def test_cancel_midway_frees_the_slot(self):
        call = self.stub.Generate(text_request(max_tokens=4000, ignore_eos=True), timeout=120)
        for _ in range(3):
            next(call)
        self.wait_running()
        call.cancel()
        self.wait_idle()
        local_cluster.wait_until("the cancel is counted", lambda: self.cluster.metric(
            "alphecca_requests_total", method="Generate", code="CANCELLED") >= 1, 10)

    def test_deadline_ends_the_sequence(self):
        with self.assertRaises(grpc.RpcError) as caught:
            list(self.stub.Generate(text_request(max_tokens=4000, ignore_eos=True), timeout=0.5))
        self.assertEqual(caught.exception.code(), Code.DEADLINE_EXCEEDED)
        self.wait_idle()

    def test_metrics(self):
        before = self.cluster.metric("alphecca_output_tokens_total")
        self.generate(text_request(max_tokens=5))
        local_cluster.wait_until("tokens are counted",
                                 lambda: self.cluster.metric("alphecca_output_tokens_total") >= before + 5, 10)
        for name in ("alphecca_time_to_first_token_seconds_count", "alphecca_time_per_output_token_seconds_count",
                     "alphecca_request_preparation_seconds_count", "alphecca_prompt_tokens_total"):
            self.assertGreater(self.cluster.metric(name), 0, name)
        self.assertEqual(self.cluster.metric("alphecca_workers"), 2)
        self.assertEqual(self.cluster.metric("alphecca_groups", state="ready"), 1)


class Idle(ClusterTest):
    @classmethod
    def setUpClass(cls):
        # Two threads a worker: with one, the pool has none of its own that could spin.
        cls.cluster = local_cluster.Cluster(ARGS.bin, ARGS.model, flags=("--tp", "2", "--ep", "2"), threads=2)
        cls.addClassCleanup(cls.cluster.stop)
        cls.stub = inference_pb2_grpc.InferenceStub(cls.cluster.channel)
        cls.cluster.wait_ready()

    def test_nobody_works_while_nothing_is_asked(self):
        self.generate(text_request(max_tokens=5))
        self.wait_idle()
        processes = [self.cluster.coordinator, *self.cluster.workers.values()]
        before, begin = [process.cpu_seconds() for process in processes], time.monotonic()
        time.sleep(3)  # the span that is measured
        seconds = time.monotonic() - begin
        for process, spent in zip(processes, before):
            self.assertGreater(spent, 0, process.name)
            self.assertLess((process.cpu_seconds() - spent) / seconds, 0.01, f"{process.name}: share of a CPU while idle")


def raw(message):
    return message.SerializeToString()


# name, method, request bytes, status code, field named in the details or None
def bad_inputs():
    bad = Code.INVALID_ARGUMENT
    s = "options.sampling."
    user = [pb.Message(role="user", content=[pb.ContentPart(text="hi")])]
    generate = [
        ("no prompt", pb.GenerateRequest(options=options()), bad, "prompt"),
        ("empty ids", pb.GenerateRequest(ids=pb.TokenIds(), options=options()), bad, "ids"),
        ("empty text", text_request(""), bad, "text"),
        ("text too large", text_request("x" * ((8 << 20) + 1)), bad, "text"),
        ("prompt longer than the context", text_request("word " * 20000), bad, "prompt"),
        ("prompt that fills the context", pb.GenerateRequest(ids=pb.TokenIds(ids=[5] * 4096), options=options()), bad, "prompt"),
        ("token negative", pb.GenerateRequest(ids=pb.TokenIds(ids=[5, -1]), options=options()), bad, "ids.ids[1]"),
        ("token beyond the vocabulary", pb.GenerateRequest(ids=pb.TokenIds(ids=[4096]), options=options()), bad, "ids.ids[0]"),
        ("token huge", pb.GenerateRequest(ids=pb.TokenIds(ids=[2**31 - 1]), options=options()), bad, "ids.ids[0]"),
        ("temperature negative", text_request(temperature=-0.5), bad, s + "temperature"),
        ("temperature NaN", text_request(temperature=float("nan")), bad, s + "temperature"),
        ("temperature infinite", text_request(temperature=float("inf")), bad, s + "temperature"),
        ("top_k negative", text_request(top_k=-1), bad, s + "top_k"),
        ("top_k too large", text_request(top_k=2000), bad, s + "top_k"),
        ("top_p zero", text_request(top_p=0.0), bad, s + "top_p"),
        ("top_p above one", text_request(top_p=1.5), bad, s + "top_p"),
        ("min_p negative", text_request(min_p=-0.5), bad, s + "min_p"),
        ("repetition penalty zero", text_request(repetition_penalty=0), bad, s + "repetition_penalty"),
        ("presence penalty large", text_request(presence_penalty=2.5), bad, s + "presence_penalty"),
        ("frequency penalty NaN", text_request(frequency_penalty=float("nan")), bad, s + "frequency_penalty"),
        ("bias large", text_request(logit_bias={5: 101}), bad, s + "logit_bias[5]"),
        ("bias infinite", text_request(logit_bias={5: float("inf")}), bad, s + "logit_bias[5]"),
        ("bias beyond the vocabulary", text_request(logit_bias={4096: 1}), bad, s + "logit_bias[4096]"),
        ("bias of a negative id", text_request(logit_bias={-1: 1}), bad, s + "logit_bias[-1]"),
        ("too many biases", text_request(logit_bias={i: 1 for i in range(1025)}), bad, s + "logit_bias"),
        ("max_tokens zero", text_request(max_tokens=0), bad, "options.max_tokens"),
        ("max_tokens beyond the context", text_request(max_tokens=5000), bad, "options.max_tokens"),
        ("n zero", text_request(n=0), bad, "options.n"),
        ("n too large", text_request(n=1000), bad, "options.n"),
        ("logprobs too many", text_request(logprobs=21), bad, "options.logprobs"),
        ("prompt_logprobs negative", text_request(prompt_logprobs=-2), bad, "options.prompt_logprobs"),
        ("too many stops", text_request(stop=["x"] * 17), bad, "options.stop"),
        ("empty stop", text_request(stop=[""]), bad, "options.stop[0]"),
        ("long stop", text_request(stop=["x" * 257]), bad, "options.stop[0]"),
        ("priority too high", text_request(priority=1000), bad, "options.priority"),
        ("tenant with a space", text_request(tenant="a b"), bad, "options.tenant"),
        ("request id with a newline", text_request(request_id="a\nb"), bad, "options.request_id"),
        ("unknown model", text_request(model="nobody"), Code.NOT_FOUND, None),
    ]
    cases = [(name, "Generate", raw(request), code, field) for name, request, code, field in generate]
    cases += [
        ("text that is not UTF-8", "Generate", b"\x12\x02\xff\xfe", bad, None),
        ("stop that is not UTF-8", "Generate", b"\x12\x01a\x22\x04\x22\x02\xc3\x28", bad, None),
        ("broken encoding", "Generate", b"\x12\x7fabc", bad, None),
        ("random bytes", "Generate", bytes(range(255, 100, -1)), bad, None),
        ("chat without messages", "Chat", raw(pb.ChatRequest()), bad, None),
        ("chat with an unknown role", "Chat", raw(pb.ChatRequest(messages=[pb.Message(role="wizard")])), bad, None),
        ("chat part without text", "Chat",
         raw(pb.ChatRequest(messages=[pb.Message(role="user", content=[pb.ContentPart()])])), bad, "messages[0].content[0]"),
        ("chat with an unknown model", "Chat", raw(pb.ChatRequest(model="nobody", messages=user)), Code.NOT_FOUND, None),
        ("detokenize beyond the vocabulary", "Detokenize", raw(pb.DetokenizeRequest(ids=[1, 99999])), bad, "ids[1]"),
        ("tokenize for an unknown model", "Tokenize", raw(pb.TokenizeRequest(model="nobody", text="a")), Code.NOT_FOUND, None),
        ("get an unknown model", "GetModel", raw(pb.GetModelRequest(name="nobody")), Code.NOT_FOUND, None),
        ("unknown method", "Divine", b"", Code.UNIMPLEMENTED, None),
    ]
    return cases


class BadInput(ClusterTest):
    def send(self, method, data):
        call = self.cluster.channel.unary_stream(f"/alphecca.v1.Inference/{method}", request_serializer=lambda b: b,
                                                 response_deserializer=lambda b: b)
        with self.assertRaises(grpc.RpcError) as caught:
            list(call(data, timeout=30))
        return caught.exception

    def test_every_kind_gets_its_code_and_the_server_is_unharmed(self):
        pid = self.cluster.coordinator.process.pid
        before = self.generate(text_request())
        cases = bad_inputs()
        self.assertGreaterEqual(len(cases), 30)
        for name, method, data, code, field in cases:
            with self.subTest(name):
                error = self.send(method, data)
                if "chat" in name and error.code() == Code.FAILED_PRECONDITION:
                    continue  # a model without turn tokens says so first
                self.assertEqual(error.code(), code, error.details())
                self.assertTrue(error.details() or code == Code.UNIMPLEMENTED)
                if field is not None:
                    self.assertIn(field, self.fields(error))
        self.assertEqual(self.generate(text_request()), before)
        self.assertIsNone(self.cluster.coordinator.process.poll())
        self.assertEqual(self.cluster.coordinator.process.pid, pid)
        self.wait_idle()

    def test_a_call_that_ends_before_its_request_came_is_no_bad_request(self):
        def counted(code):
            return self.cluster.metric("alphecca_requests_total", method="Generate", code=code)

        before = counted("CANCELLED"), counted("INVALID_ARGUMENT")
        call = self.cluster.channel.stream_stream("/alphecca.v1.Inference/Generate", request_serializer=lambda b: b,
                                                  response_deserializer=lambda b: b)
        with self.assertRaises(grpc.RpcError) as caught:
            list(call(iter(()), timeout=30))
        self.assertEqual((caught.exception.code(), caught.exception.details()),
                         (Code.CANCELLED, "the call ended before its request had come"))
        local_cluster.wait_until("the call counted", lambda: counted("CANCELLED") == before[0] + 1)
        self.assertEqual(counted("INVALID_ARGUMENT"), before[1])

    def fields(self, error):
        data = dict(error.trailing_metadata())["grpc-status-details-bin"]
        status = status_pb2.Status.FromString(data)
        self.assertEqual(status.code, error.code().value[0])
        request = error_details_pb2.BadRequest()
        self.assertTrue(status.details[0].Unpack(request))
        return [v.field for v in request.field_violations]

    def test_a_past_deadline(self):
        with self.assertRaises(grpc.RpcError) as caught:
            list(self.stub.Generate(text_request(), timeout=-1))
        self.assertEqual(caught.exception.code(), Code.DEADLINE_EXCEEDED)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *REST], verbosity=2)
