// A traced pass computes the same and leaves a readable timeline of its ops and collectives.
#include "worker/forward/tracing.h"

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/ref/ref_backend.h"
#include "model/shard_plan.h"
#include "nlohmann/json.hpp"
#include "tests/golden/generated_checkpoint.h"
#include "worker/comm/shm.h"
#include "worker/comm/solo.h"
#include "worker/forward/gemma.h"

namespace alphecca::golden {
namespace {

constexpr char kConfig[] = R"({
  "model_type": "gemma4_text", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
  "num_key_value_heads": 2, "num_global_key_value_heads": 1, "head_dim": 8, "global_head_dim": 16,
  "intermediate_size": 20, "vocab_size": 40, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0,
  "attention_k_eq_v": true, "sliding_window": 3, "rms_norm_eps": 1e-6, "final_logit_softcapping": 30.0,
  "max_position_embeddings": 64, "enable_moe_block": true, "num_experts": 6, "top_k_experts": 2,
  "moe_intermediate_size": 10, "tie_word_embeddings": true, "hidden_activation": "gelu_pytorch_tanh",
  "layer_types": ["sliding_attention", "full_attention"],
  "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.25}}})";

// Logits of a prompt of three tokens, on one rank or on each of a wide group.
std::vector<float> RunPrompt(const model::Checkpoint& checkpoint, kernels::Backend& backend, comm::Communicator& comm,
                             const model::Sharding& sharding = {}, int64_t max_rows = 4) {
  const auto plan = model::MakeShardPlan(checkpoint, sharding);
  EXPECT_TRUE(plan.ok()) << plan.status();
  auto gemma = forward::Gemma::Create(checkpoint, *plan, comm.rank(), backend, comm,
                                      {.max_rows = max_rows, .max_logit_rows = 1}, nullptr);
  EXPECT_TRUE(gemma.ok()) << gemma.status();
  std::unique_ptr<kernels::KvPool> pools[2];
  for (const kernels::PoolKind kind : {kernels::kFullPool, kernels::kSlidingPool}) {
    kernels::KvPoolSpec spec = (*gemma)->PoolSpec(kind);
    spec.block_tokens = 4;
    spec.num_blocks = 1;
    spec.num_slots = 1;
    spec.max_blocks_per_slot = 1;
    spec.type = kernels::DType::kF32;
    auto pool = backend.CreateKvPool(spec);
    EXPECT_TRUE(pool.ok()) << pool.status();
    pools[kind] = *std::move(pool);
  }
  EXPECT_TRUE(backend.ReserveSlots(1).ok());
  const std::vector<int32_t> tokens = {2, 5, 17};
  const std::vector<int32_t> positions = {0, 1, 2};
  const std::vector<int32_t> slots = {0, 0, 0};
  const std::vector<kernels::KeyRange> keys = {{0, 0}, {0, 1}, {0, 2}};
  const std::vector<int32_t> logit_rows = {2};
  const std::vector<kernels::SamplingRow> sampling(1);
  const std::vector<kernels::BlockTableUpdate> table = {{.slot = 0, .index = 0, .block = 0}};
  const kernels::StepInput input{.tokens = tokens,
                                 .positions = positions,
                                 .slots = slots,
                                 .full = keys,
                                 .sliding = keys,
                                 .soft = {},
                                 .soft_rows = {},
                                 .logit_rows = logit_rows,
                                 .sampling = sampling,
                                 .tables = {table, table},
                                 .opens = {},
                                 .masks = {}};
  const auto stream = backend.CreateStream();
  const auto step = backend.Upload(*stream, input, pools[0].get(), pools[1].get());
  const forward::WideStep all = {.rows = 3 * comm.size(), .most_logit_rows = 1};
  EXPECT_TRUE((*gemma)->Run(*stream, *step, pools[0].get(), pools[1].get(), 1, all).ok());
  std::vector<float> logits(40);
  EXPECT_TRUE(backend.Read(*stream, (*gemma)->logits().data, std::as_writable_bytes(std::span(logits))).ok());
  return logits;
}

class TracingTest : public testing::Test {
 protected:
  void SetUp() override {
    auto checkpoint = GeneratedCheckpoint::Create(kConfig);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
    path_ = std::filesystem::path(testing::TempDir()) / "alphecca_trace.json";
  }
  void TearDown() override { std::filesystem::remove(path_); }

  // The file is an array left open: closed here for a strict parser.
  nlohmann::json Events() const {
    std::stringstream text;
    text << std::ifstream(path_).rdbuf();
    std::string array = text.str();
    array.erase(array.find_last_of('}') + 1);
    return nlohmann::json::parse(array + "]", nullptr, false);
  }

  std::unique_ptr<GeneratedCheckpoint> checkpoint_;
  std::filesystem::path path_;
};

TEST_F(TracingTest, ComputesTheSameAndRecordsEveryOp) {
  const auto plain = kernels::CreateRefBackend({});
  const auto solo = comm::CreateSolo();
  const std::vector<float> want = RunPrompt(*checkpoint_, *plain, *solo);
  {
    auto file = forward::TraceFile::Create(path_.string());
    ASSERT_TRUE(file.ok()) << file.status();
    const auto inner = kernels::CreateRefBackend({});
    const auto traced = forward::TraceBackend(*inner, **file, 0);
    const auto comm = forward::TraceCommunicator(*solo, **file);
    EXPECT_EQ(traced->Name(), "ref");
    EXPECT_EQ(RunPrompt(*checkpoint_, *traced, *comm), want);
  }
  const nlohmann::json events = Events();
  ASSERT_TRUE(events.is_array());
  std::map<std::string, int> count;
  double previous_end = 0.0;
  for (const nlohmann::json& event : events) {
    ++count[event["name"].get<std::string>()];
    EXPECT_GE(event["ts"].get<double>(), previous_end - 1.0) << "one thread's spans follow one another";
    previous_end = event["ts"].get<double>() + event["dur"].get<double>();
    if (event["name"] == "MatMul" || event["name"] == "Experts" || event["name"] == "Attend") {
      EXPECT_GT(event["args"]["bytes"].get<int64_t>(), 0);
      EXPECT_GT(event["args"]["flops"].get<int64_t>(), 0);
    }
  }
  EXPECT_EQ(count["Embed"], 1);
  EXPECT_EQ(count["Attend"], 2);
  EXPECT_EQ(count["MatMul"], 2 * 4 + 1);  // qkv, o, down and router of two layers, the head
  EXPECT_EQ(count["GatedMatMul"], 2);
  EXPECT_EQ(count["Experts"], 2);
  EXPECT_EQ(count["AddNorms"], 2);
  EXPECT_EQ(count["ResidualNorm"], 4);
  EXPECT_EQ(count["AllGather"], 1);
  EXPECT_EQ(count["Choose"], 1);
}

TEST_F(TracingTest, WideSpansCountTheRowsThereAre) {
  const auto bytes = [this](int64_t max_rows) {
    const model::Sharding wide = {.ep = 2, .mode = model::ExpertMode::kWide};
    auto comms = comm::CreateShmGroup(2);
    EXPECT_TRUE(comms.ok()) << comms.status();
    std::thread other([&] {
      const auto backend = kernels::CreateRefBackend({});
      RunPrompt(*checkpoint_, *backend, *(*comms)[1], wide, max_rows);
    });
    {
      auto file = forward::TraceFile::Create(path_.string());
      EXPECT_TRUE(file.ok()) << file.status();
      const auto inner = kernels::CreateRefBackend({});
      const auto traced = forward::TraceBackend(*inner, **file, 0);
      const auto comm = forward::TraceCommunicator(*(*comms)[0], **file);
      RunPrompt(*checkpoint_, *traced, *comm, wide, max_rows);
    }
    other.join();
    std::map<std::string, int64_t> sums;
    for (const nlohmann::json& event : Events()) {
      sums[event["name"].get<std::string>()] += event["args"]["bytes"].get<int64_t>();
    }
    return sums;
  };
  const std::map<std::string, int64_t> tight = bytes(6);
  EXPECT_GT(tight.at("Experts"), 0);
  EXPECT_GT(tight.at("ExchangeRows"), 0);
  EXPECT_EQ(bytes(64), tight);
}

TEST_F(TracingTest, SaysWhichFileCannotBeWritten) {
  const auto file = forward::TraceFile::Create("/no/such/directory/trace.json");
  EXPECT_EQ(file.status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_NE(std::string(file.status().message()).find("/no/such/directory/trace.json"), std::string::npos);
}

}  // namespace
}  // namespace alphecca::golden
