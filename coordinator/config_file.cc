#include "coordinator/config_file.h"

#include <yaml-cpp/yaml.h>

#include <fstream>
#include <functional>
#include <map>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace alphecca::coordinator {
namespace {

absl::Status At(const YAML::Node& node, const std::string& message) {
  return absl::InvalidArgumentError(absl::StrCat("line ", node.Mark().line + 1, ": ", message));
}

// A number, or "auto": 0.
template <typename Number>
absl::Status ReadNumber(const YAML::Node& value, const std::string& key, bool automatic, Number& to) {
  if (automatic && value.IsScalar() && value.Scalar() == "auto") {
    to = 0;
    return absl::OkStatus();
  }
  Number number = 0;
  if (!value.IsScalar() || !YAML::convert<Number>::decode(value, number) || number < 1) {
    return At(value, absl::StrCat(key, ": want a whole number above 0", automatic ? " or auto" : ""));
  }
  to = number;
  return absl::OkStatus();
}

absl::Status ReadText(const YAML::Node& value, const std::string& key, std::string& to) {
  if (!value.IsScalar() || value.Scalar().empty()) {
    return At(value, absl::StrCat(key, ": want a text"));
  }
  to = value.Scalar();
  return absl::OkStatus();
}

absl::Status ReadFlag(const YAML::Node& value, const std::string& key, bool& to) {
  if (!value.IsScalar() || !YAML::convert<bool>::decode(value, to)) {
    return At(value, absl::StrCat(key, ": want true or false"));
  }
  return absl::OkStatus();
}

absl::Status ReadOnLoss(const YAML::Node& value, OnLoss& to) {
  const std::string text = value.IsScalar() ? value.Scalar() : "";
  if (text != "wait" && text != "replan") {
    return At(value, "on_loss: want wait or replan");
  }
  to = text == "wait" ? OnLoss::kWait : OnLoss::kReplan;
  return absl::OkStatus();
}

absl::Status ReadKey(const YAML::Node& key_node, const YAML::Node& value, ServeOptions& model) {
  const std::string key = key_node.IsScalar() ? key_node.Scalar() : "";
  const std::map<std::string, std::function<absl::Status()>> readers = {
      {"name", [&] { return ReadText(value, key, model.name); }},
      {"path", [&] { return ReadText(value, key, model.path); }},
      {"weights", [&] { return ReadText(value, key, model.weights); }},
      {"resident_tables", [&] { return ReadFlag(value, key, model.resident_tables); }},
      {"activations", [&] { return ReadText(value, key, model.activations); }},
      {"kv_type", [&] { return ReadText(value, key, model.kv_type); }},
      {"tp", [&] { return ReadNumber(value, key, true, model.tp); }},
      {"ep", [&] { return ReadNumber(value, key, true, model.ep); }},
      {"expert_mode", [&] { return ReadText(value, key, model.expert_mode); }},
      {"expert_load", [&] { return ReadText(value, key, model.expert_load); }},
      {"hot_experts", [&] { return ReadNumber(value, key, true, model.hot_experts); }},
      {"replicas", [&] { return ReadNumber(value, key, true, model.replicas); }},
      {"context", [&] { return ReadNumber(value, key, false, model.context); }},
      {"max_sequences", [&] { return ReadNumber(value, key, false, model.max_sequences); }},
      {"on_loss", [&] { return ReadOnLoss(value, model.on_loss); }}};
  if (const auto it = readers.find(key); it != readers.end()) {
    return it->second();
  }
  return At(key_node, absl::StrCat("unknown key \"", key,
                                   "\"; a model has path, name, tp, ep, expert_mode, expert_load, "
                                   "hot_experts, replicas, on_loss, context, max_sequences, "
                                   "kv_type, weights, resident_tables, activations"));
}

absl::StatusOr<std::vector<ServeOptions>> ReadModels(const YAML::Node& root, const ServeOptions& defaults) {
  const YAML::Node list = root["models"];
  if (!list.IsSequence() || list.size() == 0) {
    return At(root, "models: want a list of at least one model");
  }
  std::vector<ServeOptions> models;
  for (const YAML::Node& item : list) {
    if (!item.IsMap()) {
      return At(item, "models: each is a map with at least path");
    }
    ServeOptions model = defaults;
    for (const auto& entry : item) {
      RETURN_IF_ERROR(ReadKey(entry.first, entry.second, model));
    }
    if (model.path.empty()) {
      return At(item, "a model has no path");
    }
    models.push_back(std::move(model));
  }
  return models;
}

absl::StatusOr<TenantWeight> ReadTenant(const YAML::Node& name, const YAML::Node& tenant) {
  if (!name.IsScalar() || !tenant.IsMap() || tenant.size() != 1 || !tenant["weight"]) {
    return At(name, "tenants: each is a name with one key, weight");
  }
  double weight = 0;
  if (const YAML::Node value = tenant["weight"]; !value.IsScalar() || !YAML::convert<double>::decode(value, weight)) {
    return At(value, "weight: want a number");
  }
  return TenantWeight(name.Scalar(), weight);
}

absl::StatusOr<std::vector<TenantWeight>> ReadTenants(const YAML::Node& tenants) {
  if (!tenants.IsMap()) {
    return At(tenants, "tenants: want a map from names to their weight");
  }
  std::vector<TenantWeight> weights;
  for (const auto& entry : tenants) {
    ASSIGN_OR_RETURN(TenantWeight weight, ReadTenant(entry.first, entry.second));
    weights.push_back(std::move(weight));
  }
  return weights;
}

absl::StatusOr<ClusterConfig> ReadRoot(const YAML::Node& root, const ServeOptions& defaults) {
  if (!root.IsMap()) {
    return absl::InvalidArgumentError("want a map with the key models");
  }
  for (const auto& entry : root) {
    if (!entry.first.IsScalar() || (entry.first.Scalar() != "models" && entry.first.Scalar() != "tenants")) {
      return At(entry.first, "unknown key; there are models and tenants");
    }
  }
  ClusterConfig config;
  if (root["models"] || !root["tenants"]) {  // models may all come from flags
    ASSIGN_OR_RETURN(config.models, ReadModels(root, defaults));
  }
  if (const YAML::Node tenants = root["tenants"]) {
    ASSIGN_OR_RETURN(config.tenant_weights, ReadTenants(tenants));
  }
  return config;
}

}  // namespace

absl::StatusOr<ClusterConfig> ParseClusterConfig(const std::string& yaml, const ServeOptions& defaults) {
  try {
    return ReadRoot(YAML::Load(yaml), defaults);
  } catch (const YAML::Exception& e) {
    return absl::InvalidArgumentError(absl::StrCat("line ", e.mark.line + 1, ": no YAML: ", e.msg));
  }
}

absl::StatusOr<ClusterConfig> ReadClusterConfig(const std::string& path, const ServeOptions& defaults) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file.is_open() || !(text << file.rdbuf())) {
    return absl::NotFoundError(absl::StrCat(path, ": cannot be read, or is empty"));
  }
  absl::StatusOr<ClusterConfig> config = ParseClusterConfig(text.str(), defaults);
  if (!config.ok()) {
    return absl::Status(config.status().code(), absl::StrCat(path, ": ", config.status().message()));
  }
  return config;
}

}  // namespace alphecca::coordinator
