// The published Gemma 4 models, whose shapes are known without a file. Source: spec gemma4-models, section 1; of the
// 12B, which has no column there, the line below it. Its RoPE, softcap and vocabulary, which that line leaves open, are
// those of the 31B, whose form it has; its count of parameters, 11,907,350,320, bears out the shapes.
#pragma once

#include <array>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "model/config.h"

namespace alphecca::model {

enum class Published { kE2B, kE4B, k12B, k26B, k31B };
inline constexpr std::array kAllPublished = {Published::kE2B, Published::kE4B, Published::k12B, Published::k26B,
                                             Published::k31B};

// "e2b", "e4b", "12b", "26b-a4b", "31b".
std::string_view PublishedName(Published model);
// InvalidArgument, with the names there are.
absl::StatusOr<Published> ParsePublished(std::string_view name);

// The text of its config.json, with tower configurations that text models ignore.
std::string PublishedConfigJson(Published model);
// The same, read.
absl::StatusOr<ModelConfig> PublishedConfig(Published model);

}  // namespace alphecca::model
