// F16, sixteen floats, in one AVX-512 register. Included by kernels_avx512.cpp only, inside its target pragma.
#pragma once

#include "vec_sum.h"

namespace packdit {
namespace {

constexpr int kTileRows = 14;    // 28 accumulators, 2 columns of the right operand and 1 broadcast fill 32 registers
constexpr int kBlockRows = 14;   // rows that are packed together, at most 16
constexpr int kTileVectors = 2;  // F16 in a tile's row

struct F16 {
    __m512 v;
};

inline __mmask16 first(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }

inline F16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline F16 load(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
inline void store(float* p, F16 a) { _mm512_storeu_ps(p, a.v); }
inline void stream(float* p, F16 a) { _mm512_stream_ps(p, a.v); }  // p is a multiple of 64
inline void finish_streams() { _mm_sfence(); }
inline void store(float* p, F16 a, int64_t n) { _mm512_mask_storeu_ps(p, first(n), a.v); }
inline F16 load_int32(const int32_t* p) { return {_mm512_cvtepi32_ps(_mm512_loadu_si512(p))}; }
// Whole numbers, -127 to 127.
inline void store_int8(int8_t* p, F16 a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v)));
}
inline F16 set(float x) { return {_mm512_set1_ps(x)}; }

inline F16 operator+(F16 a, F16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F16 operator-(F16 a, F16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F16 operator*(F16 a, F16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F16 operator/(F16 a, F16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F16 fma(F16 a, F16 b, F16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F16 max(F16 a, F16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F16 min(F16 a, F16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F16 round(F16 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline F16 select_less(F16 a, F16 b, F16 x, F16 y) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}
inline F16 select_first(int64_t n, F16 x, F16 y) { return {_mm512_mask_blend_ps(first(n), y.v, x.v)}; }

// Lanes 2i and 2i + 1 change places.
inline F16 swap_pairs(F16 a) { return {_mm512_permute_ps(a.v, 0xb1)}; }

inline float sum(F16 a) {
    return sum(
        _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.v), 1))));
}

// a 2^n for whole n, also where 2^n itself is infinite and the result is not.
inline F16 scale_by_pow2(F16 a, F16 n) { return {_mm512_scalef_ps(a.v, n.v)}; }

inline void transpose(F16 (&r)[16]) {
    __m512 pairs[16], quads[16];
    for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_ps(r[i].v, r[i + 1].v);
        pairs[i + 1] = _mm512_unpackhi_ps(r[i].v, r[i + 1].v);
    }
    for (int i = 0; i < 16; i += 4) {
        for (int j = 0; j < 2; ++j) {
            const __m512d low = _mm512_castps_pd(pairs[i + j]);
            const __m512d high = _mm512_castps_pd(pairs[i + j + 2]);
            quads[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            quads[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    }
    for (int i = 0; i < 4; ++i) {
        const __m512 even_low = _mm512_shuffle_f32x4(quads[i], quads[i + 4], 0x88);
        const __m512 odd_low = _mm512_shuffle_f32x4(quads[i], quads[i + 4], 0xdd);
        const __m512 even_high = _mm512_shuffle_f32x4(quads[i + 8], quads[i + 12], 0x88);
        const __m512 odd_high = _mm512_shuffle_f32x4(quads[i + 8], quads[i + 12], 0xdd);
        r[i].v = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
        r[i + 4].v = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
        r[i + 8].v = _mm512_shuffle_f32x4(even_low, even_high, 0xdd);
        r[i + 12].v = _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd);
    }
}

}  // namespace
}  // namespace packdit
