// The world of one: every collective is already done.
#pragma once

#include <memory>

#include "worker/comm/communicator.h"

namespace alphecca::comm {

std::unique_ptr<Communicator> CreateSolo();

}  // namespace alphecca::comm
