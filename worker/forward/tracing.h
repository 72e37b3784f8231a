// A Backend and a Communicator that do what another one does and write a span for each op and collective.
//
// Each op is waited for before its span ends, so that on a device spans are the ops' own; a traced run is slower than
// an untraced one by as much as the device would have overlapped.
#pragma once

#include <memory>

#include "kernels/backend.h"
#include "worker/comm/communicator.h"
#include "worker/forward/trace.h"

namespace alphecca::forward {

// `inner` and `trace` must outlive the result.
std::unique_ptr<kernels::Backend> TraceBackend(kernels::Backend& inner, TraceFile& trace, int rank);
std::unique_ptr<comm::Communicator> TraceCommunicator(comm::Communicator& inner, TraceFile& trace);

}  // namespace alphecca::forward
