# What the distribution provides. scripts/install-dependencies.sh installs all of it.
find_package(Threads REQUIRED)
find_package(absl CONFIG REQUIRED)           # libabsl-dev
find_package(spdlog CONFIG REQUIRED)         # libspdlog-dev
find_package(nlohmann_json CONFIG REQUIRED)  # nlohmann-json3-dev
if(ALPHECCA_RPC)
  find_package(Protobuf REQUIRED)     # libprotobuf-dev, protobuf-compiler
  find_package(gRPC CONFIG REQUIRED)  # libgrpc++-dev, protobuf-compiler-grpc
  find_package(CLI11 CONFIG REQUIRED) # libcli11-dev
  find_package(yaml-cpp CONFIG REQUIRED) # libyaml-cpp-dev
endif()
find_package(prometheus-cpp CONFIG REQUIRED COMPONENTS core)  # prometheus-cpp-dev
find_package(PkgConfig REQUIRED)                               # pkg-config
pkg_check_modules(httplib REQUIRED IMPORTED_TARGET cpp-httplib) # libcpp-httplib-dev
if(ALPHECCA_RPC)
  pkg_check_modules(jemalloc REQUIRED IMPORTED_TARGET jemalloc) # libjemalloc-dev
endif()
if(ALPHECCA_GLOO)
  find_package(Gloo CONFIG REQUIRED)  # libgloo-dev
endif()
if(ALPHECCA_TESTS)
  find_package(GTest CONFIG REQUIRED)  # libgtest-dev, libgmock-dev
endif()
