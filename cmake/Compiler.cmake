# Language level, warnings, sanitizers: one interface target that every library of ours links.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g1 -DNDEBUG")

option(ALPHECCA_WERROR "Treat warnings as errors" OFF)
set(ALPHECCA_SANITIZE "" CACHE STRING "Sanitizers for -fsanitize=, e.g. address,undefined or thread")

add_library(alphecca_options INTERFACE)
target_compile_options(alphecca_options INTERFACE -Wall -Wextra -Wshadow -fno-math-errno)
# Floating point means what the source says: contraction into FMA happens only where a kernel asks for it, so that the
# same expression gives the same bits wherever it is compiled.
target_compile_options(alphecca_options INTERFACE -ffp-contract=off)
target_include_directories(alphecca_options INTERFACE "${PROJECT_SOURCE_DIR}")
if(ALPHECCA_WERROR)
  target_compile_options(alphecca_options INTERFACE -Werror)
endif()
if(ALPHECCA_SANITIZE)
  target_compile_options(alphecca_options INTERFACE -fsanitize=${ALPHECCA_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(alphecca_options INTERFACE -fsanitize=${ALPHECCA_SANITIZE})
endif()
