# The command line as a person and a script use it.
add_test(NAME hub_test COMMAND "${PROJECT_SOURCE_DIR}/.venv/bin/python" "${CMAKE_CURRENT_SOURCE_DIR}/hub_test.py"
                               "$<TARGET_FILE_DIR:alphecca>")
add_test(NAME cli_test COMMAND "${PROJECT_SOURCE_DIR}/.venv/bin/python" "${CMAKE_CURRENT_SOURCE_DIR}/cli_test.py"
                               "$<TARGET_FILE_DIR:alphecca>" "${PROJECT_SOURCE_DIR}")
set_tests_properties(hub_test cli_test PROPERTIES LABELS integration TIMEOUT 300)
