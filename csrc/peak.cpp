#include "peak.h"

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cstring>

#include "isa.h"

namespace packdit {
namespace {

constexpr int kRepeats = 20, kSteps = 1000000;
constexpr int kChains = 12;  // independent ones: more than the latency of one times the units, no more than registers
volatile float sink;         // what is computed is read, so that it is computed

// Each runs kSteps steps of kChains chains and gives the operations that it did.
__attribute__((target("avx512f"))) double run_avx512() {
    __m512 chains[kChains];
    for (int i = 0; i < kChains; ++i) chains[i] = _mm512_set1_ps(static_cast<float>(i));
    const __m512 factor = _mm512_set1_ps(0.999f), addend = _mm512_set1_ps(1e-3f);
    for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
        for (int i = 0; i < kChains; ++i) chains[i] = _mm512_fmadd_ps(chains[i], factor, addend);
    }
    for (int i = 0; i < kChains; ++i) sink = chains[i][0];
    return 2.0 * 16 * kChains * kSteps;
}

__attribute__((target("avx2,fma"))) double run_avx2() {
    __m256 chains[kChains];
    for (int i = 0; i < kChains; ++i) chains[i] = _mm256_set1_ps(static_cast<float>(i));
    const __m256 factor = _mm256_set1_ps(0.999f), addend = _mm256_set1_ps(1e-3f);
    for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
        for (int i = 0; i < kChains; ++i) chains[i] = _mm256_fmadd_ps(chains[i], factor, addend);
    }
    for (int i = 0; i < kChains; ++i) sink = chains[i][0];
    return 2.0 * 8 * kChains * kSteps;
}

double run_portable() {
    float chains[kChains][4];
    for (int i = 0; i < kChains; ++i) std::fill(chains[i], chains[i] + 4, static_cast<float>(i));
    for (int step = 0; step < kSteps; ++step) {
        for (auto& chain : chains) {
            for (float& x : chain) x = x * 0.999f + 1e-3f;
        }
    }
    for (const auto& chain : chains) sink = chain[0];
    return 2.0 * 4 * kChains * kSteps;
}

}  // namespace

double fma_peak(int threads) {
    const char* isa = kernels().name;
    const auto run = !std::strcmp(isa, "avx512") ? run_avx512 : !std::strcmp(isa, "avx2") ? run_avx2 : run_portable;
    double best = 0;
    for (int repeat = 0; repeat < kRepeats; ++repeat) {
        double operations = 0;
        const double start = omp_get_wtime();
#pragma omp parallel num_threads(threads) reduction(+ : operations)
        operations += run();
        best = std::max(best, operations / (omp_get_wtime() - start));
    }
    return best;
}

}  // namespace packdit
