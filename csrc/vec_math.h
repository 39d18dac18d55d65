// Elementary functions and reductions over F16, written once, so that every instruction set gives the same bits.
#pragma once

namespace packdit {
namespace {

// All sixteen lanes. It stands where a lane count may, so that one body serves whole vectors, which are much faster to
// load and store than parts, and the last one.
struct All {};
inline F16 load(const float* p, All) { return load(p); }
inline void store(float* p, F16 a, All) { store(p, a); }
inline F16 select_first(All, F16 x, F16) { return x; }

// Calls body(i, lanes) for i = 0, 16, ...; lanes is All, and for the rest of n the number of lanes that count.
template <typename Body>
inline void for_vectors(int64_t n, Body body) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) body(i, All{});
    if (i < n) body(i, n - i);
}

// e^x to 1 ulp, and 0 where it is below 2.5e-38: results that are not normal numbers are slow on some machines.
// x = n ln 2 + r, and e^r by a polynomial with least relative error (3e-9) on |r| <= ln(2) / 2. NaN stays NaN.
inline F16 exp(F16 x) {
    const F16 smallest = set(-86.6f);
    const F16 clamped = min(set(89.0f), max(smallest, x));
    const F16 n = round(clamped * set(1.44269504f));
    F16 r =
        fma(n, set(-0.693359375f), clamped);  // ln 2 in two parts, the first short enough for n times it to be exact
    r = fma(n, set(2.12194440e-4f), r);
    F16 p = set(0.0013814540579915047f);
    p = fma(p, r, set(0.00836874544620514f));
    p = fma(p, r, set(0.04166838899254799f));
    p = fma(p, r, set(0.1666652113199234f));
    p = fma(p, r, set(0.4999999403953552f));
    p = fma(p, r, set(1.0f));
    p = fma(p, r, set(1.0f));
    return select_less(x, smallest, set(0.0f), scale_by_pow2(p, n));
}

inline F16 silu(F16 x) { return x / (set(1.0f) + exp(set(0.0f) - x)); }

// x (1 + tanh(u)) / 2 = x / (1 + e^(-2u)) with u = sqrt(2 / pi) (x + 0.044715 x^3)
inline F16 gelu_tanh(F16 x) {
    const F16 inner = fma(x * x, x * set(0.044715f), x);
    return x / (set(1.0f) + exp(inner * set(-1.5957691216057308f)));
}

// x Phi(x) with Phi(-a) = e^(-a^2 / 2) g(a) for a >= 0, where g is a polynomial in t = 1 / (1 + 0.3 a) without a
// constant term, fitted for least relative error (4e-9) on 0 <= a <= 14.5; beyond, the exponential is 0.
inline F16 gelu(F16 x) {
    const F16 a = max(x, set(0.0f) - x);
    const F16 t = set(1.0f) / fma(a, set(0.3f), set(1.0f));
    F16 g = set(-0.02062346041202545f);
    g = fma(g, t, set(0.11243555694818497f));
    g = fma(g, t, set(-0.22821342945098877f));
    g = fma(g, t, set(0.19178429245948792f));
    g = fma(g, t, set(-0.07942330092191696f));
    g = fma(g, t, set(0.09615673124790192f));
    g = fma(g, t, set(0.07838968187570572f));
    g = fma(g, t, set(0.11023542284965515f));
    g = fma(g, t, set(0.11957181990146637f));
    g = fma(g, t, set(0.11968669295310974f));
    const F16 tail = exp(a * a * set(-0.5f)) * (g * t);
    return x * select_less(x, set(0.0f), tail, set(1.0f) - tail);
}

inline F16 activate(F16 x, Activation activation) {
    switch (activation) {
        case Activation::kGelu:
            return gelu(x);
        case Activation::kGeluTanh:
            return gelu_tanh(x);
        case Activation::kSilu:
            return silu(x);
        case Activation::kNone:
            break;
    }
    return x;
}

// Calls body(i, i % 4) for i < n, so that four results, each in a variable of its own, can be under way at a time.
template <typename Body>
inline void by_fours(int64_t n, Body body) {
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) body(i + j, j);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        if (i + j < n) body(i + j, j);
    }
}

// The sum of n values, of which f(i, lanes) gives those from i on; it counts `lanes` of them (see for_vectors). Four
// interleaved partial sums of sixteen lanes each: the order of additions depends on n alone.
template <typename Function>
inline float sum_over(int64_t n, Function f) {
    F16 partial[4] = {set(0.0f), set(0.0f), set(0.0f), set(0.0f)};
    by_fours(n / 16, [&](int64_t i, int j) { partial[j] = partial[j] + f(16 * i, All{}); });
    const int64_t rest = n % 16;
    if (rest > 0) partial[0] = partial[0] + select_first(rest, f(n - rest, rest), set(0.0f));
    return sum((partial[0] + partial[1]) + (partial[2] + partial[3]));
}

}  // namespace
}  // namespace packdit
