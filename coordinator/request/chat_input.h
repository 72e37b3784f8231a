// A chat request from its wire form to the chat formats' own, with everything checked that a server must refuse.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/request/served_model.h"
#include "text/chat_format.h"

namespace alphecca::coordinator {

// InvalidArgument with field violations; the generation options are checked too.
absl::StatusOr<text::ChatRequest> ReadChat(const ChatInput& input, text::ChatFormat format);

// An InvalidArgument "messages[2]: what is wrong" as a violation of that field, of `field` if the message names none.
// Other codes stay.
absl::Status AsViolation(const absl::Status& status, const std::string& field);

}  // namespace alphecca::coordinator
