// int8 products for machines with AVX-VNNI, which have no AVX-512.
#include <immintrin.h>

#include "int8.h"
#include "kernels.h"

// What is included above is compiled for every machine; only the kernels below may use more.
#pragma GCC push_options
#pragma GCC target("avx2,avxvnni")

namespace packdit {
namespace {

constexpr int kTileRows = 6;    // 12 sums, 2 registers of weights and 1 of activations of 16
constexpr int kBlockRows = 12;  // at most kPack
constexpr int kTileBlocks = 1;

struct I16 {
    __m256i low, high;
};
using Weights = I16;

inline __m256i load_half(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline Weights load_weights(const uint8_t* p) { return {load_half(p), load_half(p + 32)}; }
inline I16 dot4(I16 sum, Weights w, int32_t four) {
    const __m256i activations = _mm256_set1_epi32(four);
    return {_mm256_dpbusd_avx_epi32(sum.low, w.low, activations),
            _mm256_dpbusd_avx_epi32(sum.high, w.high, activations)};
}
inline I16 start(int32_t sum_of_row) {
    const __m256i value = _mm256_set1_epi32(excess(sum_of_row));
    return {value, value};
}
inline void store(int32_t* p, I16 sum) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), sum.low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), sum.high);
}

}  // namespace
}  // namespace packdit

#include "int8_tile.h"
#pragma GCC pop_options

namespace packdit {

const Int8Kernels& int8_avx_vnni() {
    static const Int8Kernels kernels{"avx_vnni", kBlockRows, kTileBlocks, int8_multiply};
    return kernels;
}

}  // namespace packdit
