// F16, sixteen floats, in plain C++: right on any machine, and slow. Included by kernels_portable.cpp only.
#pragma once

namespace packdit {
namespace {

constexpr int kTileRows = 4;
constexpr int kBlockRows = 12;  // rows that are packed together, at most 16
constexpr int kTileVectors = 1;

struct F16 {
    float v[16];
};

template <typename Function>
inline F16 each(Function f) {
    F16 out;
    for (int i = 0; i < 16; ++i) out.v[i] = f(i);
    return out;
}

inline F16 load(const float* p) {
    return each([=](int i) { return p[i]; });
}
inline F16 load(const float* p, int64_t n) {
    return each([=](int i) { return i < n ? p[i] : 0.0f; });
}
inline void store(float* p, F16 a, int64_t n) {
    for (int64_t i = 0; i < n; ++i) p[i] = a.v[i];
}
inline void store(float* p, F16 a) { store(p, a, 16); }
inline F16 load_int32(const int32_t* p) {
    return each([=](int i) { return static_cast<float>(p[i]); });
}
// Whole numbers, -127 to 127.
inline void store_int8(int8_t* p, F16 a) {
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(a.v[i]);
}
inline void stream(float* p, F16 a) { store(p, a); }
inline void finish_streams() {}
inline F16 set(float x) {
    return each([=](int) { return x; });
}

inline F16 operator+(F16 a, F16 b) {
    return each([&](int i) { return a.v[i] + b.v[i]; });
}
inline F16 operator-(F16 a, F16 b) {
    return each([&](int i) { return a.v[i] - b.v[i]; });
}
inline F16 operator*(F16 a, F16 b) {
    return each([&](int i) { return a.v[i] * b.v[i]; });
}
inline F16 operator/(F16 a, F16 b) {
    return each([&](int i) { return a.v[i] / b.v[i]; });
}
inline F16 fma(F16 a, F16 b, F16 c) {
    return each([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
}
// As the x86 instructions: the second operand when the two are equal or either is NaN.
inline F16 max(F16 a, F16 b) {
    return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F16 min(F16 a, F16 b) {
    return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline F16 round(F16 a) {
    return each([&](int i) { return std::nearbyint(a.v[i]); });
}
inline F16 select_less(F16 a, F16 b, F16 x, F16 y) {
    return each([&](int i) { return a.v[i] < b.v[i] ? x.v[i] : y.v[i]; });
}
inline F16 select_first(int64_t n, F16 x, F16 y) {
    return each([&](int i) { return i < n ? x.v[i] : y.v[i]; });
}
// Lanes 2i and 2i + 1 change places.
inline F16 swap_pairs(F16 a) {
    return each([&](int i) { return a.v[i ^ 1]; });
}

// By halves: lanes i and i + 8, then i + 4, i + 2, i + 1.
inline float sum(F16 a) {
    for (int half = 8; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) a.v[i] = a.v[i] + a.v[i + half];
    }
    return a.v[0];
}

// a 2^n for whole n, also where 2^n itself is infinite and the result is not.
inline F16 scale_by_pow2(F16 a, F16 n) {
    return each([&](int i) { return std::isnan(n.v[i]) ? n.v[i] : std::ldexp(a.v[i], static_cast<int>(n.v[i])); });
}

inline void transpose(F16 (&r)[16]) {
    for (int i = 0; i < 16; ++i) {
        for (int j = 0; j < i; ++j) std::swap(r[i].v[j], r[j].v[i]);
    }
}

}  // namespace
}  // namespace packdit
