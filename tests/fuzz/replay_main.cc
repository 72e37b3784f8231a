// Runs a fuzz target without libFuzzer: on each file named, then on mutations of it.
//   x_fuzz [--mutations N] FILE...
// The mutations are the same on every run. A crash is the failure; the input in hand is then in ./crash-replay.
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

// Headers are what parsers read; the bulk of a weight file is beyond them.
constexpr size_t kMutatedPrefix = 1 << 16;

const std::string* current_input = nullptr;

void SaveInput(int signal) {
  if (current_input != nullptr) {
    if (FILE* file = std::fopen("crash-replay", "wb")) {
      std::fwrite(current_input->data(), 1, current_input->size(), file);
      std::fclose(file);
    }
  }
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void Run(const std::string& input) {
  current_input = &input;
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

// One to four small changes near the beginning, where lengths and counts are.
std::string Mutate(std::string input, std::mt19937_64& random) {
  const auto below = [&random](size_t bound) { return static_cast<size_t>(random() % std::max<size_t>(bound, 1)); };
  constexpr uint64_t kInteresting[] = {0, 1, 0x7f, 0xff, 0x7fffffff, 0xffffffff, 1ULL << 40, 1ULL << 63, ~uint64_t{0}};
  for (size_t change = 0; change <= below(4); ++change) {
    const size_t span = std::min(input.size(), below(2) == 0 ? size_t{512} : kMutatedPrefix);
    const size_t at = below(span);
    const size_t length = std::min(below(16) + 1, input.size() - std::min(at, input.size()));
    switch (input.empty() ? 5 : below(6)) {
      case 0:
        input[at] = static_cast<char>(input[at] ^ (1 << below(8)));
        break;
      case 1:
        input[at] = static_cast<char>(random());
        break;
      case 2: {
        const uint64_t value = kInteresting[below(std::size(kInteresting))];
        std::memcpy(input.data() + at, &value, std::min<size_t>(below(2) == 0 ? 4 : 8, input.size() - at));
        break;
      }
      case 3:
        input.erase(at, length);
        break;
      case 4:
        input.insert(below(span), input.substr(at, length));
        break;
      default:
        input.resize(below(input.size() + 1));
        break;
    }
  }
  return input;
}

}  // namespace

int main(int argc, char** argv) {
  for (const int signal : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE}) {
    std::signal(signal, SaveInput);
  }
  long mutations = 0;
  int files = 0;
  std::mt19937_64 random(1);
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--mutations") == 0 && i + 1 < argc) {
      mutations = std::strtol(argv[++i], nullptr, 10);
      continue;
    }
    std::ifstream stream(argv[i], std::ios::binary);
    if (!stream) {
      std::fprintf(stderr, "%s: cannot be read\n", argv[i]);
      return 1;
    }
    const std::string seed{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
    Run(seed);
    for (long m = 0; m < mutations; ++m) {
      Run(Mutate(seed, random));
    }
    ++files;
  }
  std::printf("%d files, %ld mutations of each\n", files, mutations);
  return files > 0 ? 0 : 1;
}
