#include "text/utf8.h"

#include <algorithm>
#include <cstdint>

#include "text/unicode_tables.h"

namespace alphecca::text {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

struct Lead {
  int more = -1;        // bytes that follow; -1: no lead byte
  unsigned low = 0x80;  // range of the first of them
  unsigned high = 0xBF;
};

Lead LeadOf(unsigned byte) {
  if (byte < 0x80) {
    return {0};
  }
  if (byte >= 0xC2 && byte <= 0xDF) {
    return {1};
  }
  if (byte >= 0xE0 && byte <= 0xEF) {
    return {2, byte == 0xE0 ? 0xA0u : 0x80u, byte == 0xED ? 0x9Fu : 0xBFu};
  }
  if (byte >= 0xF0 && byte <= 0xF4) {
    return {3, byte == 0xF0 ? 0x90u : 0x80u, byte == 0xF4 ? 0x8Fu : 0xBFu};
  }
  return {};
}

bool InRanges(const CodeRange* begin, size_t size, char32_t code) {
  const CodeRange* end = begin + size;
  const CodeRange* next =
      std::upper_bound(begin, end, code, [](char32_t c, const CodeRange& r) { return c < r.first; });
  return next != begin && code <= (next - 1)->last;
}

// A table of one-to-one runs and one of exceptions.
struct CaseTable {
  const CaseRun* runs;
  size_t run_count;
  const CaseSpecial* special;
  size_t special_count;
};

void AppendMapped(const CaseTable& table, char32_t code, std::string& out) {
  const CaseRun* end = table.runs + table.run_count;
  const CaseRun* next =
      std::upper_bound(table.runs, end, code, [](char32_t c, const CaseRun& r) { return c < r.first; });
  if (next != table.runs) {
    const CaseRun& run = *(next - 1);
    if (code <= run.last && (code - run.first) % run.step == 0) {
      AppendUtf8(static_cast<char32_t>(static_cast<int32_t>(code) + run.delta), out);
      return;
    }
  }
  const CaseSpecial* special_end = table.special + table.special_count;
  const CaseSpecial* special =
      std::lower_bound(table.special, special_end, code, [](const CaseSpecial& s, char32_t c) { return s.code < c; });
  if (special != special_end && special->code == code) {
    out += special->to;
    return;
  }
  AppendUtf8(code, out);
}

// The start of the character that ends at `end`.
size_t Previous(std::string_view text, size_t end) {
  size_t at = end - 1;
  while (at > 0 && end - at < 4 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) {
    --at;
  }
  return at;
}

// Whether a capital sigma at `at` (2 bytes long) ends a word: a cased letter before it and none after it, past what is
// ignored for case.
bool IsFinalSigma(std::string_view text, size_t at) {
  bool cased = false;
  for (size_t end = at; end > 0;) {
    const size_t begin = Previous(text, end);
    const char32_t code = DecodeUtf8(text, begin).code;
    end = begin;
    if (InRanges(kCaseIgnorable, kCaseIgnorableSize, code)) {
      continue;
    }
    cased = InRanges(kCased, kCasedSize, code);
    break;
  }
  if (!cased) {
    return false;
  }
  for (size_t next = at + 2; next < text.size();) {
    const Utf8Char c = DecodeUtf8(text, next);
    next += c.length;
    if (!InRanges(kCaseIgnorable, kCaseIgnorableSize, c.code)) {
      return !InRanges(kCased, kCasedSize, c.code);
    }
  }
  return true;
}

}  // namespace

Utf8Char DecodeUtf8(std::string_view text, size_t at) {
  const unsigned first = static_cast<unsigned char>(text[at]);
  Lead lead = LeadOf(first);
  if (lead.more == 0) {
    return {first, 1, true};
  }
  if (lead.more < 0) {
    return {kReplacement, 1, false};
  }
  char32_t code = first & (0x3Fu >> lead.more);
  for (int i = 1; i <= lead.more; ++i) {
    const size_t index = at + static_cast<size_t>(i);
    const unsigned byte = index < text.size() ? static_cast<unsigned char>(text[index]) : 0;
    if (byte < lead.low || byte > lead.high) {
      return {kReplacement, static_cast<size_t>(i), false};
    }
    code = code << 6 | (byte & 0x3F);
    lead.low = 0x80;
    lead.high = 0xBF;
  }
  return {code, static_cast<size_t>(lead.more) + 1, true};
}

void AppendUtf8(char32_t code, std::string& out) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | code >> 6);
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | code >> 12);
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | code >> 18);
    out += static_cast<char>(0x80 | (code >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

bool IsValidUtf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = DecodeUtf8(text, at);
    if (!c.valid) {
      return false;
    }
    at += c.length;
  }
  return true;
}

std::string ReplaceIllFormed(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = DecodeUtf8(text, at);
    if (c.valid) {
      out.append(text, at, c.length);
    } else {
      AppendUtf8(kReplacement, out);
    }
    at += c.length;
  }
  return out;
}

size_t IncompleteSuffix(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const unsigned byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xC0) == 0x80) {
      continue;
    }
    if (LeadOf(byte).more < static_cast<int>(back)) {
      return 0;
    }
    const Utf8Char c = DecodeUtf8(text, text.size() - back);
    return !c.valid && c.length == back ? back : 0;
  }
  return 0;
}

bool IsPythonSpace(char32_t code) {
  return (code >= 0x09 && code <= 0x0D) || (code >= 0x1C && code <= 0x20) || code == 0x85 || code == 0xA0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F ||
         code == 0x205F || code == 0x3000;
}

std::string_view Strip(std::string_view text) {
  while (!text.empty()) {
    const Utf8Char c = DecodeUtf8(text, 0);
    if (!IsPythonSpace(c.code)) {
      break;
    }
    text.remove_prefix(c.length);
  }
  return StripRight(text);
}

std::string_view StripRight(std::string_view text) {
  while (!text.empty()) {
    const size_t last = Previous(text, text.size());
    if (!IsPythonSpace(DecodeUtf8(text, last).code)) {
      break;
    }
    text.remove_suffix(text.size() - last);
  }
  return text;
}

std::string Lower(std::string_view text) {
  constexpr char32_t kCapitalSigma = 0x3A3;
  constexpr char32_t kFinalSigma = 0x3C2;
  const CaseTable table = {kLower, kLowerSize, kLowerSpecial, kLowerSpecialSize};
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = DecodeUtf8(text, at);
    if (c.code == kCapitalSigma && IsFinalSigma(text, at)) {
      AppendUtf8(kFinalSigma, out);
    } else {
      AppendMapped(table, c.code, out);
    }
    at += c.length;
  }
  return out;
}

std::string Upper(std::string_view text) {
  const CaseTable table = {kUpper, kUpperSize, kUpperSpecial, kUpperSpecialSize};
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = DecodeUtf8(text, at);
    AppendMapped(table, c.code, out);
    at += c.length;
  }
  return out;
}

}  // namespace alphecca::text
