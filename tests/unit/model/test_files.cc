#include "test_files.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "gtest/gtest.h"

namespace alphecca::model {
namespace {

std::vector<std::string> CasesWith(const std::string& folder, const std::string& file) {
  std::vector<std::string> names;
  const std::filesystem::path root = std::filesystem::path(ALPHECCA_TEST_DATA) / "goldens" / folder;
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    if (std::filesystem::exists(entry.path() / file)) {
      names.push_back((std::filesystem::path(folder) / entry.path().filename()).string());
    }
  }
  std::sort(names.begin(), names.end());
  EXPECT_FALSE(names.empty()) << root;
  return names;
}

}  // namespace

std::string GoldenDir(std::string_view name) {
  return std::string(ALPHECCA_TEST_DATA "/goldens/") + std::string(name);
}
std::vector<std::string> SafetensorsCases() {
  return CasesWith("", "config.json");
}
std::vector<std::string> GgufCases() {
  return CasesWith("gguf", "model.gguf");
}

std::string ReadFile(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  EXPECT_TRUE(stream.good()) << path;
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

void WriteFile(const std::string& path, std::string_view bytes) {
  std::ofstream stream(path, std::ios::binary);
  stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(stream.good()) << path;
}

TempDir::TempDir() {
  path_ = ::testing::TempDir() + "alphecca-model-XXXXXX";
  EXPECT_NE(::mkdtemp(path_.data()), nullptr);
}

TempDir::~TempDir() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
}

std::string GgufText(std::string_view text) {
  return Le<uint64_t>(text.size()) + std::string(text);
}

GgufBuilder& GgufBuilder::Raw(std::string_view key, uint32_t type, std::string_view payload) {
  ++value_count_;
  values_ += GgufText(key) + Le(type) + std::string(payload);
  return *this;
}
GgufBuilder& GgufBuilder::U32(std::string_view key, uint32_t value) {
  return Raw(key, 4, Le(value));
}
GgufBuilder& GgufBuilder::F32(std::string_view key, float value) {
  return Raw(key, 6, Le(value));
}
GgufBuilder& GgufBuilder::Bool(std::string_view key, bool value) {
  return Raw(key, 7, value ? "\1" : std::string_view("\0", 1));
}
GgufBuilder& GgufBuilder::String(std::string_view key, std::string_view value) {
  return Raw(key, 8, GgufText(value));
}

GgufBuilder& GgufBuilder::Strings(std::string_view key, const std::vector<std::string>& values) {
  std::string payload = Le<uint32_t>(8) + Le<uint64_t>(values.size());
  for (const std::string& value : values) {
    payload += GgufText(value);
  }
  return Raw(key, 9, payload);
}

GgufBuilder& GgufBuilder::U32s(std::string_view key, const std::vector<uint32_t>& values) {
  std::string payload = Le<uint32_t>(4) + Le<uint64_t>(values.size());
  for (const uint32_t value : values) {
    payload += Le(value);
  }
  return Raw(key, 9, payload);
}

GgufBuilder& GgufBuilder::Tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                                 std::string_view data) {
  data_.resize((data_.size() + alignment - 1) / alignment * alignment, '\0');
  TensorAt(name, dims, type, data_.size());
  data_ += data;
  return *this;
}

GgufBuilder& GgufBuilder::TensorAt(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                                   uint64_t offset) {
  ++tensor_count_;
  infos_ += GgufText(name) + Le(static_cast<uint32_t>(dims.size()));
  for (const uint64_t size : dims) {
    infos_ += Le(size);
  }
  infos_ += Le(type) + Le(offset);
  return *this;
}

std::string GgufBuilder::header() const {
  return "GGUF" + Le(version) + Le(tensor_count_ + extra_tensors) + Le(value_count_ + extra_values) + values_ + infos_;
}

std::string GgufBuilder::bytes() const {
  std::string result = header();
  result.resize((result.size() + alignment - 1) / alignment * alignment, '\0');
  return result + data_;
}

std::string Safetensors(std::string_view header, size_t data_bytes) {
  return Le<uint64_t>(header.size()) + std::string(header) + std::string(data_bytes, '\0');
}

}  // namespace alphecca::model
