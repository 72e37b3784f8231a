// Messages to and from the bytes of a raw gRPC method.
#pragma once

#include <google/protobuf/message_lite.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/byte_buffer.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace alphecca::coordinator {

template <typename Message>
absl::Status ParseRequest(const grpc::ByteBuffer& bytes, Message& message) {
  if (!bytes.Valid()) {
    return absl::CancelledError("the call ended before its request had come");
  }
  grpc::ByteBuffer copy(bytes);  // reading consumes; the copy shares the slices
  if (!grpc::GenericDeserialize<grpc::ProtoBufferReader, Message>(&copy, &message).ok()) {
    return absl::InvalidArgumentError(absl::StrCat("the request is not a valid ", Message::descriptor()->full_name(),
                                                   ": broken encoding, or a string that is not UTF-8"));
  }
  return absl::OkStatus();
}

template <typename Message>
grpc::ByteBuffer SerializeResponse(const Message& message) {
  grpc::ByteBuffer bytes;
  bool own = false;
  grpc::GenericSerialize<grpc::ProtoBufferWriter, Message>(message, &bytes, &own);
  return bytes;
}

}  // namespace alphecca::coordinator
