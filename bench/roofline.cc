// What this machine's cores can do at most: bytes read from memory a second, and int8 multiply-adds a second on
// operands that never leave the registers. The bounds that benchmarks are held against. Two lines of JSON on stdout.
//   roofline [--threads N] [--mib N] [--rounds N]      N MiB a thread, far more than the caches hold
#include <cpuid.h>
#include <immintrin.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

struct Flags {
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  int64_t mib = 256;
  int rounds = 8;
};

// Seconds of the fastest of some rounds in which all threads do `work` at once.
double FastestRound(const Flags& flags, const std::function<void(int thread)>& work) {
  using Clock = std::chrono::steady_clock;
  std::barrier meet(flags.threads);
  double fastest = std::numeric_limits<double>::infinity();
  const auto body = [&](int thread) {
    for (int round = 0; round < flags.rounds; ++round) {
      meet.arrive_and_wait();
      const Clock::time_point start = Clock::now();
      work(thread);
      meet.arrive_and_wait();
      if (thread == 0) {
        fastest = std::min(fastest, std::chrono::duration<double>(Clock::now() - start).count());
      }
    }
  };
  std::vector<std::thread> others;
  for (int thread = 1; thread < flags.threads; ++thread) {
    others.emplace_back(body, thread);
  }
  body(0);
  for (std::thread& other : others) {
    other.join();
  }
  return fastest;
}

// ---- Memory -------------------------------------------------------------------------------------------------------

constexpr size_t kHugePage = size_t{2} << 20;

// The sum of 64-bit words, read as kStreams stretches side by side, each asked for some way ahead: one stretch alone,
// left to the processor's own foresight, does not reach what memory gives on every machine.
constexpr int64_t kStreams = 4;
__attribute__((target("avx2"))) uint64_t Sum(const uint64_t* words, int64_t count) {
  constexpr int64_t kAhead = 2048 / sizeof(uint64_t);
  const int64_t stretch = count / kStreams;
  __m256i sums[2 * kStreams] = {};
  for (int64_t i = 0; i < stretch; i += 8) {
#pragma GCC unroll 4
    for (int64_t s = 0; s < kStreams; ++s) {
      const uint64_t* at = words + s * stretch + i;
      _mm_prefetch(reinterpret_cast<const char*>(at + kAhead), _MM_HINT_T0);
      sums[2 * s] = _mm256_add_epi64(sums[2 * s], _mm256_load_si256(reinterpret_cast<const __m256i*>(at)));
      sums[2 * s + 1] = _mm256_add_epi64(sums[2 * s + 1], _mm256_load_si256(reinterpret_cast<const __m256i*>(at) + 1));
    }
  }
  for (int64_t s = 1; s < 2 * kStreams; ++s) {
    sums[0] = _mm256_add_epi64(sums[0], sums[s]);
  }
  alignas(32) uint64_t lanes[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sums[0]);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

// Words of value 1 in huge pages, where the system has them; null: no memory.
uint64_t* Ones(int64_t words) {
  const auto bytes = static_cast<size_t>(words) * sizeof(uint64_t);
  auto* data = static_cast<uint64_t*>(std::aligned_alloc(kHugePage, bytes));
  if (data != nullptr) {
    madvise(data, bytes, MADV_HUGEPAGE);  // a refusal costs speed only
    std::fill_n(data, words, 1);
  }
  return data;
}

bool MeasureReads(const Flags& flags) {
  const int64_t words = (flags.mib << 20) / static_cast<int64_t>(sizeof(uint64_t));
  std::vector<std::unique_ptr<uint64_t, decltype(&std::free)>> data;
  for (int thread = 0; thread < flags.threads; ++thread) {
    data.emplace_back(Ones(words), &std::free);
    if (data.back() == nullptr) {
      std::fprintf(stderr, "roofline: no memory for %d times %lld MiB\n", flags.threads,
                   static_cast<long long>(flags.mib));
      return false;
    }
  }
  std::vector<uint64_t> sums(data.size());
  const double seconds = FastestRound(flags, [&](int thread) {
    const auto t = static_cast<size_t>(thread);
    sums[t] = Sum(data[t].get(), words);
  });
  if (sums[0] != static_cast<uint64_t>(words)) {
    std::abort();  // and so the sums are used
  }
  const double bytes = static_cast<double>(words) * sizeof(uint64_t) * flags.threads;
  std::printf("{\"measure\":\"memory_read\",\"threads\":%d,\"value\":%.2f,\"unit\":\"GB/s\"}\n", flags.threads,
              bytes / seconds * 1e-9);
  return true;
}

// ---- int8 ---------------------------------------------------------------------------------------------------------

// Each function does kSteps steps on kChains chains that do not wait for each other, and returns the operations done, a
// multiplication and an addition being two. The empty asm makes operands unknown to the compiler, so that nothing is
// folded, hoisted or shared between chains.
constexpr int64_t kSteps = 4'000'000;
constexpr int kChains = 10;

__attribute__((target("avx512f,avx512bw,avx512vnni"))) double DotAvx512Vnni() {
  __m512i chains[kChains] = {};
  __m512i a = _mm512_set1_epi8(3);
  const __m512i b = _mm512_set1_epi8(5);
  for (int64_t step = 0; step < kSteps; ++step) {
#pragma GCC unroll 10
    for (__m512i& chain : chains) {
      asm volatile("" : "+v"(a));
      chain = _mm512_dpbusd_epi32(chain, a, b);
    }
  }
  for (__m512i& chain : chains) {
    asm volatile("" : "+v"(chain));
  }
  return 2.0 * 64 * kChains * kSteps;
}

// Without VNNI: products of 8 bits summed in pairs to 16 bits, those in pairs to 32.
__attribute__((target("avx512f,avx512bw"))) double DotAvx512() {
  __m512i chains[kChains] = {};
  __m512i a = _mm512_set1_epi8(3);
  const __m512i b = _mm512_set1_epi8(5);
  const __m512i one = _mm512_set1_epi16(1);
  for (int64_t step = 0; step < kSteps; ++step) {
#pragma GCC unroll 10
    for (__m512i& chain : chains) {
      asm volatile("" : "+v"(a));
      chain = _mm512_add_epi32(chain, _mm512_madd_epi16(_mm512_maddubs_epi16(a, b), one));
    }
  }
  for (__m512i& chain : chains) {
    asm volatile("" : "+v"(chain));
  }
  return 2.0 * 64 * kChains * kSteps;
}

__attribute__((target("avx2"))) double DotAvx2() {
  __m256i chains[kChains] = {};
  __m256i a = _mm256_set1_epi8(3);
  const __m256i b = _mm256_set1_epi8(5);
  const __m256i one = _mm256_set1_epi16(1);
  for (int64_t step = 0; step < kSteps; ++step) {
#pragma GCC unroll 10
    for (__m256i& chain : chains) {
      asm volatile("" : "+x"(a));
      chain = _mm256_add_epi32(chain, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), one));
    }
  }
  for (__m256i& chain : chains) {
    asm volatile("" : "+x"(chain));
  }
  return 2.0 * 32 * kChains * kSteps;
}

#if defined(__GNUC__) && __GNUC__ >= 11
#define ROOFLINE_AMX 1
// Tiles: the shapes are whole, and sums and operands stay in their registers.
__attribute__((target("amx-tile,amx-int8"))) double DotAmx() {
  struct alignas(64) {
    uint8_t palette = 1;
    uint8_t reserved[15] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } shapes;
  asm volatile("" : : "m"(shapes));
  _tile_loadconfig(&shapes);
  for (int64_t step = 0; step < kSteps; ++step) {
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  _tile_release();
  return 2.0 * 16 * 16 * 64 * 4 * kSteps;
}

// Tiles, and the system's leave to use them.
bool HasAmx() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  constexpr unsigned kTileInt8 = 3U << 24U;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & kTileInt8) == kTileInt8 &&
         syscall(SYS_arch_prctl, 0x1023, 18) == 0;
}
#endif

struct Int8Path {
  const char* name;
  double (*dot)();
};

// The best that the processor has; null: none of ours.
const Int8Path* ChoosePath() {
  static constexpr Int8Path kVnni = {"avx512vnni", DotAvx512Vnni};
  static constexpr Int8Path kAvx512 = {"avx512", DotAvx512};
  static constexpr Int8Path kAvx2 = {"avx2", DotAvx2};
#if defined(ROOFLINE_AMX)
  static constexpr Int8Path kAmx = {"amx", DotAmx};
  if (HasAmx()) {
    return &kAmx;
  }
#endif
  const bool avx512 = __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0;
  if (avx512) {
    return __builtin_cpu_supports("avx512vnni") != 0 ? &kVnni : &kAvx512;
  }
  return __builtin_cpu_supports("avx2") != 0 ? &kAvx2 : nullptr;
}

bool MeasureInt8(const Flags& flags) {
  const Int8Path* path = ChoosePath();
  if (path == nullptr) {
    std::fputs("roofline: the processor has neither AVX2 nor AVX-512\n", stderr);
    return false;
  }
  std::vector<double> operations(static_cast<size_t>(flags.threads));
  const double seconds =
      FastestRound(flags, [&](int thread) { operations[static_cast<size_t>(thread)] = path->dot(); });
  std::printf("{\"measure\":\"int8\",\"path\":\"%s\",\"threads\":%d,\"value\":%.2f,\"unit\":\"GOP/s\"}\n", path->name,
              flags.threads, operations[0] * flags.threads / seconds * 1e-9);
  return true;
}

bool ParseFlags(int argc, char** argv, Flags* flags) {
  for (int i = 1; i + 1 < argc; i += 2) {
    const int value = std::atoi(argv[i + 1]);
    const std::string name = argv[i];
    if (value < 1 || value > 4096) {
      return false;
    }
    if (name == "--threads") {
      flags->threads = value;
    } else if (name == "--mib") {
      flags->mib = value + value % 2;  // whole huge pages
    } else if (name == "--rounds") {
      flags->rounds = value;
    } else {
      return false;
    }
  }
  return argc % 2 == 1;
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  if (!ParseFlags(argc, argv, &flags)) {
    std::fputs("usage: roofline [--threads N] [--mib N] [--rounds N], N from 1 to 4096\n", stderr);
    return 2;
  }
  return MeasureReads(flags) && MeasureInt8(flags) ? 0 : 1;
}
