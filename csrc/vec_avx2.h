// F16, sixteen floats, in two AVX2 registers. Included by kernels_avx2.cpp only, inside its target pragma.
#pragma once

#include "vec_sum.h"

namespace packdit {
namespace {

constexpr int kTileRows = 6;     // 12 accumulators, 2 registers of the right operand and 1 broadcast of 16 registers
constexpr int kBlockRows = 12;   // rows that are packed together, at most 16
constexpr int kTileVectors = 1;  // F16 in a tile's row

struct F16 {
    __m256 low, high;
};

inline __m256i first(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline F16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline F16 load(const float* p, int64_t n) {
    return {_mm256_maskload_ps(p, first(n)), _mm256_maskload_ps(p + 8, first(n - 8))};
}
inline void store(float* p, F16 a) {
    _mm256_storeu_ps(p, a.low);
    _mm256_storeu_ps(p + 8, a.high);
}
inline void stream(float* p, F16 a) {  // p is a multiple of 64
    _mm256_stream_ps(p, a.low);
    _mm256_stream_ps(p + 8, a.high);
}
inline void finish_streams() { _mm_sfence(); }
inline void store(float* p, F16 a, int64_t n) {
    _mm256_maskstore_ps(p, first(n), a.low);
    _mm256_maskstore_ps(p + 8, first(n - 8), a.high);
}
inline __m256 load_int32_half(const int32_t* p) {
    return _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline F16 load_int32(const int32_t* p) { return {load_int32_half(p), load_int32_half(p + 8)}; }
// Whole numbers, -127 to 127.
inline void store_int8(int8_t* p, F16 a) {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high));
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);  // packing goes by halves of registers
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
inline F16 set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }

inline F16 operator+(F16 a, F16 b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline F16 operator-(F16 a, F16 b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline F16 operator*(F16 a, F16 b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline F16 operator/(F16 a, F16 b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
inline F16 fma(F16 a, F16 b, F16 c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline F16 max(F16 a, F16 b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
inline F16 min(F16 a, F16 b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
inline F16 round(F16 a) {
    constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(a.low, kMode), _mm256_round_ps(a.high, kMode)};
}
inline F16 select_less(F16 a, F16 b, F16 x, F16 y) {
    return {_mm256_blendv_ps(y.low, x.low, _mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ)),
            _mm256_blendv_ps(y.high, x.high, _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ))};
}
inline F16 select_first(int64_t n, F16 x, F16 y) {
    return {_mm256_blendv_ps(y.low, x.low, _mm256_castsi256_ps(first(n))),
            _mm256_blendv_ps(y.high, x.high, _mm256_castsi256_ps(first(n - 8)))};
}

// Lanes 2i and 2i + 1 change places.
inline F16 swap_pairs(F16 a) { return {_mm256_permute_ps(a.low, 0xb1), _mm256_permute_ps(a.high, 0xb1)}; }

inline float sum(F16 a) { return sum(_mm256_add_ps(a.low, a.high)); }

inline __m256 scale_half(__m256 a, __m256 n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(126));
    return _mm256_mul_ps(_mm256_add_ps(a, a), _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
// a 2^n for whole n, also where 2^n itself is infinite and the result is not.
inline F16 scale_by_pow2(F16 a, F16 n) { return {scale_half(a.low, n.low), scale_half(a.high, n.high)}; }

inline void transpose8(__m256 (&r)[8]) {
    __m256 pairs[8], quads[8];
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        for (int j = 0; j < 2; ++j) {
            quads[i + 2 * j] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0x44);
            quads[i + 2 * j + 1] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0xee);
        }
    }
    for (int i = 0; i < 4; ++i) {
        r[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
    }
}

inline void transpose(F16 (&r)[16]) {
    __m256 top_left[8], top_right[8], bottom_left[8], bottom_right[8];
    for (int i = 0; i < 8; ++i) {
        top_left[i] = r[i].low;
        top_right[i] = r[i].high;
        bottom_left[i] = r[i + 8].low;
        bottom_right[i] = r[i + 8].high;
    }
    transpose8(top_left);
    transpose8(top_right);
    transpose8(bottom_left);
    transpose8(bottom_right);
    for (int i = 0; i < 8; ++i) {
        r[i] = {top_left[i], bottom_left[i]};
        r[i + 8] = {top_right[i], bottom_right[i]};
    }
}

}  // namespace
}  // namespace packdit
