// Registration of micro-benchmarks whose shapes are made at run time.
#pragma once

#include <benchmark/benchmark.h>

#include <string>
#include <utility>

namespace alphecca::bench {

// `run` is called with the benchmark::State; timed by the wall clock, reported in microseconds.
template <typename Function>
void Register(const std::string& name, Function run) {
#ifndef __clang_analyzer__  // takes what the registry of the library owns for a leak
  benchmark::RegisterBenchmark(name.c_str(), std::move(run))->UseRealTime()->Unit(benchmark::kMicrosecond);
#endif
}

}  // namespace alphecca::bench
