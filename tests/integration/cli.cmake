# The command line as a person and a script use it.
foreach(name hub_test cli_test plan_test real_model_test)
  add_test(NAME ${name} COMMAND "${PROJECT_SOURCE_DIR}/.venv/bin/python" "${CMAKE_CURRENT_SOURCE_DIR}/${name}.py"
                                "$<TARGET_FILE_DIR:alphecca>" "${PROJECT_SOURCE_DIR}")
  set_tests_properties(${name} PROPERTIES LABELS integration TIMEOUT 300)
endforeach()

# The benchmark programs on tiny models: their counting, output and failures.
if(TARGET step_bench)
  add_test(NAME bench_test COMMAND "${PROJECT_SOURCE_DIR}/.venv/bin/python" "${CMAKE_CURRENT_SOURCE_DIR}/bench_test.py"
                                   "$<TARGET_FILE_DIR:step_bench>" "${PROJECT_SOURCE_DIR}")
  set_tests_properties(bench_test PROPERTIES LABELS integration TIMEOUT 400)
endif()

# Everything at once, for a short while.
add_test(NAME soak_test COMMAND "${PROJECT_SOURCE_DIR}/.venv/bin/python" "${PROJECT_SOURCE_DIR}/bench/soak.py" --minutes 0.3
                                --bin "$<TARGET_FILE_DIR:alphecca>")
set_tests_properties(soak_test PROPERTIES LABELS integration TIMEOUT 400)
