#include "text/bpe.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>

#include "text/utf8.h"

namespace alphecca::text {
namespace {

constexpr int32_t kNone = -1;
constexpr int32_t kGone = -2;  // a symbol that was joined to the one before it

uint64_t PairKey(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

}  // namespace

struct Bpe::Symbol {
  int32_t id;  // kNone: a character that is no piece
  int32_t previous;
  int32_t next;
  uint32_t begin;  // of its bytes in the text, for byte fallback
  uint32_t length;
};

struct Bpe::Candidate {
  uint32_t rank;
  int32_t at;  // the left symbol
  int32_t left;
  int32_t right;
  // For heaps with the best candidate on top: the lowest rank, and of equal ones the leftmost.
  friend bool operator<(const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
  }
};

void Bpe::Add(int32_t left, int32_t right, Join join) {
  pairs_.try_emplace(PairKey(left, right), join);
}

const Bpe::Join* Bpe::Find(int32_t left, int32_t right) const {
  const auto pair = pairs_.find(PairKey(left, right));
  return pair == pairs_.end() ? nullptr : &pair->second;
}

Bpe Bpe::FromMerges(const Vocabulary& vocabulary, std::span<const TokenizerData::Merge> merges) {
  Bpe bpe;
  bpe.pairs_.reserve(merges.size());
  std::string joined;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const int32_t left = vocabulary.FindNormal(merges[rank].left);
    const int32_t right = vocabulary.FindNormal(merges[rank].right);
    if (left < 0 || right < 0) {
      continue;
    }
    joined.assign(merges[rank].left);
    joined += merges[rank].right;
    if (const int32_t id = vocabulary.FindNormal(joined); id >= 0) {
      bpe.Add(left, right, {static_cast<uint32_t>(rank), id});
    }
  }
  bpe.whole_newline_runs_ = vocabulary.newlines_stand_alone();
  return bpe;
}

Bpe Bpe::FromScores(const Vocabulary& vocabulary, std::span<const float> scores) {
  const auto score = [&](int32_t id) {
    const float s = scores[static_cast<size_t>(id)];
    return std::isnan(s) ? -std::numeric_limits<float>::infinity() : s;
  };
  std::vector<int32_t> order;
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    if (vocabulary.type(id) == TokenType::kNormal && vocabulary.token(id).size() > 1) {
      order.push_back(id);
    }
  }
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return score(a) > score(b); });
  Bpe bpe;
  bpe.pairs_.reserve(order.size() * 2);
  uint32_t rank = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const int32_t id = order[i];
    rank += i > 0 && score(id) != score(order[i - 1]) ? 1 : 0;  // equal scores are equal ranks: position decides
    const std::string_view piece = vocabulary.token(id);
    // Longer pieces are not looked for at every cut: that would be quadratic in what a hostile file may hold.
    constexpr size_t kLongest = 512;
    for (size_t cut = 1; cut < piece.size() && piece.size() <= kLongest; ++cut) {
      if ((static_cast<unsigned char>(piece[cut]) & 0xC0) == 0x80) {
        continue;  // inside a character
      }
      const int32_t left = vocabulary.FindNormal(piece.substr(0, cut));
      const int32_t right = left < 0 ? kNone : vocabulary.FindNormal(piece.substr(cut));
      if (right >= 0 && vocabulary.FindNormal(piece) == id) {
        bpe.Add(left, right, {rank, id});
      }
    }
  }
  return bpe;
}

// Cuts text into user-defined pieces, whole runs of newlines, and characters.
std::vector<Bpe::Symbol> Bpe::Cut(const Vocabulary& vocabulary, std::string_view text) const {
  std::vector<Symbol> symbols;
  symbols.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const PieceTrie::Match whole = vocabulary.user_defined().LongestAt(text, at);
    int32_t id = whole.id;
    size_t length = whole.length;
    if (length == 0 && text[at] == '\n' && whole_newline_runs_) {
      const size_t end = std::min(text.find_first_not_of('\n', at), text.size());
      id = vocabulary.FindNormal(text.substr(at, end - at));
      length = id >= 0 ? end - at : 0;
      if (length == 0) {  // too long for one piece: the whole run is left to the merges
        const int32_t newline = vocabulary.FindNormal("\n");
        for (; at < end; ++at) {
          const int32_t index = static_cast<int32_t>(symbols.size());
          symbols.push_back({newline, index - 1, index + 1, static_cast<uint32_t>(at), 1});
        }
        continue;
      }
    }
    if (length == 0) {
      length = DecodeUtf8(text, at).length;
      id = vocabulary.FindNormal(text.substr(at, length));
    }
    const int32_t index = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, index - 1, index + 1, static_cast<uint32_t>(at), static_cast<uint32_t>(length)});
    at += length;
  }
  if (!symbols.empty()) {
    symbols.back().next = kNone;
  }
  return symbols;
}

// Joins the symbols of one text.
class Bpe::Merger {
 public:
  Merger(const Bpe& bpe, std::vector<Symbol>& symbols) : bpe_(bpe), symbols_(symbols) {}

  void Run() {
    for (int32_t i = 0; i < static_cast<int32_t>(symbols_.size()); ++i) {
      if (const Join* join = JoinAt(i)) {
        heap_.push_back(CandidateAt(i, *join));
      }
    }
    std::make_heap(heap_.begin(), heap_.end());
    while (!heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end());
      const Candidate best = heap_.back();
      heap_.pop_back();
      Symbol& left = symbols_[static_cast<size_t>(best.at)];
      // Either side may have changed since the candidate was found.
      if (left.id != best.left || left.next == kNone || symbols_[static_cast<size_t>(left.next)].id != best.right) {
        continue;
      }
      Symbol& right = symbols_[static_cast<size_t>(left.next)];
      left.id = bpe_.Find(best.left, best.right)->id;
      left.length += right.length;
      left.next = right.next;
      right.id = kGone;
      if (left.next != kNone) {
        symbols_[static_cast<size_t>(left.next)].previous = best.at;
      }
      Push(left.previous);
      Push(best.at);
    }
  }

 private:
  const Join* JoinAt(int32_t at) const {
    const Symbol& left = symbols_[static_cast<size_t>(at)];
    if (left.id < 0 || left.next == kNone || symbols_[static_cast<size_t>(left.next)].id < 0) {
      return nullptr;
    }
    return bpe_.Find(left.id, symbols_[static_cast<size_t>(left.next)].id);
  }

  Candidate CandidateAt(int32_t at, const Join& join) const {
    const Symbol& left = symbols_[static_cast<size_t>(at)];
    return {join.rank, at, left.id, symbols_[static_cast<size_t>(left.next)].id};
  }

  void Push(int32_t at) {
    if (at == kNone) {
      return;
    }
    if (const Join* join = JoinAt(at)) {
      heap_.push_back(CandidateAt(at, *join));
      std::push_heap(heap_.begin(), heap_.end());
    }
  }

  const Bpe& bpe_;
  std::vector<Symbol>& symbols_;
  std::vector<Candidate> heap_;
};

void Bpe::Encode(const Vocabulary& vocabulary, std::string_view text, std::vector<int32_t>& ids) const {
  std::vector<Symbol> symbols = Cut(vocabulary, text);
  Merger(*this, symbols).Run();
  bool unknown_before = false;  // neighbouring unknown characters share one unknown token
  for (const Symbol& symbol : symbols) {
    if (symbol.id == kGone) {
      continue;
    }
    bool unknown = false;
    if (symbol.id >= 0) {
      ids.push_back(symbol.id);
    } else {
      const std::string_view bytes = text.substr(symbol.begin, symbol.length);
      unknown = std::any_of(bytes.begin(), bytes.end(),
                            [&](char c) { return vocabulary.byte_id(static_cast<unsigned char>(c)) < 0; });
      if (!unknown) {
        for (const char c : bytes) {
          ids.push_back(vocabulary.byte_id(static_cast<unsigned char>(c)));
        }
      } else if (!unknown_before) {
        ids.push_back(vocabulary.unknown_id());
      }
    }
    unknown_before = unknown;
  }
}

}  // namespace alphecca::text
