# A coordinator and workers as real processes, asked by a Python client of generated stubs.
foreach(test cluster_e2e_test cluster_loss_test)
  add_test(NAME ${test}
           COMMAND "${PROJECT_SOURCE_DIR}/.venv/bin/python" "${CMAKE_CURRENT_SOURCE_DIR}/${test}.py"
                   --bin "$<TARGET_FILE_DIR:alphecca-coordinator>" --model "${PROJECT_SOURCE_DIR}/models/tiny-moe"
                   --proto "${PROJECT_SOURCE_DIR}/proto" --google "${ALPHECCA_GOOGLEAPIS_DIR}"
                   --stubs "${CMAKE_CURRENT_BINARY_DIR}/${test}_stubs")
  set_tests_properties(${test} PROPERTIES LABELS integration TIMEOUT 400)
endforeach()

# The coordinator's streams against the workers' service.
alphecca_test(prefix_routing_test SOURCES prefix_routing_test.cc DEPS alphecca::worker_rpc alphecca::coordinator_rpc
              LABELS integration)

# The same on hosts of their own: network namespaces, which this needs the right to make.
add_test(NAME netns_test
         COMMAND "${PROJECT_SOURCE_DIR}/.venv/bin/python" "${CMAKE_CURRENT_SOURCE_DIR}/netns_test.py"
                 --bin "$<TARGET_FILE_DIR:alphecca-coordinator>" --models "${PROJECT_SOURCE_DIR}/models"
                 --proto "${PROJECT_SOURCE_DIR}/proto" --google "${ALPHECCA_GOOGLEAPIS_DIR}"
                 --stubs "${CMAKE_CURRENT_BINARY_DIR}/netns_stubs")
set_tests_properties(netns_test PROPERTIES LABELS integration TIMEOUT 120)
