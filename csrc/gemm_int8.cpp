#include <algorithm>
#include <vector>

#include "buffer.h"
#include "gemm.h"
#include "isa.h"
#include "parallel.h"

namespace packdit {
namespace {

constexpr int64_t kGroupBytes = 1 << 18;  // of weights that a thread multiplies with one row block after another

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

class Int8Gemm {
public:
    Int8Gemm(const Rows& x, int64_t rows, int64_t depth, const Int8Weights& weights, const Epilogue& epilogue,
             float* out)
        : x_(x),
          rows_(rows),
          depth_(depth),
          fours_(ceil_div(depth, 4)),
          weights_(weights),
          epilogue_(epilogue),
          out_(out),
          int8_(int8_kernels()),
          num_row_blocks_(ceil_div(rows, int8_.block_rows)),
          num_blocks_(ceil_div(weights.columns, kInt8Columns)),
          packed_(num_row_blocks_ * kPack * std::max<int64_t>(fours_, 1)),
          scales_(rows),
          sums_(rows) {}

    void run(int threads) {
        const int64_t work = rows_ * depth_;
        parallel_ranges(threads, 8 * work, num_row_blocks_, [&](int64_t first, int64_t last) {
            Buffer bytes(kPack * ceil_div(depth_, 16) * 4);
            for (int64_t block = first; block < last; ++block) quantize(block, reinterpret_cast<int8_t*>(bytes.data()));
        });
        const int64_t num_panels = ceil_div(num_blocks_, int8_.panel_blocks);
        const int64_t bytes = num_blocks_ * kInt8Columns * 4 * fours_;
        const int64_t share = ceil_div(4 * threads, num_row_blocks_);  // groups that keep all threads at work
        const int64_t wanted = std::min(std::max(ceil_div(bytes, kGroupBytes), share), num_panels);
        const int64_t group = ceil_div(num_panels, wanted) * int8_.panel_blocks;  // in blocks
        const int64_t num_groups = ceil_div(num_blocks_, group);
        parallel_ranges(threads, work * weights_.columns / 4, num_groups * num_row_blocks_, [&](int64_t a, int64_t b) {
            std::vector<int32_t> products(kPack * group * kInt8Columns);
            for (; a < b; ++a) {
                const int64_t first = a / num_row_blocks_ * group;
                multiply(a % num_row_blocks_, first, std::min(group, num_blocks_ - first), products.data());
            }
        });
    }

private:
    int rows_of(int64_t block) const {
        return static_cast<int>(std::min<int64_t>(int8_.block_rows, rows_ - block * int8_.block_rows));
    }

    int8_t* packed_block(int64_t block) const {
        return reinterpret_cast<int8_t*>(packed_.data() + block * kPack * fours_);
    }

    // Rounds a block of rows to int8 and packs them. `bytes` has room for kPack rows.
    void quantize(int64_t block, int8_t* bytes) {
        const int64_t stride = ceil_div(depth_, 16) * 16, first = block * int8_.block_rows;
        const float* fours[kPack];  // of each row; the packing only moves them
        const int count = rows_of(block);
        for (int i = 0; i < count; ++i) {
            int8_t* row = bytes + i * stride;
            scales_[first + i] = kernels().quantize(x_.data + (first + i) * x_.stride, depth_, row, &sums_[first + i]);
            fours[i] = reinterpret_cast<const float*>(row);
        }
        kernels().pack_transposed(fours, count, fours_, reinterpret_cast<float*>(packed_block(block)), kPack);
    }

    void multiply(int64_t row_block, int64_t first_block, int64_t num_blocks, int32_t* products) const {
        const int64_t first_row = row_block * int8_.block_rows, first_column = first_block * kInt8Columns;
        const int64_t columns = std::min(num_blocks * kInt8Columns, weights_.columns - first_column);
        Int8Product product;
        product.fours = fours_;
        product.a = packed_block(row_block);
        product.sums = &sums_[first_row];
        product.b = weights_.data + first_column * 4 * fours_;
        product.c = products;
        product.c_stride = num_blocks * kInt8Columns;
        product.rows = rows_of(row_block);
        product.num_blocks = static_cast<int>(num_blocks);
        int8_.multiply(product);
        for (int i = 0; i < product.rows; ++i) {
            const int64_t row = first_row + i;
            float* out = out_ + row * weights_.columns + first_column;
            kernels().dequantize(products + i * product.c_stride, scales_[row], weights_.scales + first_column, columns,
                                 out);
            kernels().finish(out, epilogue_.at(row, first_column, weights_.bias), columns);
        }
    }

    const Rows& x_;
    const int64_t rows_, depth_, fours_;
    const Int8Weights& weights_;
    const Epilogue& epilogue_;
    float* const out_;
    const Int8Kernels& int8_;
    const int64_t num_row_blocks_, num_blocks_;
    const Buffer packed_;        // [row block][fours][kPack rows] of four activations each
    std::vector<float> scales_;  // of the rows
    std::vector<int32_t> sums_;
};

}  // namespace

void gemm_int8(const Rows& x, int64_t rows, int64_t depth, const Int8Weights& weights, const Epilogue& epilogue,
               float* out, int threads) {
    if (rows == 0 || weights.columns == 0) return;
    Int8Gemm(x, rows, depth, weights, epilogue, out).run(threads);
}

}  // namespace packdit
