// Case mapping tables; see make_unicode_tables.py.
#pragma once

#include <cstddef>
#include <cstdint>

namespace alphecca::text {

// Code points first, first + step, ..., last map to themselves + delta.
struct CaseRun {
  uint32_t first;
  uint32_t last;
  uint32_t step;
  int32_t delta;
};
// Code points that map to several; `to` is UTF-8.
struct CaseSpecial {
  uint32_t code;
  const char* to;
};
struct CodeRange {
  uint32_t first;
  uint32_t last;
};

// All sorted by code point, without overlaps.
extern const CaseRun kLower[];
extern const size_t kLowerSize;
extern const CaseSpecial kLowerSpecial[];
extern const size_t kLowerSpecialSize;
extern const CaseRun kUpper[];
extern const size_t kUpperSize;
extern const CaseSpecial kUpperSpecial[];
extern const size_t kUpperSpecialSize;
// Cased characters that are not ignorable, and characters that are ignored, when a word's end is looked for.
extern const CodeRange kCased[];
extern const size_t kCasedSize;
extern const CodeRange kCaseIgnorable[];
extern const size_t kCaseIgnorableSize;

}  // namespace alphecca::text
