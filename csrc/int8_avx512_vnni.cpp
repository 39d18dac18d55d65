// int8 products for machines with AVX-512 VNNI.
#include <immintrin.h>

#include "int8.h"
#include "kernels.h"

// What is included above is compiled for every machine; only the kernels below may use more.
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vnni")

namespace packdit {
namespace {

constexpr int kTileRows = 14;   // 28 sums, 2 registers of weights and 1 of activations fill 32
constexpr int kBlockRows = 14;  // at most kPack
constexpr int kTileBlocks = 2;

struct I16 {
    __m512i v;
};
using Weights = I16;

inline Weights load_weights(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline I16 dot4(I16 sum, Weights w, int32_t four) { return {_mm512_dpbusd_epi32(sum.v, w.v, _mm512_set1_epi32(four))}; }
inline I16 start(int32_t sum_of_row) { return {_mm512_set1_epi32(excess(sum_of_row))}; }
inline void store(int32_t* p, I16 sum) { _mm512_storeu_si512(p, sum.v); }

}  // namespace
}  // namespace packdit

#include "int8_tile.h"
#pragma GCC pop_options

namespace packdit {

const Int8Kernels& int8_avx512_vnni() {
    static const Int8Kernels kernels{"avx512_vnni", kBlockRows, kTileBlocks, int8_multiply};
    return kernels;
}

}  // namespace packdit
