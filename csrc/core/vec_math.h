// Elementary functions on Vec<T>, by range reduction and polynomials.
#pragma once

#include <math.h>
#include <string.h>

#include "core/vec.h"

namespace fastdl::FASTDL_ISA {

constexpr double kLog2E = 1.44269504088896340736;

template <typename T>
struct ExpConstants;

// Below `lowest` exp is 0, below `lowest_normal` denormal, beyond `highest` expm1 is inf. ln2 in
// two parts, so that n * ln2_high is exact. The coefficients are those of (exp(r) - 1 - r) / r^2 on
// |r| <= ln2 / 2: for expm1 by Chebyshev interpolation, relative error of exp(r) 1.0e-8 (float)
// and 1.7e-17 (double). In float exp does with one less, chosen for the least relative
// error: 1.05e-7, 0.9 eps.
template <>
struct ExpConstants<float> {
  static constexpr float lowest = -104.0f, lowest_normal = -87.33f, highest = 89.0f;
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float exp[] = {0.499992303f, 0.166671154f, 0.0418903315f, 0.0083125013f};
  static constexpr float expm1[] = {0.5f, 0.16666577f, 0.0416665546f, 0.00836317905f,
                                    0.00139261836f};
};
template <>
struct ExpConstants<double> {
  static constexpr double lowest = -746.0, lowest_normal = -708.39, highest = 710.0;
  static constexpr double ln2_high = 0.693145751953125, ln2_low = 1.42860682030941723212e-6;
  static constexpr double expm1[] = {0.500000000000000102,     0.166666666666666675,
                                     0.0416666666666241279,    0.00833333333333006183,
                                     0.00138888889172137169,   0.000198412698630536169,
                                     0.0000248015212959543751, 2.75572684599970648e-6,
                                     2.76200884454097482e-7,   2.51003854955103191e-8};
  static constexpr auto& exp = expm1;
};

// c[0] + c[1] x + ... + c[n-1] x^(n-1), by Horner's rule.
template <typename T, int n>
FASTDL_INLINE Vec<T> polynomial(Vec<T> x, const T (&c)[n]) {
  Vec<T> sum = broadcast(c[n - 1]);
#pragma GCC unroll 32
  for (int i = n - 2; i >= 0; --i) sum = fma(sum, x, broadcast(c[i]));
  return sum;
}

// x^n + c[n-1] x^(n-1) + ... + c[0].
template <typename T, int n>
FASTDL_INLINE Vec<T> monic_polynomial(Vec<T> x, const T (&c)[n]) {
  Vec<T> sum = x + broadcast(c[n - 1]);
#pragma GCC unroll 32
  for (int i = n - 2; i >= 0; --i) sum = fma(sum, x, broadcast(c[i]));
  return sum;
}

template <typename T>
struct ExpParts {
  Vec<T> n, r;
};

// exp(x) = 2^n * exp(r), n = round(x / ln2), |r| <= ln2 / 2.
template <typename T>
FASTDL_INLINE ExpParts<T> split_exp(Vec<T> x) {
  using C = ExpConstants<T>;
  const Vec<T> n = round(x * broadcast(static_cast<T>(kLog2E)));
  return {n, fnma(n, broadcast(C::ln2_low), fnma(n, broadcast(C::ln2_high), x))};
}

// For finite x; NaN stays NaN.
template <typename T>
FASTDL_INLINE Vec<T> exp_finite(Vec<T> x) {
  const Vec<T> one = broadcast(T(1));
  const auto [n, r] = split_exp(x);
  return scale_by_power(fma(r, fma(r, polynomial(r, ExpConstants<T>::exp), one), one), n);
}

// For any x but inf, as all who use it have x <= 0; NaN stays NaN.
template <typename T>
FASTDL_INLINE Vec<T> exp(Vec<T> x) {
  return exp_finite(max(broadcast(ExpConstants<T>::lowest), x));  // b, the NaN, wins
}

// 2^-r = 1 + c[0] r + c[1] r^2 + ... on |r| <= 1/2: relative error 9.3e-8 (float, 0.8 eps, the
// least of this degree) and 2.0e-17 (double, by Chebyshev interpolation). To add `rounder`, 1.5
// times the power of two whose last bit is 1, rounds to an integer.
template <typename T>
struct Exp2Constants;
template <>
struct Exp2Constants<float> {
  static constexpr float rounder = 12582912;
  static constexpr float coefficients[] = {-0.693147004f, 0.240222469f, -0.0555071086f,
                                           0.0096712932f, -0.00132695551f};
};
template <>
struct Exp2Constants<double> {
  static constexpr double rounder = 6755399441055744;
  static constexpr double coefficients[] = {
      -0.693147180559945286,   0.240226506959100972,    -0.055504108664821597,
      0.00961812910760688825,  -0.00133335581464169356, 0.000154035304417361095,
      -1.52527338298361497e-5, 1.32154425878863003e-6,  -1.017806244582691e-7,
      7.07258595634712334e-9,  -4.45496060195922265e-10};
};

// 2^(a b) for |a b| < 2^22; NaN stays NaN. The product is not rounded, and half as many
// multiplications as for exp(a b) reduce it.
template <typename T>
FASTDL_INLINE Vec<T> exp2_product(Vec<T> a, Vec<T> b) {
  using C = Exp2Constants<T>;
  const Vec<T> n = fma(a, b, broadcast(C::rounder)) - broadcast(C::rounder);
  const Vec<T> r = fnma(a, b, n);
  return scale_by_power(fma(r, polynomial(r, C::coefficients), broadcast(T(1))), n);
}

// exp(x), but 0 where that would be denormal: Intel's cores take a slow path for each
// multiplication by one of those. For x that are rounded themselves: log2(e) in one part costs x /
// 9 eps.
template <typename T>
FASTDL_INLINE Vec<T> exp_normal(Vec<T> x) {
  const Vec<T> lowest = broadcast(ExpConstants<T>::lowest_normal);
  const Vec<T> e = exp2_product(max(lowest, x), broadcast(static_cast<T>(kLog2E)));
  return select(x < lowest, zero<T>(), e);
}

// exp(x) - 1 without the cancellation at small x: within 2 eps * |expm1(x)|. expm1(-0) is +0.
template <typename T>
FASTDL_INLINE Vec<T> expm1(Vec<T> x) {
  using C = ExpConstants<T>;
  const Vec<T> one = broadcast(T(1));
  // Below -64 it is -1 to the last bit, and 2^-n would overflow in float.
  const auto [n, r] = split_exp(min(broadcast(C::highest), max(broadcast(T(-64)), x)));
  const Vec<T> rest = fma(r * r, polynomial(r, C::expm1), r);
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

// In float x P(x^2) / Q(x^2) takes 11 instead of 18 cycles a vector. Up to 9.1, from where on tanh
// is 1 to the last bit, the quotient errs by 2.7e-8, the least of these degrees; at 9.4 it exceeds
// 1. All terms are positive, so nothing cancels, and the first ones 1, so that denormals are exact.
FASTDL_INLINE Vec<float> tanh(Vec<float> x) {
  constexpr float numerator[] = {1, 0.133774802f, 0.00349124614f, 2.05323558e-5f, 1.32382469e-8f};
  constexpr float denominator[] = {1, 0.467108011f, 0.0258608013f, 0.000327830756f, 7.73105455e-7f};
  const Vec<float> one = broadcast(1.0f), limit = broadcast(9.4f);
  const Vec<float> c = max(-limit, min(limit, x)), z = c * c;
  const Vec<float> y = c * polynomial(z, numerator) / polynomial(z, denominator);
  return max(-one, min(one, y));
}

// Phi(-a) = exp(-a^2 / 2) * g(a) for a >= 0, Phi the normal distribution function (so that
// erfc(z) = 2 Phi(-sqrt(2) z)). g is smooth and falls from 1/2 like 1 / (sqrt(2 pi) a), so a
// quotient of polynomials suits it; one that falls as fast. On 0 <= a <= largest, beyond which
// Phi(-a) counts as 0 (float: 2e-38, as denormals cost an Intel CPU 40 ns a vector), its relative
// error is (1 + a^2 / 4) times 8.9e-8 (float, the least) and 1.9e-17 (double, by interpolation).
// The denominator is monic; all terms are positive, so nothing cancels.
template <typename T>
struct NormalTailConstants;
template <>
struct NormalTailConstants<float> {
  static constexpr float largest = 12.9f;
  static constexpr float numerator[] = {13.4075881f, 9.27428f, 2.95789187f, 0.398835163f};
  static constexpr float denominator[] = {26.8151806f, 39.9438368f, 24.3801161f, 7.40504027f};
};
template <>
struct NormalTailConstants<double> {
  static constexpr double largest = 39.0;
  static constexpr double numerator[] = {
      176697.258856878533, 268749.809008970699, 202549.735346272105, 96967.0927585116789,
      32152.4769192263842, 7621.72970772553399, 1290.65451518337965, 150.937526752456996,
      11.130387930086078,  0.398942280397722916};
  static constexpr double denominator[] = {
      353394.517713757067, 819467.647574122755, 882242.795912507304, 582117.610653406892,
      261418.756639522537, 83773.6918479957388, 19481.187752354671,  3263.0908373488465,
      379.344272418792553, 27.8997450913546717};
};

template <typename T>
struct NormalTail {
  Vec<T> a, tail, bell;
};

// a = min(|x|, largest), tail = Phi(-|x|) and bell = exp(-x^2 / 2). The tail is relatively
// accurate, up to the rounding of x^2: (4 + x^2 / 2) eps.
template <typename T>
FASTDL_INLINE NormalTail<T> normal_tail(Vec<T> x) {
  using C = NormalTailConstants<T>;
  const Vec<T> a = min(broadcast(C::largest), abs(x));
  const Vec<T> e = exp2_product(a, a * broadcast(static_cast<T>(kLog2E / -2)));
  const Vec<T> bell = select(a < broadcast(C::largest), e, zero<T>());
  return {a, bell * (polynomial(a, C::numerator) / monic_polynomial(a, C::denominator)), bell};
}

template <typename T>
FASTDL_INLINE Vec<T> relu(Vec<T> x) {
  return max(zero<T>(), x);  // x where it is NaN or -0
}

// sigmoid(x) = 1 / (1 + exp(-x)), computed from exp(-|x|), which never overflows.
template <typename T>
FASTDL_INLINE Vec<T> sigmoid(Vec<T> x) {
  const Vec<T> one = broadcast(T(1)), e = exp(-abs(x));
  return select(x < zero<T>(), e, one) / (one + e);
}

// x sigmoid(x)
template <typename T>
FASTDL_INLINE Vec<T> silu(Vec<T> x) {
  const Vec<T> e = exp(-abs(x));
  return select(x < zero<T>(), x * e, x) / (broadcast(T(1)) + e);
}

template <typename T>
struct Sigmoids {
  Vec<T> value, complement;  // sigmoid(x), sigmoid(-x)
};

template <typename T>
FASTDL_INLINE Sigmoids<T> sigmoids(Vec<T> x) {
  const Vec<T> one = broadcast(T(1)), e = exp(-abs(x));
  const Vec<T> upper = one / (one + e), lower = e * upper;
  const Mask<T> negative = x < zero<T>();
  return {select(negative, lower, upper), select(negative, upper, lower)};
}

// x Phi(x) = max(x, 0) - |x| Phi(-|x|)
template <typename T>
FASTDL_INLINE Vec<T> gelu(Vec<T> x) {
  const auto [a, tail, bell] = normal_tail(x);
  // x * 0 is -0, and NaN for -inf.
  return fnma(a, tail, select(x < zero<T>(), x * zero<T>(), x));
}

// Its approximation x sigmoid(2 u), 2 u = x (slope + cubic x^2). From |x| = largest on exp(-2 |u|),
// which would be denormal, counts as 0.
template <typename T>
struct GeluTanh {
  static constexpr double slope = 1.59576912160573071176;    // 2 sqrt(2 / pi)
  static constexpr double cubic = 0.0713548162726002487763;  // 0.044715 * slope
  static constexpr T largest = static_cast<T>(sizeof(T) == 4 ? 10.001 : 21.145);
};

template <typename T>
FASTDL_INLINE Vec<T> gelu_tanh(Vec<T> x) {
  using C = GeluTanh<T>;
  const Vec<T> a = min(broadcast(C::largest), abs(x));
  constexpr T slope = static_cast<T>(-kLog2E * C::slope);
  constexpr T cubic = static_cast<T>(-kLog2E * C::cubic);
  const Vec<T> power = exp2_product(a, fma(a * a, broadcast(cubic), broadcast(slope)));
  const Vec<T> e = select(a < broadcast(C::largest), power, zero<T>());
  return select(x < zero<T>(), x * e, x) / (broadcast(T(1)) + e);
}

}  // namespace fastdl::FASTDL_ISA
