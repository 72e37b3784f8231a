// GGUF checkpoints beyond the golden files: other writers' forms of the metadata, and files that contradict themselves.
#include <cstring>
#include <functional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/checkpoint.h"
#include "model/gguf.h"
#include "test_files.h"

namespace alphecca::model {
namespace {

using ::testing::HasSubstr;

std::string Floats(std::vector<float> values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
}

// A Gemma 4 MoE model of two layers, sliding then full; D 32, H 2, head 8 and 16, F 32, E 4, I 32, V 40.
struct TinyGguf {
  std::function<void(GgufBuilder&)> values = [](GgufBuilder& b) {
    b.U32("gemma4.feed_forward_length", 32).U32("gemma4.attention.head_count", 2);
    b.U32s("gemma4.attention.head_count_kv", {2, 1}).U32s("gemma4.attention.sliding_window_pattern", {1, 0});
  };
  std::vector<float> frequencies = {1, 1, 1e30F, 1e30F, 1e30F, 1e30F, 1e30F, 1e30F};
  bool split_experts = false;
  std::string missing;    // tensor left out
  std::string quantised;  // tensor said to be Q8_0
  std::string architecture = "gemma4";

  std::string Bytes() const {
    GgufBuilder b;
    b.String("general.architecture", architecture).String("general.name", "tiny");
    b.U32("gemma4.block_count", 2).U32("gemma4.embedding_length", 32).U32("gemma4.context_length", 128);
    b.U32("gemma4.attention.key_length", 16).U32("gemma4.attention.key_length_swa", 8);
    b.U32("gemma4.attention.sliding_window", 16).U32("gemma4.expert_count", 4).U32("gemma4.expert_used_count", 2);
    b.U32("gemma4.expert_feed_forward_length", 32);
    values(b);
    b.Tensor("rope_freqs.weight", {frequencies.size()}, 0, Floats(frequencies));
    Add(b, "token_embd.weight", {32, 40});
    Add(b, "output_norm.weight", {32});
    for (int i = 0; i < 2; ++i) {
      const uint64_t head = i == 0 ? 8 : 16;
      const uint64_t kv = i == 0 ? 16 : 16;
      const std::string blk = "blk." + std::to_string(i) + ".";
      for (const char* norm : {"attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "pre_ffw_norm_2",
                               "post_ffw_norm_1", "post_ffw_norm_2"}) {
        Add(b, blk + norm + ".weight", {32});
      }
      Add(b, blk + "attn_q.weight", {32, 2 * head});
      Add(b, blk + "attn_k.weight", {32, kv});
      Add(b, blk + "attn_q_norm.weight", {head});
      Add(b, blk + "attn_k_norm.weight", {head});
      Add(b, blk + "attn_output.weight", {2 * head, 32});
      Add(b, blk + "ffn_gate.weight", {32, 32});
      Add(b, blk + "ffn_up.weight", {32, 32});
      Add(b, blk + "ffn_down.weight", {32, 32});
      Add(b, blk + "layer_output_scale.weight", {1});
      Add(b, blk + "ffn_gate_inp.weight", {32, 4});
      Add(b, blk + "ffn_gate_inp.scale", {32});
      Add(b, blk + "ffn_down_exps.scale", {4});
      Add(b, blk + "ffn_down_exps.weight", {32, 32, 4});
      if (split_experts) {
        Add(b, blk + "ffn_gate_exps.weight", {32, 32, 4});
        Add(b, blk + "ffn_up_exps.weight", {32, 32, 4});
      } else {
        Add(b, blk + "ffn_gate_up_exps.weight", {32, 64, 4});
      }
    }
    Add(b, "blk.0.attn_v.weight", {32, 16});
    return b.bytes();
  }
  void Add(GgufBuilder& b, const std::string& name, const std::vector<uint64_t>& dims) const {
    if (name == missing) {
      return;
    }
    size_t count = 1;
    for (const uint64_t size : dims) {
      count *= size;
    }
    if (name == quantised) {
      b.Tensor(name, dims, 8, std::string(count / 32 * 34, '\1'));
    } else {
      b.Tensor(name, dims, 0, std::string(count * 4, '\1'));
    }
  }
  absl::StatusOr<std::unique_ptr<Checkpoint>> Open() const {
    auto file = GgufFile::FromBytes(Bytes());
    if (!file.ok()) {
      return file.status();
    }
    return Checkpoint::FromGguf(*std::move(file));
  }
};

void ExpectFails(const TinyGguf& tiny, const std::string& message) {
  const auto checkpoint = tiny.Open();
  ASSERT_FALSE(checkpoint.ok()) << message;
  EXPECT_THAT(std::string(checkpoint.status().message()), HasSubstr(message));
}

TEST(CheckpointGgufTest, ReadsTheConfiguration) {
  const auto checkpoint = TinyGguf().Open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const ModelConfig& config = (*checkpoint)->config();
  EXPECT_EQ(config.name, "tiny");
  EXPECT_EQ(config.vocab, 40);
  EXPECT_EQ(config.attention_scale, 1.0F);
  EXPECT_EQ(config.layers[0], (LayerConfig{false, 2, 8, 32, false, 0}));
  EXPECT_EQ(config.layers[1], (LayerConfig{true, 1, 16, 32, true, 1}));  // no attn_v
  EXPECT_EQ(config.rope_full.rotating, 2);
  EXPECT_EQ(config.rope_sliding.rotating, 4);
}

TEST(CheckpointGgufTest, ArraysAndNumbersAreBothRead) {
  TinyGguf tiny;
  tiny.values = [](GgufBuilder& b) {
    b.U32s("gemma4.feed_forward_length", {32, 32}).U32s("gemma4.attention.head_count", {2, 2});
    b.U32s("gemma4.attention.head_count_kv", {2, 1}).U32("gemma4.attention.sliding_window_pattern", 2);
  };
  const auto checkpoint = tiny.Open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->config(), (*TinyGguf().Open())->config());
}

TEST(CheckpointGgufTest, SplitExpertsAreFoundAsSuch) {
  TinyGguf tiny;
  tiny.split_experts = true;
  const auto checkpoint = tiny.Open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_FALSE((*checkpoint)->Has(TensorKind::kExpertGateUp, 0));
  const auto up = (*checkpoint)->Find(TensorKind::kExpertUp, 1);
  ASSERT_TRUE(up.ok());
  EXPECT_EQ(up->items, 4);
  EXPECT_EQ(up->rows, 32);
  tiny.missing = "blk.1.ffn_up_exps.weight";
  ExpectFails(tiny, "blk.1.ffn_gate_up_exps.weight is missing");
}

TEST(CheckpointGgufTest, ContradictionsAreNamed) {
  TinyGguf tiny;
  tiny.missing = "blk.0.attn_v.weight";  // then V comes from K, and the file is whole
  EXPECT_TRUE(tiny.Open().ok());
  for (const char* name : {"blk.1.attn_q.weight", "output_norm.weight", "blk.0.layer_output_scale.weight",
                           "blk.1.ffn_down_exps.weight", "token_embd.weight"}) {
    tiny.missing = name;
    ExpectFails(tiny, std::string(name) + " is missing");
  }
  tiny = TinyGguf();
  tiny.quantised = "blk.0.attn_norm.weight";
  ExpectFails(tiny, "blk.0.attn_norm.weight has the type Q8_0");
  tiny.quantised = "blk.0.attn_q.weight";
  EXPECT_TRUE(tiny.Open().ok());
  tiny.architecture = "llama";
  ExpectFails(tiny, "general.architecture is 'llama'");
  tiny = TinyGguf();
  tiny.frequencies[1] = 0.5F;
  ExpectFails(tiny, "rope_freqs.weight holds 0.5 at 1");
  tiny.frequencies = {1e30F, 1, 1, 1, 1, 1, 1, 1};
  ExpectFails(tiny, "rope_freqs.weight");
  tiny.frequencies = {1, 1, 1, 1};
  ExpectFails(tiny, "rope_freqs.weight");
}

TEST(CheckpointGgufTest, BadMetadataNamesTheKey) {
  const std::vector<std::pair<std::string, std::function<void(GgufBuilder&)>>> cases = {
      {"gemma4.feed_forward_length is an array of 3",
       [](GgufBuilder& b) {
         b.U32s("gemma4.feed_forward_length", {1, 2, 3}).U32("gemma4.attention.head_count", 2);
       }},
      {"gemma4.attention.head_count varies",
       [](GgufBuilder& b) {
         b.U32("gemma4.feed_forward_length", 32).U32s("gemma4.attention.head_count", {2, 4});
       }},
      {"'gemma4.attention.head_count' has the value type 8",
       [](GgufBuilder& b) { b.U32("gemma4.feed_forward_length", 32).String("gemma4.attention.head_count", "2"); }},
      {"no metadata key 'gemma4.attention.head_count'",
       [](GgufBuilder& b) { b.U32("gemma4.feed_forward_length", 32); }},
      {"gemma4.attention.value_length is 8",
       [](GgufBuilder& b) {
         b.U32("gemma4.feed_forward_length", 32).U32("gemma4.attention.head_count", 2);
         b.U32("gemma4.attention.value_length", 8);
       }},
      {"sliding_window_pattern is 0", [](GgufBuilder& b) { b.U32("gemma4.attention.sliding_window_pattern", 0); }},
      {"gemma4.attention.shared_kv_layers",
       [](GgufBuilder& b) {
         b.U32("gemma4.feed_forward_length", 32).U32("gemma4.attention.head_count", 2);
         b.U32("gemma4.attention.shared_kv_layers", 1).U32("gemma4.attention.sliding_window_pattern", 2);
       }},
      {"gemma4.rope.scaling.type",
       [](GgufBuilder& b) {
         b.U32("gemma4.feed_forward_length", 32).U32("gemma4.attention.head_count", 2);
         b.String("gemma4.rope.scaling.type", "yarn").U32("gemma4.attention.sliding_window_pattern", 2);
       }},
  };
  for (const auto& [message, values] : cases) {
    TinyGguf tiny;
    tiny.values = [&values = values](GgufBuilder& b) {
      values(b);
      b.U32s("gemma4.attention.head_count_kv", {2, 1});
    };
    ExpectFails(tiny, message);
  }
}

TEST(CheckpointGgufTest, AnyChangedHeaderByteIsSurvived) {
  const std::string bytes = TinyGguf().Bytes();
  const size_t header = bytes.size() < 6000 ? bytes.size() : 6000;
  for (size_t i = 0; i < header; ++i) {
    std::string broken = bytes;
    broken[i] = static_cast<char>(broken[i] ^ (i % 2 == 0 ? 0xff : 0x01));
    auto file = GgufFile::FromBytes(broken);
    if (file.ok()) {
      const auto checkpoint = Checkpoint::FromGguf(*std::move(file));
      if (checkpoint.ok()) {
        EXPECT_TRUE((*checkpoint)->config().Validate().ok());
      }
    }
  }
}

}  // namespace
}  // namespace alphecca::model
