// Elementary functions on Vec<T>, by range reduction and polynomials.
#pragma once

#include <math.h>
#include <string.h>

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
#pragma GCC unroll 32
  for (int i = n - 2; i >= 0; --i) sum = fma(sum, x, broadcast(c[i]));
  return sum;
}

template <typename T>
struct ExpParts {
  Vec<T> n, rest;
};

// exp(x) = 2^n * (1 + rest), n = round(x / ln2), rest = expm1(r) for |r| <= ln2 / 2.
template <typename T>
FASTDL_INLINE ExpParts<T> split_exp(Vec<T> x) {
  using C = ExpConstants<T>;
  constexpr T log2_e = static_cast<T>(1.44269504088896340736);
  const Vec<T> n = round(x * broadcast(log2_e));
  const Vec<T> r = fnma(n, broadcast(C::ln2_low), fnma(n, broadcast(C::ln2_high), x));
  return {n, fma(r * r, polynomial(r, C::coefficients), r)};
}

// NaN stays NaN.
template <typename T>
FASTDL_INLINE Vec<T> exp(Vec<T> x) {
  using C = ExpConstants<T>;
  x = min(broadcast(C::highest), max(broadcast(C::lowest), x));  // b, the NaN, wins in both
  const auto [n, rest] = split_exp(x);
  return scale_by_power(broadcast(T(1)) + rest, n);
}

// exp(x) - 1 without the cancellation at small x: within 2 eps * |expm1(x)|. expm1(-0) is +0.
template <typename T>
FASTDL_INLINE Vec<T> expm1(Vec<T> x) {
  const Vec<T> one = broadcast(T(1));
  // Below -64 it is -1 to the last bit, and 2^-n would overflow in float.
  x = min(broadcast(ExpConstants<T>::highest), max(broadcast(T(-64)), x));
  const auto [n, rest] = split_exp(x);
  return scale_by_power(rest + (one - scale_by_power(one, -n)), n);
}

template <typename T>
struct LogConstants;

// The coefficients of (2 atanh(s) / s - 2) / s^2 in s^2, on |s| <= (sqrt(2) - 1) / (sqrt(2) + 1),
// by Chebyshev interpolation: they change log(m) by a share of 1.7e-11 (float) and 4.6e-18
// (double).
template <>
struct LogConstants<float> {
  using Bits = int32_t;
  static constexpr int mantissa_bits = 23, bias = 127;
  static constexpr float coefficients[] = {0.666666687f, 0.400001228f, 0.285508215f, 0.233304679f};
};
template <>
struct LogConstants<double> {
  using Bits = int64_t;
  static constexpr int mantissa_bits = 52, bias = 1023;
  static constexpr double coefficients[] = {
      0.666666666666666969, 0.399999999998995045, 0.285714286259754849, 0.222222111347950799,
      0.181828891252617221, 0.153317216005560413, 0.146164496850434059};
};

// floor(log2(x)) for x > 0 that is not denormal.
template <typename T>
FASTDL_INLINE Vec<T> exponent(Vec<T> x) {
  using C = LogConstants<T>;
  T values[Vec<T>::lanes];
  typename C::Bits bits[Vec<T>::lanes];
  store(values, x);
  memcpy(bits, values, sizeof(bits));
  for (int i = 0; i < Vec<T>::lanes; ++i) {
    values[i] = static_cast<T>(static_cast<int32_t>(bits[i] >> C::mantissa_bits) - C::bias);
  }
  return load(values);
}

// The natural logarithm of x > 0 that is not denormal, within 1 ulp; NaN stays NaN. x = 2^n * m
// with m between sqrt(1/2) and sqrt(2), log(m) = 2 atanh(s), s = r / (r + 2), r = m - 1; that is r
// - (r^2 / 2 - s * (r^2 / 2 + s^2 * (...))), as in fdlibm.
template <typename T>
FASTDL_INLINE Vec<T> log(Vec<T> x) {
  using C = ExpConstants<T>;
  const Vec<T> one = broadcast(T(1));
  const Vec<T> n = exponent(x * broadcast(static_cast<T>(0.70710678118654752))) + one;
  const Vec<T> r = scale_by_power(x, -n) - one, s = r / (r + broadcast(T(2))), z = s * s;
  const Vec<T> half = broadcast(T(0.5)) * r * r;
  const Vec<T> rest = s * fma(z, polynomial(z, LogConstants<T>::coefficients), half);
  const Vec<T> low = fma(n, broadcast(C::ln2_low), rest);
  return fma(n, broadcast(C::ln2_high), r - (half - low));
}

// tanh(x) = t / (t + 2), t = expm1(2 x): within 4 eps * |tanh(x)|, for denormals exact.
template <typename T>
FASTDL_INLINE Vec<T> tanh(Vec<T> x) {
  const Vec<T> t = expm1(min(broadcast(T(40)), x + x));  // tanh(20) is 1 to the last bit
  return select(x == zero<T>(), x, t / (t + broadcast(T(2))));
}

// Phi(-a) = exp(-a^2 / 2) * g(a) for a >= 0, Phi the normal distribution function (so that
// erfc(z) = 2 Phi(-sqrt(2) z)). g is smooth and falls from 1/2 like 1 / (sqrt(2 pi) a); the
// coefficients are those of g in t = (a - center) / (a + center) over 0 <= a <= largest, beyond
// which exp(-a^2 / 2) is 0; by Chebyshev interpolation. Relative error of g: 6.4e-9 (float) and
// 1.1e-17 (double) before, 9.8e-8 and 1.3e-16 after rounding them.
template <typename T>
struct NormalTailConstants;
template <>
struct NormalTailConstants<float> {
  static constexpr float largest = 14.5f, center = 3.5f;
  static constexpr float coefficients[] = {0.106345154f,    -0.187139699f,   0.125855252f,
                                           -0.0616394298f,  0.0190656482f,   -0.00156136648f,
                                           -0.00138166049f, 0.000389856872f, 0.000134021321f,
                                           -5.16443248e-5f, -2.06968883e-5f};
};
template <>
struct NormalTailConstants<double> {
  static constexpr double largest = 39.0, center = 5.0;
  static constexpr double coefficients[] = {
      0.0769193049750062959,    -0.143457555264011972,    0.116068811886003296,
      -0.0808838772641274064,   0.047855352284169919,     -0.0234139004876924815,
      0.00899137055059229452,   -0.00237884435668834706,  0.000219550737596144771,
      0.000134276843393246534,  -0.000060427482631307459, 9.61305968607503882e-7,
      6.64442065958085039e-6,   -1.27007590938227019e-6,  -6.75077565371341937e-7,
      2.43348400480409556e-7,   7.71067086734422732e-8,   -3.91718338898170037e-8,
      -1.09960253089622625e-8,  5.69304849415747454e-9,   1.82756401794652064e-9,
      -5.71149353021902937e-10, -2.32680238858283768e-10};
};

template <typename T>
struct Normal {
  Vec<T> cdf, bell;
};

// The normal distribution function Phi(x) and bell = exp(-x^2 / 2). Phi is relatively accurate in
// its lower tail too, up to the rounding of x^2: (3 + x^2 / 4) eps.
template <typename T>
FASTDL_INLINE Normal<T> normal(Vec<T> x) {
  using C = NormalTailConstants<T>;
  const Vec<T> center = broadcast(C::center);
  const Vec<T> a = min(broadcast(C::largest), abs(x));
  const Vec<T> bell = exp(a * a * broadcast(T(-0.5)));
  const Vec<T> tail = bell * polynomial((a - center) / (a + center), C::coefficients);
  return {select(x < zero<T>(), tail, broadcast(T(1)) - tail), bell};
}

template <typename T>
FASTDL_INLINE Vec<T> relu(Vec<T> x) {
  return max(zero<T>(), x);  // x where it is NaN or -0
}

template <typename T>
struct Sigmoid {
  Vec<T> value, complement;  // sigmoid(x), sigmoid(-x)
};

// sigmoid(x) = 1 / (1 + exp(-x)), computed from exp(-|x|), which never overflows.
template <typename T>
FASTDL_INLINE Sigmoid<T> sigmoid(Vec<T> x) {
  const Vec<T> one = broadcast(T(1)), e = exp(-abs(x));
  const Vec<T> upper = one / (one + e), lower = e * upper;
  const Mask<T> negative = x < zero<T>();
  return {select(negative, lower, upper), select(negative, upper, lower)};
}

// x Phi(x)
template <typename T>
FASTDL_INLINE Vec<T> gelu(Vec<T> x) {
  return x * normal(x).cdf;
}

// Its approximation x sigmoid(2 u), 2 u = x (slope + cubic x^2).
template <typename T>
struct GeluTanh {
  static constexpr T slope = static_cast<T>(1.59576912160573071176);    // 2 sqrt(2 / pi)
  static constexpr T cubic = static_cast<T>(0.0713548162726002487763);  // 0.044715 * slope
};

template <typename T>
FASTDL_INLINE Vec<T> gelu_tanh(Vec<T> x) {
  using C = GeluTanh<T>;
  return x * sigmoid(x * fma(x * x, broadcast(C::cubic), broadcast(C::slope))).value;
}

}  // namespace fastdl::FASTDL_ISA
