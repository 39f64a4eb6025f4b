// The one-dimensional transforms of the Winograd convolutions.
//
// F(M, R) computes M outputs y of R taps g from M + R - 1 inputs d by as many products instead of
// M R:  y = A^T [(G g) * (B^T d)]  (Lavin, Gray 2016), and so the gradient of the taps:
// dg = G^T [(A dy) * (B^T d)]. It multiplies polynomials by way of their values at some points:
//
//   F(2, 3)           0, 1, -1 and infinity
//   F(4, 3), F(2, 5)  0, +-sqrt(1/2), +-sqrt(2) and infinity: these err half as much as 0, +-1,
//                     +-2, and two of the factors are 1. B depends on the points alone.
//   F(4, 2)           +-1/2, +-1 and infinity
//
// In each, `inputs` d, `input_step` of them behind those of the tile before, give `size` products,
// and these `outputs` y.
#pragma once

#include "core/vec.h"

namespace fastdl::FASTDL_ISA {

template <typename T, int M, int R>
struct Winograd;

template <typename T>
struct Winograd<T, 2, 3> {
  using V = Vec<T>;
  using Transposed = Winograd;
  static constexpr int taps = 3, inputs = 4, input_step = 2, size = 4, outputs = 2;

  // B^T d
  FASTDL_INLINE static void input(V (&to)[size], const V (&d)[size]) {
    to[0] = d[0] - d[2];
    to[1] = d[1] + d[2];
    to[2] = d[2] - d[1];
    to[3] = d[1] - d[3];
  }
  // G g
  FASTDL_INLINE static void weight(V (&to)[size], const V (&g)[taps]) {
    const V half = broadcast(T(0.5)), even = half * (g[0] + g[2]), odd = half * g[1];
    to[0] = g[0];
    to[1] = even + odd;
    to[2] = even - odd;
    to[3] = g[2];
  }
  // A^T m
  FASTDL_INLINE static void output(V (&y)[outputs], const V (&m)[size]) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] - m[3];
  }
  // A dy
  FASTDL_INLINE static void output_gradient(V (&to)[size], const V (&dy)[outputs]) {
    to[0] = dy[0];
    to[1] = dy[0] + dy[1];
    to[2] = dy[0] - dy[1];
    to[3] = -dy[1];
  }
  // G^T m
  FASTDL_INLINE static void weight_gradient(V (&dg)[taps], const V (&m)[size]) {
    const V half = broadcast(T(0.5)), even = half * (m[1] + m[2]);
    dg[0] = m[0] + even;
    dg[1] = half * (m[1] - m[2]);
    dg[2] = even + m[3];
  }
};

// What F(4, 3) and F(2, 5) share: the points 0, +-a, +-b and infinity.
template <typename T>
struct WinogradOfSix {
  using V = Vec<T>;
  static constexpr int inputs = 6, size = 6;
  static constexpr T kA = T(0.70710678118654752440), kB = T(1.41421356237309504880);
  static constexpr T kFactorA = T(-2) / 3, kFactorB = T(1) / 6;  // of G

  FASTDL_INLINE static void input(V (&to)[size], const V (&d)[size]) {
    const V half = broadcast(T(0.5)), two = broadcast(T(2)), sum = broadcast(T(2.5));
    const V even_a = fnma(two, d[2], d[4]), odd_a = broadcast(kA) * fnma(two, d[1], d[3]);
    const V even_b = fnma(half, d[2], d[4]), odd_b = broadcast(kB) * fnma(half, d[1], d[3]);
    to[0] = fnma(sum, d[2], d[0] + d[4]);
    to[1] = even_a + odd_a;
    to[2] = even_a - odd_a;
    to[3] = even_b + odd_b;
    to[4] = even_b - odd_b;
    to[5] = fnma(sum, d[3], d[1] + d[5]);
  }
};

template <typename T>
struct Winograd<T, 4, 3> : WinogradOfSix<T> {
  using V = Vec<T>;
  using WinogradOfSix<T>::kA, WinogradOfSix<T>::kB, WinogradOfSix<T>::size;
  using WinogradOfSix<T>::kFactorA, WinogradOfSix<T>::kFactorB;
  using Transposed = Winograd;
  static constexpr int taps = 3, input_step = 4, outputs = 4;

  FASTDL_INLINE static void weight(V (&to)[size], const V (&g)[taps]) {
    const V even_a = broadcast(kFactorA) * fma(broadcast(T(0.5)), g[2], g[0]);
    const V even_b = broadcast(kFactorB) * fma(broadcast(T(2)), g[2], g[0]);
    const V odd_a = broadcast(kFactorA * kA) * g[1], odd_b = broadcast(kFactorB * kB) * g[1];
    to[0] = g[0];
    to[1] = even_a + odd_a;
    to[2] = even_a - odd_a;
    to[3] = even_b + odd_b;
    to[4] = even_b - odd_b;
    to[5] = g[2];
  }
  FASTDL_INLINE static void output(V (&y)[outputs], const V (&m)[size]) {
    const V even_a = m[1] + m[2], odd_a = m[1] - m[2];
    const V even_b = m[3] + m[4], odd_b = m[3] - m[4];
    y[0] = m[0] + even_a + even_b;
    y[1] = fma(broadcast(kB), odd_b, broadcast(kA) * odd_a);
    y[2] = fma(broadcast(T(2)), even_b, broadcast(T(0.5)) * even_a);
    y[3] = fma(broadcast(2 * kB), odd_b, broadcast(kA / 2) * odd_a) + m[5];
  }
  FASTDL_INLINE static void output_gradient(V (&to)[size], const V (&dy)[outputs]) {
    const V half = broadcast(T(0.5)), two = broadcast(T(2));
    const V even_a = fma(half, dy[2], dy[0]), odd_a = broadcast(kA) * fma(half, dy[3], dy[1]);
    const V even_b = fma(two, dy[2], dy[0]), odd_b = broadcast(kB) * fma(two, dy[3], dy[1]);
    to[0] = dy[0];
    to[1] = even_a + odd_a;
    to[2] = even_a - odd_a;
    to[3] = even_b + odd_b;
    to[4] = even_b - odd_b;
    to[5] = dy[3];
  }
  FASTDL_INLINE static void weight_gradient(V (&dg)[taps], const V (&m)[size]) {
    const V even_a = broadcast(kFactorA) * (m[1] + m[2]);
    const V even_b = broadcast(kFactorB) * (m[3] + m[4]);
    const V odd_a = m[1] - m[2], odd_b = m[3] - m[4];
    dg[0] = m[0] + even_a + even_b;
    dg[1] = fma(broadcast(kFactorB * kB), odd_b, broadcast(kFactorA * kA) * odd_a);
    dg[2] = fma(broadcast(T(2)), even_b, fma(broadcast(T(0.5)), even_a, m[5]));
  }
};

template <typename T>
struct Winograd<T, 2, 5> : WinogradOfSix<T> {
  using V = Vec<T>;
  using WinogradOfSix<T>::kA, WinogradOfSix<T>::kB, WinogradOfSix<T>::size;
  using WinogradOfSix<T>::kFactorA, WinogradOfSix<T>::kFactorB;
  using Transposed = Winograd;
  static constexpr int taps = 5, input_step = 2, outputs = 2;

  FASTDL_INLINE static void weight(V (&to)[size], const V (&g)[taps]) {
    const V half = broadcast(T(0.5)), two = broadcast(T(2));
    const V even_a = broadcast(kFactorA) * fma(half, fma(half, g[4], g[2]), g[0]);
    const V even_b = broadcast(kFactorB) * fma(two, fma(two, g[4], g[2]), g[0]);
    const V odd_a = broadcast(kFactorA * kA) * fma(half, g[3], g[1]);
    const V odd_b = broadcast(kFactorB * kB) * fma(two, g[3], g[1]);
    to[0] = g[0];
    to[1] = even_a + odd_a;
    to[2] = even_a - odd_a;
    to[3] = even_b + odd_b;
    to[4] = even_b - odd_b;
    to[5] = g[4];
  }
  FASTDL_INLINE static void output(V (&y)[outputs], const V (&m)[size]) {
    const V odd_a = broadcast(kA) * (m[1] - m[2]);
    y[0] = m[0] + (m[1] + m[2]) + (m[3] + m[4]);
    y[1] = fma(broadcast(kB), m[3] - m[4], odd_a) + m[5];
  }
  FASTDL_INLINE static void output_gradient(V (&to)[size], const V (&dy)[outputs]) {
    const V odd_a = broadcast(kA) * dy[1], odd_b = broadcast(kB) * dy[1];
    to[0] = dy[0];
    to[1] = dy[0] + odd_a;
    to[2] = dy[0] - odd_a;
    to[3] = dy[0] + odd_b;
    to[4] = dy[0] - odd_b;
    to[5] = dy[1];
  }
  FASTDL_INLINE static void weight_gradient(V (&dg)[taps], const V (&m)[size]) {
    const V half = broadcast(T(0.5)), two = broadcast(T(2));
    const V even_a = broadcast(kFactorA) * (m[1] + m[2]);
    const V even_b = broadcast(kFactorB) * (m[3] + m[4]);
    const V odd_a = broadcast(kFactorA * kA) * (m[1] - m[2]);
    const V odd_b = broadcast(kFactorB * kB) * (m[3] - m[4]);
    dg[0] = m[0] + even_a + even_b;
    dg[1] = odd_a + odd_b;
    dg[2] = fma(two, even_b, half * even_a);
    dg[3] = fma(two, odd_b, half * odd_a);
    dg[4] = fma(broadcast(T(4)), even_b, fma(broadcast(T(0.25)), even_a, m[5]));
  }
};

template <typename T>
struct Winograd<T, 4, 2> {
  using V = Vec<T>;
  static constexpr int taps = 2, inputs = 5, input_step = 4, size = 5, outputs = 4;

  FASTDL_INLINE static void input(V (&to)[size], const V (&d)[size]) {
    const V half = broadcast(T(0.5)), quarter = broadcast(T(0.25));
    const V even_a = half * (d[2] - d[0]), odd_a = d[3] - d[1];
    const V even_b = fnma(quarter, d[0], d[2]), odd_b = fnma(quarter, d[1], d[3]);
    to[0] = even_a + odd_a;
    to[1] = even_a - odd_a;
    to[2] = even_b + odd_b;
    to[3] = even_b - odd_b;
    to[4] = fma(quarter, d[0] - d[2], d[4] - d[2]);
  }
  FASTDL_INLINE static void weight(V (&to)[size], const V (&g)[taps]) {
    const V a = broadcast(T(-4) / 3) * g[0], b = broadcast(T(2) / 3) * g[0];
    to[0] = fma(broadcast(T(-2) / 3), g[1], a);
    to[1] = fnma(broadcast(T(-2) / 3), g[1], a);
    to[2] = fma(broadcast(T(2) / 3), g[1], b);
    to[3] = fnma(broadcast(T(2) / 3), g[1], b);
    to[4] = g[1];
  }
  FASTDL_INLINE static void output(V (&y)[outputs], const V (&m)[size]) {
    const V even_a = m[0] + m[1], odd_a = m[0] - m[1];
    const V even_b = m[2] + m[3], odd_b = m[2] - m[3];
    y[0] = even_a + even_b;
    y[1] = fma(broadcast(T(0.5)), odd_a, odd_b);
    y[2] = fma(broadcast(T(0.25)), even_a, even_b);
    y[3] = fma(broadcast(T(0.125)), odd_a, odd_b) + m[4];
  }
  FASTDL_INLINE static void output_gradient(V (&to)[size], const V (&dy)[outputs]) {
    const V half = broadcast(T(0.5)), quarter = broadcast(T(0.25));
    const V even_a = fma(quarter, dy[2], dy[0]), odd_a = half * fma(quarter, dy[3], dy[1]);
    const V even_b = dy[0] + dy[2], odd_b = dy[1] + dy[3];
    to[0] = even_a + odd_a;
    to[1] = even_a - odd_a;
    to[2] = even_b + odd_b;
    to[3] = even_b - odd_b;
    to[4] = dy[3];
  }
  FASTDL_INLINE static void weight_gradient(V (&dg)[taps], const V (&m)[size]) {
    const V two_thirds = broadcast(T(2) / 3);
    dg[0] = two_thirds * fnma(broadcast(T(2)), m[0] + m[1], m[2] + m[3]);
    dg[1] = fma(two_thirds, (m[2] - m[3]) - (m[0] - m[1]), m[4]);
  }
};

// 3 taps with stride 2: the taps 0 and 2 read every other element, as F(4, 2) does each, and tap 1
// those between. 9 products for 4 outputs instead of 12.
template <typename T>
struct WinogradStride2 {
  using V = Vec<T>;
  using Even = Winograd<T, 4, 2>;
  static constexpr int taps = 3, inputs = 9, input_step = 8, size = 9, outputs = 4;

  FASTDL_INLINE static void input(V (&to)[size], const V (&d)[inputs]) {
    const V even[] = {d[0], d[2], d[4], d[6], d[8]}, odd[] = {d[1], d[3], d[5], d[7]};
    join(to, [&](V(&of)[Even::size]) { Even::input(of, even); }, odd);
  }
  FASTDL_INLINE static void weight(V (&to)[size], const V (&g)[taps]) {
    const V even[] = {g[0], g[2]}, odd[] = {g[1], g[1], g[1], g[1]};
    join(to, [&](V(&of)[Even::size]) { Even::weight(of, even); }, odd);
  }
  FASTDL_INLINE static void output(V (&y)[outputs], const V (&m)[size]) {
    V even[outputs];
    Even::output(even, {m[0], m[1], m[2], m[3], m[4]});
    for (int i = 0; i < outputs; ++i) y[i] = even[i] + m[Even::size + i];
  }
  FASTDL_INLINE static void output_gradient(V (&to)[size], const V (&dy)[outputs]) {
    join(to, [&](V(&of)[Even::size]) { Even::output_gradient(of, dy); }, dy);
  }
  FASTDL_INLINE static void weight_gradient(V (&dg)[taps], const V (&m)[size]) {
    V even[Even::taps];
    Even::weight_gradient(even, {m[0], m[1], m[2], m[3], m[4]});
    dg[0] = even[0];
    dg[1] = (m[5] + m[6]) + (m[7] + m[8]);
    dg[2] = even[1];
  }

  // The gradient of the inputs, with the taps flipped: 8 of them from 5 dy. If the padding is odd,
  // each first of two meets tap 1 of one dy, and each second the taps 0 and 2 of two.
  struct Transposed {
    static constexpr int taps = 3, inputs = 5, input_step = 4, size = 9, outputs = 8;

    FASTDL_INLINE static void input(V (&to)[size], const V (&dy)[inputs]) {
      const V odd[] = {dy[0], dy[1], dy[2], dy[3]};
      join(to, [&](V(&of)[Even::size]) { Even::input(of, dy); }, odd);
    }
    FASTDL_INLINE static void weight(V (&to)[size], const V (&g)[taps]) {
      WinogradStride2::weight(to, g);
    }
    FASTDL_INLINE static void output(V (&dx)[outputs], const V (&m)[size]) {
      V even[Even::outputs];
      Even::output(even, {m[0], m[1], m[2], m[3], m[4]});
      for (int i = 0; i < Even::outputs; ++i) {
        dx[2 * i] = m[Even::size + i];
        dx[2 * i + 1] = even[i];
      }
    }
  };

 private:
  template <typename Fill>
  FASTDL_INLINE static void join(V (&to)[size], Fill&& fill, const V (&odd)[Even::outputs]) {
    V even[Even::size];
    fill(even);
    for (int i = 0; i < Even::size; ++i) to[i] = even[i];
    for (int i = 0; i < Even::outputs; ++i) to[Even::size + i] = odd[i];
  }
};

}  // namespace fastdl::FASTDL_ISA
