// The sum of eight lanes, for both register widths.
#pragma once

namespace packdit {
namespace {

// By halves, as the portable sum(F16) does it: lanes i and i + 4, then i + 2, i + 1.
inline float sum(__m256 a) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

}  // namespace
}  // namespace packdit
