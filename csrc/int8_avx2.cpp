// int8 products for machines with AVX2 and no VNNI.
//
// pmaddubsw adds two products of an unsigned and a signed byte in int16, where it saturates. |w| (at most 128) times an
// activation (at most 127) that carries the sign of w cannot reach that: 2 * 128 * 127 < 2^15.
#include <immintrin.h>

#include "int8.h"
#include "kernels.h"

// What is included above is compiled for every machine; only the kernels below may use more.
#pragma GCC push_options
#pragma GCC target("avx2")

namespace packdit {
namespace {

constexpr int kTileRows = 4;    // 8 sums, 4 registers of weights, 1 of activations, 1 of products and 1 of ones of 16
constexpr int kBlockRows = 16;  // at most kPack
constexpr int kTileBlocks = 1;

struct I16 {
    __m256i low, high;
};
struct Half {
    __m256i weights, sizes;
};
struct Weights {
    Half low, high;
};

inline Half load_half(const uint8_t* p) {
    const __m256i stored = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i weights = _mm256_xor_si256(stored, _mm256_set1_epi8(-128));  // less 128
    return {weights, _mm256_abs_epi8(weights)};
}
inline Weights load_weights(const uint8_t* p) { return {load_half(p), load_half(p + 32)}; }
inline __m256i dot4_half(__m256i sum, Half w, __m256i activations) {
    const __m256i pairs = _mm256_maddubs_epi16(w.sizes, _mm256_sign_epi8(activations, w.weights));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline I16 dot4(I16 sum, Weights w, int32_t four) {
    const __m256i activations = _mm256_set1_epi32(four);
    return {dot4_half(sum.low, w.low, activations), dot4_half(sum.high, w.high, activations)};
}
inline I16 start(int32_t) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline void store(int32_t* p, I16 sum) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), sum.low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), sum.high);
}

}  // namespace
}  // namespace packdit

#include "int8_tile.h"
#pragma GCC pop_options

namespace packdit {

const Int8Kernels& int8_avx2() {
    static const Int8Kernels kernels{"avx2", kBlockRows, kTileBlocks, int8_multiply};
    return kernels;
}

}  // namespace packdit
