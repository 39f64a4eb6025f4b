// Elementary functions on Vec<T>, by range reduction and polynomials.
#pragma once

#include "core/vec.h"

namespace fastdl::FASTDL_ISA {

template <typename T>
struct ExpConstants;

// Beyond [lowest, highest] exp is 0 or inf. ln2 in two parts, so that n * ln2_high is exact.
// The coefficients of (exp(r) - 1 - r) / r^2 on |r| <= ln2 / 2, by Chebyshev interpolation:
// relative error of exp 1.0e-8 (float) and 1.7e-17 (double).
template <>
struct ExpConstants<float> {
  static constexpr float lowest = -104.0f, highest = 89.0f;
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float coefficients[] = {0.5f, 0.16666577f, 0.0416665546f, 0.00836317905f,
                                           0.00139261836f};
};
template <>
struct ExpConstants<double> {
  static constexpr double lowest = -746.0, highest = 710.0;
  static constexpr double ln2_high = 0.693145751953125, ln2_low = 1.42860682030941723212e-6;
  static constexpr double coefficients[] = {0.500000000000000102,     0.166666666666666675,
                                            0.0416666666666241279,    0.00833333333333006183,
                                            0.00138888889172137169,   0.000198412698630536169,
                                            0.0000248015212959543751, 2.75572684599970648e-6,
                                            2.76200884454097482e-7,   2.51003854955103191e-8};
};

// c[0] + c[1] x + ... + c[n-1] x^(n-1), by Horner's rule.
template <typename T, int n>
FASTDL_INLINE Vec<T> polynomial(Vec<T> x, const T (&c)[n]) {
  Vec<T> sum = broadcast(c[n - 1]);
#pragma GCC unroll 16
  for (int i = n - 2; i >= 0; --i) sum = fma(sum, x, broadcast(c[i]));
  return sum;
}

// exp(x) = 2^n * exp(r), n = round(x / ln2), |r| <= ln2 / 2. NaN stays NaN.
template <typename T>
FASTDL_INLINE Vec<T> exp(Vec<T> x) {
  using C = ExpConstants<T>;
  constexpr T log2_e = static_cast<T>(1.44269504088896340736);
  x = min(broadcast(C::highest), max(broadcast(C::lowest), x));  // b, the NaN, wins in both
  const Vec<T> n = round(x * broadcast(log2_e));
  const Vec<T> r = fnma(n, broadcast(C::ln2_low), fnma(n, broadcast(C::ln2_high), x));
  const Vec<T> rest = r * r * polynomial(r, C::coefficients);
  return scale_by_power(broadcast(T(1)) + (r + rest), n);
}

}  // namespace fastdl::FASTDL_ISA
