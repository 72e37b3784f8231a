# The shapes of our targets.

# alphecca_library(<name> SOURCES ... [DEPS ...]): static library alphecca_<name>, alias alphecca::<name>.
function(alphecca_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  if(ARG_SOURCES)
    add_library(alphecca_${name} STATIC ${ARG_SOURCES})
    target_link_libraries(alphecca_${name} PUBLIC alphecca_options ${ARG_DEPS})
  else()
    add_library(alphecca_${name} INTERFACE)
    target_link_libraries(alphecca_${name} INTERFACE alphecca_options ${ARG_DEPS})
  endif()
  add_library(alphecca::${name} ALIAS alphecca_${name})
endfunction()

# alphecca_binary(<name> SOURCES ... [DEPS ...]): an executable in bin/.
function(alphecca_binary name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE alphecca_options ${ARG_DEPS})
endfunction()

# alphecca_test(<name> SOURCES ... [DEPS ...] [LABELS ...] [TIMEOUT s]): a GoogleTest binary, registered with ctest as one
# test under its name; labels default to unit.
function(alphecca_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE alphecca_options ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE ALPHECCA_TEST_DATA="${PROJECT_SOURCE_DIR}/tests/data"
                                             ALPHECCA_MODELS="${PROJECT_SOURCE_DIR}/models")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/tests")
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
endfunction()
