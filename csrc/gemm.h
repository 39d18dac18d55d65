// Products of a left operand, given row by row, with a matrix of weights.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace packdit {

struct Rows {
    const float* data;
    int64_t stride;
};

// A table [rows, width] of which row[t] says the row that token t uses.
struct RowIndex {
    const int32_t* row;
    int64_t table_rows;
};

constexpr int64_t kMaxDepth = 192;  // longer chains lose more than PyTorch does

// The left operand [rows, taps * width]: each row is `taps` runs of `width` floats that may lie anywhere. Rows come in
// lines of one length. Taps come in groups of `shifts`; where it slides, row i of a line has at tap t of a group what
// row i + t has at the group's first.
class LeftOperand {
public:
    LeftOperand(int64_t rows, int64_t line, int64_t taps, int64_t shifts, int64_t width, bool slides)
        : rows(rows), line(line), taps(taps), shifts(shifts), width(width), slides(slides) {}
    virtual ~LeftOperand() = default;
    // out[i] = the run of this tap of row `first + i`, for i < count, all of one line; where it slides, also of up to
    // `shifts - 1` rows that its line would have beyond its end.
    virtual void locate(int64_t first, int count, int64_t tap, const float** out) const = 0;

    const int64_t rows, line, taps, shifts, width;
    const bool slides;
};

// Weights for `columns` outputs of depth taps * width: data [columns][depth] or, packed, blocks of sixteen columns one
// after another, each [depth][16]; then columns is a multiple of sixteen.
struct Weights {
    const float* data;
    int64_t columns;
    bool packed;
    const float* bias;  // null: none
};

// int8 weights as Int8Product has them, the blocks of columns one after another.
struct Int8Weights {
    const uint8_t* data;
    int64_t columns;
    const float* scales;  // of the columns
    const float* bias;    // null: none
};

// What follows a product with its bias: residual + gate[row] activation(product + bias).
struct Epilogue {
    Activation activation;
    Rows residual, gate;  // data null: only the activation
    RowIndex index;       // into gate

    Finish at(int64_t row, int64_t column, const float* bias) const;
};

// out [rows, columns] = epilogue(left weights), whatever the number of rows and threads. The depth is cut into parts of
// at most kMaxDepth, by the numbers of taps and shifts and the width alone; each part is one chain of fused
// multiply-adds, and the parts are added in order.
void gemm(const LeftOperand& left, const Weights& weights, const Epilogue& epilogue, float* out, int threads);

// The same of rows x [rows, depth] that are rounded to int8, each by its own largest value: exact sums, then scaled.
void gemm_int8(const Rows& x, int64_t rows, int64_t depth, const Int8Weights& weights, const Epilogue& epilogue,
               float* out, int threads);

}  // namespace packdit
