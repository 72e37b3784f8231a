// The table of an instruction set, from the kernels compiled for it.
#pragma once

namespace alphecca::kernels::cpu {
namespace {

// A value that is not finite makes the scale of its block, slab or row NaN or infinite.
void Quantise(const float* in, int64_t cols, DType type, std::byte* record) {
  if (type == DType::kQ8_0) {
    QuantiseInBlocks<32>(in, cols, type, record);
  } else if (type == DType::kQ6_K) {
    QuantiseInBlocks<16>(in, cols, type, record);
  } else {
    QuantiseFine(in, cols, type, record);
  }
}

constexpr KernelTable MakeTable(const char* name) {
  KernelTable t = {};
  t.name = name;
  t.panel_f32[static_cast<int>(DType::kF32)] = F32Panel<Columns<ColumnF32>>;
  t.panel_f32[static_cast<int>(DType::kBF16)] = F32Panel<Columns<ColumnBf16>>;
  t.panel_f32[static_cast<int>(DType::kSFP8)] = F32Panel<Columns<ColumnSfp8>>;
  t.panel_f32[static_cast<int>(DType::kQ8_0)] = F32Panel<Q8_0F32>;
  t.panel_f32[static_cast<int>(DType::kQ4_0)] = F32Panel<Q4_0F32>;
  t.panel_f32[static_cast<int>(DType::kQ4_K)] = F32Panel<MinimaF32<Q4_K>>;
  t.panel_f32[static_cast<int>(DType::kQ5_K)] = F32Panel<MinimaF32<Q5_K>>;
  t.panel_f32[static_cast<int>(DType::kQ6_K)] = F32Panel<Q6_KF32>;
  t.panel_int8[static_cast<int>(DType::kQ8_0)] = Int8Panel<Q8_0Int8, 4>;
  t.panel_int8[static_cast<int>(DType::kQ6_K)] = Q6_KPanel;
  AddFinePanels(t);
  t.quantise = Quantise;
  t.gelu_mul = GeluMul;
  t.softcap = Softcap;
  t.add_scaled = AddScaled;
  t.mean_square = MeanSquare;
  t.scale_row = ScaleRow;
  t.add_scaled_row = AddScaledRow;
  t.add_two_rows = AddTwoRows;
  t.rotate = Rotate;
  t.to_bf16 = ToBf16;
  t.to_q8_0 = ToQ8_0;
  t.attend_chunk = Attend;
  t.merge_part = MergePart;
  t.max_logit = MaxLogit;
  t.sum_logits = SumLogits;
  t.next_above = NextAbove;
  return t;
}

}  // namespace
}  // namespace alphecca::kernels::cpu
