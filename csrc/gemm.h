// Products of a left operand, given row by row, with a matrix of weights.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace packdit {

constexpr int64_t kMaxDepth = 192;  // longer chains lose more than PyTorch does

// The left operand [rows, taps * width]: each row is `taps` runs of `width` floats that may lie anywhere.
class LeftOperand {
public:
    LeftOperand(int64_t rows, int64_t taps, int64_t width) : rows(rows), taps(taps), width(width) {}
    virtual ~LeftOperand() = default;
    // out[i] = the run of this tap of row `first + i`, for i < count
    virtual void locate(int64_t first, int count, int64_t tap, const float** out) const = 0;

    const int64_t rows, taps, width;
};

// Weights for `columns` outputs of depth taps * width. depth_major: element (k, n) at data[k * columns + n], else at
// data[n * depth + k].
struct Weights {
    const float* data;
    int64_t columns;
    bool depth_major;
    const float* bias;  // null: none
};

// out [rows, columns] = activation(left weights + bias), whatever the number of rows and threads. The depth is cut into
// even parts of at most kMaxDepth, by its length alone; each part is one chain of fused multiply-adds over ascending
// depth, and the parts are added in order.
void gemm(const LeftOperand& left, const Weights& weights, Activation activation, float* out, int threads);

}  // namespace packdit
