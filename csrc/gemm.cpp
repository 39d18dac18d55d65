#include "gemm.h"

#include <algorithm>

#include "buffer.h"
#include "isa.h"
#include "parallel.h"

namespace packdit {
namespace {

constexpr int64_t kGroupFloats = 1 << 17;  // of a packed group of panels: half a second-level cache of 1 MB
constexpr int64_t kRowBlocksToPack = 3;    // with fewer row blocks, packing weights costs more than it saves

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How the product is cut: columns into groups of panels, rows into blocks, the depth into even parts.
struct Cut {
    int64_t panel, group_columns, num_groups, block_rows, num_row_blocks, depth, num_parts;

    Cut(const Kernels& kernels, int64_t rows, int64_t columns, int64_t total_depth) {
        panel = kernels.panel_columns;
        block_rows = kernels.block_rows;
        num_row_blocks = ceil_div(rows, block_rows);
        num_parts = std::max<int64_t>(ceil_div(total_depth, kMaxDepth), 1);
        depth = ceil_div(total_depth, num_parts);
        const int64_t num_panels = ceil_div(columns, panel);
        const int64_t most = std::max<int64_t>(kGroupFloats / (std::max<int64_t>(depth, 1) * panel), 1);
        num_groups = ceil_div(num_panels, most);
        group_columns = ceil_div(num_panels, std::max<int64_t>(num_groups, 1)) * panel;
    }
};

class Gemm {
public:
    Gemm(const LeftOperand& left, const Weights& weights, const Epilogue& epilogue, float* out)
        : left_(left),
          weights_(weights),
          epilogue_(epilogue),
          out_(out),
          depth_(left.taps * left.width),
          kernels_(kernels()),
          cut_(kernels_, left.rows, weights.columns, depth_) {}

    void run(int threads) const {
        const int64_t work = left_.rows * weights_.columns * depth_;
        // A thread's share is a run of (group, row block) pairs, so that it packs each of its groups once.
        parallel_ranges(threads, work, cut_.num_groups * cut_.num_row_blocks, [&](int64_t first, int64_t last) {
            Buffer rows(kPack * cut_.depth), panels(cut_.depth * cut_.group_columns);
            while (first < last) {
                const int64_t group = first / cut_.num_row_blocks;
                const int64_t end = std::min(last, (group + 1) * cut_.num_row_blocks);
                multiply_group(group, first % cut_.num_row_blocks, end - first, rows.data(), panels.data());
                first = end;
            }
        });
    }

private:
    void multiply_group(int64_t group, int64_t first_block, int64_t num_blocks, float* rows, float* panels) const {
        const int64_t first_column = group * cut_.group_columns;
        const int64_t columns = std::min(cut_.group_columns, weights_.columns - first_column);
        for (int64_t part = 0; part < cut_.num_parts; ++part) {
            const int64_t first_depth = part * cut_.depth;
            const int64_t depth = std::min(cut_.depth, depth_ - first_depth);
            const bool in_place = weights_.depth_major && num_blocks < kRowBlocksToPack;
            const int64_t whole = in_place ? columns / cut_.panel * cut_.panel : 0;  // columns that are read in place
            pack_weights(first_depth, depth, first_column + whole, columns - whole, panels);
            for (int64_t block = first_block; block < first_block + num_blocks; ++block) {
                const int64_t row = block * cut_.block_rows;
                const int count = static_cast<int>(std::min(cut_.block_rows, left_.rows - row));
                pack_rows(row, count, first_depth, depth, rows);
                float* out = out_ + row * weights_.columns + first_column;
                for (int64_t j = 0; j < columns; j += cut_.panel) {
                    const bool direct = j < whole;
                    Product product;
                    product.depth = depth;
                    product.a = rows;
                    product.a_stride = kPack;
                    product.b = direct ? weights_.data + first_depth * weights_.columns + first_column + j
                                       : panels + (j - whole) * depth;
                    product.b_stride = direct ? weights_.columns : cut_.panel;
                    product.c = out + j;
                    product.c_stride = weights_.columns;
                    product.rows = count;
                    product.columns = static_cast<int>(std::min(cut_.panel, columns - j));
                    product.add = part > 0;
                    kernels_.multiply(product);
                }
                if (part < cut_.num_parts - 1) continue;
                for (int i = 0; i < count; ++i) {
                    kernels_.finish(out + i * weights_.columns, epilogue_.at(row + i, first_column, weights_.bias),
                                    columns);
                }
            }
        }
    }

    // Panels [depth][panel], one after another, padded with zeros.
    void pack_weights(int64_t first_depth, int64_t depth, int64_t first_column, int64_t columns, float* out) const {
        for (int64_t j = 0; j < columns; j += cut_.panel, out += depth * cut_.panel) {
            const int64_t count = std::min(cut_.panel, columns - j);
            const int64_t column = first_column + j;
            if (weights_.depth_major) {
                kernels_.pack_plain(weights_.data + first_depth * weights_.columns + column, weights_.columns, depth,
                                    count, out, cut_.panel);
                continue;
            }
            const float* sources[kPack];
            for (int64_t i = 0; i < cut_.panel; i += kPack) {
                const int lanes = static_cast<int>(std::clamp<int64_t>(count - i, 0, kPack));
                for (int lane = 0; lane < lanes; ++lane) {
                    sources[lane] = weights_.data + (column + i + lane) * depth_ + first_depth;
                }
                kernels_.pack_transposed(sources, lanes, depth, out + i, cut_.panel);
            }
        }
    }

    void pack_rows(int64_t row, int count, int64_t first_depth, int64_t depth, float* out) const {
        const float* runs[kPack];
        for (int64_t at = first_depth; at < first_depth + depth;) {
            const int64_t tap = at / left_.width, offset = at % left_.width;
            const int64_t width = std::min(left_.width - offset, first_depth + depth - at);
            left_.locate(row, count, tap, runs);
            for (int i = 0; i < count; ++i) runs[i] += offset;
            kernels_.pack_transposed(runs, count, width, out + (at - first_depth) * kPack, kPack);
            at += width;
        }
    }

    const LeftOperand& left_;
    const Weights& weights_;
    const Epilogue& epilogue_;
    float* const out_;
    const int64_t depth_;
    const Kernels& kernels_;
    const Cut cut_;
};

}  // namespace

Finish Epilogue::at(int64_t row, int64_t column, const float* bias) const {
    Finish finish{};
    finish.bias = bias ? bias + column : nullptr;
    finish.activation = activation;
    if (residual.data) {
        finish.residual = residual.data + row * residual.stride + column;
        finish.gate = gate.data + index.row[row] * gate.stride + column;
    }
    return finish;
}

void gemm(const LeftOperand& left, const Weights& weights, const Epilogue& epilogue, float* out, int threads) {
    if (left.rows == 0 || weights.columns == 0) return;
    Gemm(left, weights, epilogue, out).run(threads);
}

}  // namespace packdit
