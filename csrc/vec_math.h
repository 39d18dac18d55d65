// Elementary functions and reductions over F16, written once, so that every instruction set gives the same bits.
#pragma once

namespace packdit {
namespace {

// Sums and maxima of the sixteen lanes by halves: lanes i and i + 8, then i + 4, i + 2, i + 1.
inline float sum(F16 a) {
    float v[16];
    store(v, a);
    for (int half = 8; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) v[i] = v[i] + v[i + half];
    }
    return v[0];
}

inline float maximum(F16 a) {
    float v[16];
    store(v, a);
    for (int half = 8; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) v[i] = v[i] > v[i + half] ? v[i] : v[i + half];
    }
    return v[0];
}

// e^x to 1 ulp. x = n ln 2 + r; e^r by a polynomial with least relative error (3e-9) on |r| <= ln(2) / 2; 2^n in two
// factors, so that results below the normal range are rounded once and those above it become infinite. NaN stays NaN.
inline F16 exp(F16 x) {
    x = min(set(89.0f), max(set(-104.0f), x));
    const F16 n = round(x * set(1.44269504f));
    F16 r = fma(n, set(-0.693359375f), x);  // ln 2 in two parts, the first short enough for n times it to be exact
    r = fma(n, set(2.12194440e-4f), r);
    F16 p = set(0.0013814540579915047f);
    p = fma(p, r, set(0.00836874544620514f));
    p = fma(p, r, set(0.04166838899254799f));
    p = fma(p, r, set(0.1666652113199234f));
    p = fma(p, r, set(0.4999999403953552f));
    p = fma(p, r, set(1.0f));
    p = fma(p, r, set(1.0f));
    const F16 half = round(n * set(0.5f));
    return p * pow2(half) * pow2(n - half);
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

// The sum of n values, which f(i, lanes) gives sixteen at a time from i on; only the first `lanes` of them count. Four
// interleaved partial sums of sixteen lanes each: the order of additions depends on n alone.
template <typename Function>
inline float sum_over(int64_t n, Function f) {
    F16 partial[4] = {set(0.0f), set(0.0f), set(0.0f), set(0.0f)};
    for (int64_t i = 0; i < n; i += 16) {
        F16& p = partial[i / 16 % 4];
        const int64_t lanes = n - i < 16 ? n - i : 16;
        p = p + select_first(lanes, f(i, lanes), set(0.0f));
    }
    return sum((partial[0] + partial[1]) + (partial[2] + partial[3]));
}

}  // namespace
}  // namespace packdit
