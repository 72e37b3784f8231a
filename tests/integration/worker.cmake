# Worker processes under a coordinator that the test plays.
alphecca_test(worker_test SOURCES worker_test.cc
              DEPS alphecca::proto_grpc alphecca::model nlohmann_json::nlohmann_json absl::synchronization absl::time
              LABELS integration TIMEOUT 300)
target_compile_definitions(worker_test PRIVATE ALPHECCA_WORKER="$<TARGET_FILE:alphecca-worker>")
add_dependencies(worker_test alphecca-worker)
