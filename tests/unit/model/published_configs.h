// Configurations of the published models, written from spec gemma4-models section 1.
#pragma once

#include <string>

namespace alphecca::model {

enum class Published { kE2B, kE4B, k26B, k31B, k12B };

// The text of its config.json, with tower configurations that text models ignore.
std::string PublishedConfig(Published model);

}  // namespace alphecca::model
