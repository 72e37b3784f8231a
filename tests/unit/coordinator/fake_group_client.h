// A scripted shard group: records what is opened, and the test says what the engine answers.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/routing/group_client.h"

namespace alphecca::coordinator {

class FakeGroupClient : public GroupClient {
 public:
  absl::Status Open(SequenceSpec spec, std::shared_ptr<SequenceSink> sink) override {
    if (!is_connected) {
      return absl::UnavailableError("not connected");
    }
    opened.emplace_back(std::move(spec), std::move(sink));
    return absl::OkStatus();
  }
  void Cancel(SequenceId id) override { cancelled.push_back(id); }
  void Credit(SequenceId id, int32_t tokens) override { credits[id] += tokens; }
  GroupLoad load() const override {
    return {.open = open, .running = running, .waiting = waiting, .queued_tokens = queued_tokens};
  }
  bool connected() const override { return is_connected; }
  int64_t context() const override { return context_tokens; }
  std::shared_ptr<const PrefixIndex::Holder> prefixes() const override { return holder; }
  const std::string& fingerprint() const override { return print; }

  // The engine's answer for the i-th opened sequence.
  void Tokens(size_t i, std::vector<int32_t> ids) {
    SequenceEvent e;
    e.ids = std::move(ids);
    Send(i, std::move(e));
  }
  void End(size_t i, Finish finish, std::vector<int32_t> ids = {}) {
    SequenceEvent e;
    e.ids = std::move(ids);
    e.finish = finish;
    Send(i, std::move(e));
  }
  void Fail(size_t i, absl::Status error) {
    SequenceEvent e;
    e.error = std::move(error);
    Send(i, std::move(e));
  }
  void Send(size_t i, SequenceEvent event) {
    const auto sink = opened.at(i).second;
    sink->OnEvent(opened.at(i).first.sample, std::move(event));
  }

  std::vector<std::pair<SequenceSpec, std::shared_ptr<SequenceSink>>> opened;
  std::vector<SequenceId> cancelled;
  std::map<SequenceId, int64_t> credits;
  int32_t open = 0;
  int32_t running = 0;
  int32_t waiting = 0;
  int64_t queued_tokens = 0;
  std::shared_ptr<const PrefixIndex::Holder> holder;  // null: says nothing of its cache
  bool is_connected = true;
  int64_t context_tokens = 0;
  std::string print = "fake";
};

}  // namespace alphecca::coordinator
