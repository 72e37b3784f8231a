// One run of an op case on one backend: makes inputs from a fixed seed, keeps them alive, collects outputs. Two
// backends given the same case see the same inputs, bit for bit.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace alphecca::kernels {

// What an op wrote, with how far from the reference it may be: |got - want| <= relative * max(nominal, largest
// magnitude of the row). relative 0: the same value.
struct OpOutput {
  std::string name;
  std::vector<float> values;
  int64_t cols = 1;
  double relative = 0.0;
  double nominal = 1.0;
};

class OpRun {
 public:
  OpRun(Backend& backend, uint32_t seed) : backend_(backend), stream_(backend.CreateStream()), random_(seed) {}

  Backend& backend() { return backend_; }
  Stream& stream() { return *stream_; }
  std::mt19937& random() { return random_; }
  int Uniform(int low, int high) { return low + static_cast<int>(random_() % static_cast<uint32_t>(high - low + 1)); }

  std::vector<float> Normal(int64_t count, double sigma = 1.0, double mean = 0.0);
  // A tensor [rows, cols] whose rows lie `pad` elements further apart than they must, the padding marked.
  Tensor Put(const std::vector<float>& values, int64_t rows, int64_t cols, int pad = 0);
  Tensor PutInts(const std::vector<int32_t>& values, int64_t rows, int64_t cols);
  Tensor Random(int64_t rows, int64_t cols, int pad = 0, double sigma = 1.0);
  Tensor Empty(int64_t rows, int64_t cols, int pad = 0);  // marked all over
  Tensor EmptyInts(int64_t rows, int64_t cols);
  const Buffer* Floats(const std::vector<float>& values);

  // Weights of standard deviation cols^-1/2, so that products of unit activations are of unit size.
  const Matrix& Weights(int64_t items, int64_t rows, int64_t cols, DType type);
  // Encoded random rows of any decodable type, alive as long as the run.
  HostTensor Encoded(int64_t items, int64_t rows, int64_t cols, DType type);
  // Scales of rows in [0.5, 3.5), alive as long as the run.
  const float* Scales(int64_t rows);
  const Matrix& Packed(const std::vector<PackSource>& sources, DType type);

  KvPool* Pool(const KvPoolSpec& spec);
  const Step& Upload(const StepInput& input, KvPool* full, KvPool* sliding);

  // The values of a tensor; also asserts (as an output that must be equal) that nothing wrote between rows.
  void Collect(const std::string& name, const Tensor& tensor, double relative, double nominal = 1.0);
  void CollectBytes(const std::string& name, const void* device, int64_t bytes);
  void CollectValues(OpOutput output) { outputs_.push_back(std::move(output)); }
  std::vector<float> Get(const Tensor& tensor);  // rows without padding

  std::vector<OpOutput> TakeOutputs() { return std::move(outputs_); }

 private:
  Buffer& Allocate(int64_t bytes);

  Backend& backend_;
  std::unique_ptr<Stream> stream_;
  std::mt19937 random_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::vector<std::unique_ptr<Matrix>> matrices_;
  std::vector<std::unique_ptr<KvPool>> pools_;
  std::vector<std::unique_ptr<Step>> steps_;
  std::vector<std::unique_ptr<std::vector<std::byte>>> files_;
  std::vector<std::unique_ptr<std::vector<float>>> scales_;
  std::vector<OpOutput> outputs_;
};

// Error of an F32 sum of n products of unit size, in any order: n roundings of 2^-24, with room for the functions
// (exp, tanh, division) around it.
double SumTolerance(int64_t n);
// The same, where the backend may round activations to 8 bits in blocks of 32 against this type: steps of a block's
// largest magnitude (3 to 4 sigma) / 127, uniform error, six standard deviations.
double ProductTolerance(const Backend& backend, DType type, int64_t n);

}  // namespace alphecca::kernels
