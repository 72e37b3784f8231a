#!/usr/bin/env python3
"""Writes unicode_tables.cc: the case mappings of Python's str.lower() and str.upper(), as the chat format sorts and
prints by them. Usage: make_unicode_tables.py > unicode_tables.cc
"""
import sys
import unicodedata


def ranges(codes):
    """Sorted code points as inclusive [first, last] runs."""
    runs = []
    for c in codes:
        if runs and runs[-1][1] == c - 1:
            runs[-1][1] = c
        else:
            runs.append([c, c])
    return runs


def mapping(convert):
    """Runs of (first, last, step, delta) for one-to-one mappings, and the list of all others."""
    runs, special = [], []
    for c in range(0x110000):
        if 0xD800 <= c <= 0xDFFF:
            continue
        to = convert(chr(c))
        if to == chr(c):
            continue
        if len(to) != 1:
            special.append((c, to))
            continue
        delta = ord(to) - c
        if runs:
            first, last, step, d = runs[-1]
            gap = c - last
            if d == delta and gap <= 2 and (step == gap or first == last):
                runs[-1] = (first, c, gap, d)
                continue
        runs.append((c, c, 1, delta))
    return runs, special


def cpp_string(text):
    return '"' + "".join(f"\\x{b:02x}" for b in text.encode()) + '"'


def table(name, kind, rows):
    print(f"const {kind} {name}[] = {{")
    line = "   "
    for row in rows:
        if len(line) + len(row) > 117:
            print(line)
            line = "   "
        line += " " + row + ","
    print(line)
    print("};")
    print(f"const size_t {name}Size = std::size({name});\n")


def main():
    every = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    # What decides how a capital sigma is lowered, found by asking: whether it ends a word depends on the cased letters
    # around it, past characters that are ignored for case.
    cased = [c for c in every if (chr(c) + "\u03a3").lower().endswith("\u03c2")]
    cased_set = set(cased)
    ignorable = [c for c in every if c not in cased_set and ("A" + chr(c) + "\u03a3").lower().endswith("\u03c2")]
    print(f"// Written by make_unicode_tables.py from Unicode {unicodedata.unidata_version}; do not edit.")
    print("// clang-format off")
    print('#include "text/unicode_tables.h"\n\n#include <iterator>\n\nnamespace alphecca::text {\n')
    for name, convert in (("kLower", str.lower), ("kUpper", str.upper)):
        runs, special = mapping(convert)
        table(name, "CaseRun", [f"{{0x{a:x}, 0x{b:x}, {s}, {d}}}" for a, b, s, d in runs])
        table(name + "Special", "CaseSpecial", [f"{{0x{c:x}, {cpp_string(t)}}}" for c, t in special])
    table("kCased", "CodeRange", [f"{{0x{a:x}, 0x{b:x}}}" for a, b in ranges(cased)])
    table("kCaseIgnorable", "CodeRange", [f"{{0x{a:x}, 0x{b:x}}}" for a, b in ranges(ignorable)])
    print("}  // namespace alphecca::text")


if __name__ == "__main__":
    sys.exit(main())
