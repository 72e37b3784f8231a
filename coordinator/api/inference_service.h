// Inference, the public service. Requests arrive as bytes and are parsed here, so that a malformed one is answered
// INVALID_ARGUMENT, not by the library's INTERNAL.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "alphecca/v1/inference.grpc.pb.h"
#include "coordinator/metrics.h"
#include "coordinator/request/served_model.h"
#include "coordinator/request/text_pool.h"
#include "coordinator/routing/admission.h"
#include "coordinator/routing/router.h"

namespace alphecca::coordinator {

// All must outlive the server that the service is registered with; the pool's threads too.
struct InferenceParts {
  const ModelCatalogue& models;
  const Router& router;
  Admission& admission;
  CoordinatorMetrics& metrics;
  TextPool& pool;
  const std::map<std::string, double>& tenant_weights;  // of tenants that are not named: 1
  std::function<uint64_t()> random;                     // thread-safe: seeds and request ids
};

template <typename Base>
using RawInference = v1::Inference::WithRawCallbackMethod_Generate<v1::Inference::WithRawCallbackMethod_Chat<
    v1::Inference::WithRawCallbackMethod_Tokenize<v1::Inference::WithRawCallbackMethod_Detokenize<
        v1::Inference::WithRawCallbackMethod_ListModels<v1::Inference::WithRawCallbackMethod_GetModel<Base>>>>>>;

class InferenceService final : public RawInference<v1::Inference::Service> {
 public:
  explicit InferenceService(InferenceParts parts) : parts_(std::move(parts)) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Chat(grpc::CallbackServerContext* context,
                                                   const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;

 private:
  v1::Model Describe(const ServedModel& model) const;

  const InferenceParts parts_;
  std::atomic<uint64_t> next_sequence_{1};  // relaxed: only uniqueness matters
};

}  // namespace alphecca::coordinator
