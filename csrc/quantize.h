// Rows to int8 and products of int8 back to floats: the float half of the int8 linear layer.
#pragma once

namespace packdit {
namespace {

constexpr float kSmallestPeak = 1e-30f;  // SMALLEST_PEAK in kernels/linear_int8.py

// The largest absolute value of a row, at least kSmallestPeak; NaN where one is not finite.
inline float peak_of(const float* x, int64_t width) {
    F16 peaks[4] = {set(0.0f), set(0.0f), set(0.0f), set(0.0f)};
    const float zero = sum_over(width, [&](int64_t i, auto lanes) {
        const F16 value = load(x + i, lanes);
        F16& peak = peaks[i / 16 % 4];
        peak = max(peak, max(value, set(0.0f) - value));
        return value - value;  // NaN where it is not finite
    });
    float lanes[16];
    store(lanes, max(max(peaks[0], peaks[1]), max(peaks[2], peaks[3])));
    float peak = kSmallestPeak;
    for (float lane : lanes) peak = lane > peak ? lane : peak;
    return peak + zero;
}

float quantize(const float* x, int64_t width, int8_t* out, int32_t* sum) {
    const float peak = peak_of(x, width);
    if (peak != peak) {
        for (int64_t i = 0; i < (width + 15) / 16 * 16; ++i) out[i] = 0;
        *sum = 0;
        return peak;
    }
    const F16 factor = set(127.0f / peak);
    const float total = sum_over(width, [&](int64_t i, auto lanes) {
        const F16 value = round(load(x + i, lanes) * factor);
        store_int8(out + i, value);
        return value;
    });
    *sum = static_cast<int32_t>(total);  // of whole numbers, and below 2^24: exact
    return peak / 127.0f;
}

void dequantize(const int32_t* product, float row_scale, const float* column_scales, int64_t width, float* out) {
    for_vectors(width, [&](int64_t j, auto lanes) {
        const F16 scale = set(row_scale) * load(column_scales + j, lanes);
        store(out + j, load_int32(product + j) * scale, lanes);
    });
}

}  // namespace
}  // namespace packdit
