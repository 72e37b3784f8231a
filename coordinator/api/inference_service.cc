#include "coordinator/api/inference_service.h"

#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "coordinator/api/generation_reactor.h"
#include "coordinator/api/messages.h"
#include "coordinator/api/wire.h"
#include "coordinator/rpc/convert.h"

namespace alphecca::coordinator {
namespace {

constexpr absl::Duration kRetryAfter = absl::Seconds(1);

absl::Status Busy() {
  return RetryLater("too many requests are waiting to be prepared", kRetryAfter);
}

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  return deadline == std::chrono::system_clock::time_point::max() ? absl::InfiniteFuture() : absl::FromChrono(deadline);
}

// Tokens that a request may have now, whichever group it goes to.
int64_t ContextOf(const ServedModel& model, const Router& router) {
  return router.Context(model.spec().name, model.limits().context);
}

absl::StatusOr<GenerationPlan> MakePlan(const ServedModel& model, const v1::GenerateRequest& request, int64_t context,
                                        uint64_t random) {
  ASSIGN_OR_RETURN(const GenerateInput input, FromProto(request));
  return model.PlanGenerate(input, context, random);
}
absl::StatusOr<GenerationPlan> MakePlan(const ServedModel& model, const v1::ChatRequest& request, int64_t context,
                                        uint64_t random) {
  ASSIGN_OR_RETURN(const ChatInput input, FromProto(request));
  return model.PlanChat(input, context, random);
}

v1::GenerateEvent ToEvent(const v1::GenerateRequest*, GenerationEvent event, const EventContext& context) {
  return ToGenerateEvent(std::move(event), context);
}
v1::ChatEvent ToEvent(const v1::ChatRequest*, GenerationEvent event, const EventContext& context) {
  return ToChatEvent(std::move(event), context);
}

int SequencesOf(const v1::GenerationOptions& options) {
  return options.has_n() ? std::clamp(options.n(), 1, kMaxSamples) : 1;
}

absl::StatusOr<Route> PickRoute(const InferenceParts& parts, const std::string& model, const GenerationPlan& plan) {
  RouteRequest request{.model = model, .tenant = plan.options.tenant};
  if (plan.options.prompt_logprobs < 0) {  // else every token of the prompt is computed, whatever is cached
    request.prompt = plan.prompt;
  }
  ASSIGN_OR_RETURN(Route route, parts.router.Pick(request));
  const CoordinatorMetrics::Model& metrics = parts.metrics.ForModel(model);
  (route.cached_tokens > 0 ? metrics.routed_to_prefix : metrics.routed_without_prefix)->Increment();
  metrics.expected_cached_tokens->Increment(static_cast<double>(route.cached_tokens));
  return route;
}

// A request from its bytes to sequences that can be opened. Runs on a text thread.
template <typename Request>
absl::StatusOr<PreparedGeneration> Prepare(const InferenceParts& parts, std::atomic<uint64_t>& next_sequence,
                                           const grpc::ByteBuffer& bytes, absl::Time deadline, std::string& model_name,
                                           std::function<void()> wake) {
  Request request;
  RETURN_IF_ERROR(ParseRequest(bytes, request));
  ASSIGN_OR_RETURN(const ServedModel* model, parts.models.Find(request.model()));
  model_name = model->spec().name;
  const std::string tenant = request.options().tenant().empty() ? "default" : request.options().tenant();
  PreparedGeneration prepared;
  ASSIGN_OR_RETURN(prepared.ticket,
                   parts.admission.Admit(tenant, SequencesOf(request.options()), static_cast<int64_t>(bytes.Length())));
  ASSIGN_OR_RETURN(GenerationPlan plan, MakePlan(*model, request, ContextOf(*model, parts.router), parts.random()));
  if (deadline <= absl::Now()) {
    return absl::DeadlineExceededError("the deadline passed before the request could start");
  }
  plan.deadline = deadline;
  if (const auto weight = parts.tenant_weights.find(plan.options.tenant); weight != parts.tenant_weights.end()) {
    plan.tenant_weight = weight->second;
  }
  ASSIGN_OR_RETURN(const Route route, PickRoute(parts, model_name, plan));
  plan.expected_cached = route.cached_tokens;
  const SequenceId first(next_sequence.fetch_add(static_cast<uint64_t>(plan.options.n), std::memory_order_relaxed));
  auto generation = std::make_shared<Generation>(std::move(plan), route.group, first, std::move(wake));
  prepared.generation = generation;
  prepared.serialize = [generation = generation.get(), model](GenerationEvent event) {
    const EventContext context{*model, generation->options(), generation->fingerprint()};
    return SerializeResponse(ToEvent(static_cast<const Request*>(nullptr), std::move(event), context));
  };
  return prepared;
}

// What is measured of one generation request.
struct RequestRecord {
  absl::Time arrived = absl::Now();
  absl::Time prepared = absl::InfiniteFuture();
  std::string model;  // empty until known
};

void Record(CoordinatorMetrics& metrics, const char* method, const RequestRecord& record, const absl::Status& status,
            const Generation* generation) {
  metrics.CountRequest(method, CodeName(status.code()));
  if (generation == nullptr) {
    return;
  }
  CoordinatorMetrics::Model& m = metrics.ForModel(record.model);
  m.open_requests->Add(-1);
  m.preparation->Observe(absl::ToDoubleSeconds(record.prepared - record.arrived));
  m.request_duration->Observe(absl::ToDoubleSeconds(absl::Now() - record.arrived));
  const TokenUsage usage = generation->usage();
  m.prompt_tokens->Increment(usage.prompt_tokens);
  m.cached_tokens->Increment(usage.cached_tokens);
  m.output_tokens->Increment(usage.completion_tokens);
  const GenerationTimes times = generation->times();
  m.broken_tool_calls->Increment(times.broken_calls);
  if (times.first_token) {
    m.time_to_first_token->Observe(absl::ToDoubleSeconds(*times.first_token - record.arrived));
  }
  for (const absl::Duration gap : times.per_token) {
    m.time_per_output_token->Observe(absl::ToDoubleSeconds(gap));
  }
}

template <typename Request>
grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGeneration(const InferenceParts& parts,
                                                            std::atomic<uint64_t>& next_sequence, const char* method,
                                                            const grpc::CallbackServerContext& context,
                                                            const grpc::ByteBuffer& bytes) {
  const auto record = std::make_shared<RequestRecord>();
  const std::shared_ptr<GenerationReactor> reactor =
      GenerationReactor::Create([&parts, method, record](const absl::Status& status, const Generation* generation) {
        Record(parts.metrics, method, *record, status, generation);
      });
  // Kept by the request until its call ends, so the raw pointer that gRPC needs stays good.
  const auto work = [&parts, &next_sequence, reactor, record, bytes, deadline = DeadlineOf(context)] {
    if (reactor->cancelled()) {
      reactor->Run(absl::CancelledError("the client cancelled"));
      return;
    }
    absl::StatusOr<PreparedGeneration> prepared =
        Prepare<Request>(parts, next_sequence, bytes, deadline, record->model, [weak = std::weak_ptr(reactor)] {
          if (const auto live = weak.lock()) {
            live->Pump();
          }
        });
    if (prepared.ok()) {
      record->prepared = absl::Now();
      parts.metrics.ForModel(record->model).open_requests->Add(1);
    }
    reactor->Run(std::move(prepared));
  };
  if (!parts.pool.TryRun(work)) {
    reactor->Run(Busy());
  }
  return reactor.get();
}

// A unary method on a text thread.
template <typename Request, typename Handler>
grpc::ServerUnaryReactor* RunUnary(const InferenceParts& parts, const char* method,
                                   grpc::CallbackServerContext* context, const grpc::ByteBuffer& bytes,
                                   grpc::ByteBuffer* response, Handler handler) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const auto finish = [&parts, method, reactor](const absl::Status& status) {
    parts.metrics.CountRequest(method, CodeName(status.code()));
    reactor->Finish(ToGrpc(status));
  };
  const auto work = [finish, bytes, response, handler] {
    Request request;
    absl::Status status = ParseRequest(bytes, request);
    if (status.ok()) {
      auto answer = handler(request);
      status = answer.status();
      if (status.ok()) {
        *response = SerializeResponse(*answer);
      }
    }
    finish(status);
  };
  if (!parts.pool.TryRun(work)) {
    finish(Busy());
  }
  return reactor;
}

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* InferenceService::Generate(grpc::CallbackServerContext* context,
                                                                       const grpc::ByteBuffer* request) {
  return StartGeneration<v1::GenerateRequest>(parts_, next_sequence_, "Generate", *context, *request);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* InferenceService::Chat(grpc::CallbackServerContext* context,
                                                                   const grpc::ByteBuffer* request) {
  return StartGeneration<v1::ChatRequest>(parts_, next_sequence_, "Chat", *context, *request);
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
  return RunUnary<v1::TokenizeRequest>(parts_, "Tokenize", context, *request, response,
                                       [this](const v1::TokenizeRequest& r) -> absl::StatusOr<v1::TokenizeResponse> {
                                         ASSIGN_OR_RETURN(const ServedModel* model, parts_.models.Find(r.model()));
                                         Violations violations;
                                         CheckTextSize(r.text().size(), "text", violations);
                                         RETURN_IF_ERROR(violations.ToStatus());
                                         ASSIGN_OR_RETURN(const std::vector<int32_t> ids, model->Tokenize(r.text()));
                                         v1::TokenizeResponse answer;
                                         answer.mutable_ids()->Add(ids.begin(), ids.end());
                                         return answer;
                                       });
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
  return RunUnary<v1::DetokenizeRequest>(
      parts_, "Detokenize", context, *request, response,
      [this](const v1::DetokenizeRequest& r) -> absl::StatusOr<v1::DetokenizeResponse> {
        ASSIGN_OR_RETURN(const ServedModel* model, parts_.models.Find(r.model()));
        const std::vector<int32_t> ids(r.ids().begin(), r.ids().end());
        Violations violations;
        CheckIds(ids, model->limits().vocabulary, "ids", violations);
        RETURN_IF_ERROR(violations.ToStatus());
        v1::DetokenizeResponse answer;
        ASSIGN_OR_RETURN(*answer.mutable_text(), model->Detokenize(ids));
        return answer;
      });
}

grpc::ServerUnaryReactor* InferenceService::ListModels(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
  return RunUnary<v1::ListModelsRequest>(
      parts_, "ListModels", context, *request, response,
      [this](const v1::ListModelsRequest&) -> absl::StatusOr<v1::ListModelsResponse> {
        v1::ListModelsResponse answer;
        for (const auto& model : parts_.models.all()) {
          *answer.add_models() = Describe(*model);
        }
        return answer;
      });
}

grpc::ServerUnaryReactor* InferenceService::GetModel(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
  return RunUnary<v1::GetModelRequest>(parts_, "GetModel", context, *request, response,
                                       [this](const v1::GetModelRequest& r) -> absl::StatusOr<v1::Model> {
                                         ASSIGN_OR_RETURN(const ServedModel* model, parts_.models.Find(r.name()));
                                         return Describe(*model);
                                       });
}

v1::Model InferenceService::Describe(const ServedModel& model) const {
  v1::Model out;
  out.set_name(model.spec().name);
  out.set_context(ContextOf(model, parts_.router));
  out.set_vocabulary(model.limits().vocabulary);
  out.set_family(model.family());
  out.set_chat(model.chat());
  out.set_revision(model.spec().revision);
  if (const auto route = parts_.router.Pick({.model = model.spec().name}); route.ok()) {
    out.set_ready(true);
    out.set_fingerprint(route->group->fingerprint());
  }
  return out;
}

}  // namespace alphecca::coordinator
