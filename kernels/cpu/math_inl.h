// exp, tanh and the GELU, accurate to a few units of the last place.
#pragma once

namespace alphecca::kernels::cpu {
namespace {

// exp(x) = 2^n exp(r), |r| <= ln 2 / 2, exp(r) by its Taylor series to r^7 / 7!. 0 below -87.3; at most 2^127.5.
inline F Exp(F x) {
  const F clamped = Min(Set(88.37F), Max(Set(-87.33F), x));
  const I n = Round(Mul(clamped, Set(1.44269504F)));
  const F whole = ToFloat(n);
  F r = Fma(whole, Set(-0.693145752F), clamped);  // ln 2 in two parts: the first has few bits, so whole * it is exact
  r = Fma(whole, Set(-1.42860682e-6F), r);
  F p = Set(1.0F / 5040.0F);
  p = Fma(p, r, Set(1.0F / 720.0F));
  p = Fma(p, r, Set(1.0F / 120.0F));
  p = Fma(p, r, Set(1.0F / 24.0F));
  p = Fma(p, r, Set(1.0F / 6.0F));
  p = Fma(p, r, Set(0.5F));
  const F y = Add(Fma(p, Mul(r, r), r), Set(1.0F));
  return Select(Greater(Set(-87.33F), x), Zero(), TimesPowerOfTwo(y, n));
}

// By its series near 0, where the quotient of exponentials would cancel.
inline F Tanh(F x) {
  const F a = Abs(x);
  const F e = Exp(Mul(a, Set(-2.0F)));
  const F far = Div(Sub(Set(1.0F), e), Add(Set(1.0F), e));
  const F s = Mul(x, x);
  F p = Set(-1382.0F / 155925.0F);
  p = Fma(p, s, Set(62.0F / 2835.0F));
  p = Fma(p, s, Set(-17.0F / 315.0F));
  p = Fma(p, s, Set(2.0F / 15.0F));
  p = Fma(p, s, Set(-1.0F / 3.0F));
  const F near = Fma(Mul(p, s), x, x);
  return Select(Greater(a, Set(0.25F)), WithSignOf(far, x), near);
}

// 0.5 x (1 + tanh(u)) = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3): nothing cancels on either side.
inline F Gelu(F x) {
  const F cubic = Fma(Mul(Set(0.044715F), Mul(x, x)), x, x);
  return Div(x, Add(Set(1.0F), Exp(Mul(cubic, Set(-1.5957691216057308F)))));
}

}  // namespace
}  // namespace alphecca::kernels::cpu
