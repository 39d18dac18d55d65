#include "gemm.h"

#include <algorithm>

#include "buffer.h"
#include "isa.h"
#include "parallel.h"

namespace packdit {
namespace {

constexpr int64_t kPartFloats = 1 << 16;   // of a group of weights in one part of the depth, and
constexpr int64_t kChunkFloats = 1 << 17;  // of the results of a chunk of rows: together they fit a second-level cache
constexpr int64_t kGroupFloats = 1 << 22;  // of a group of weights in all, which a thread may have to pack

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How the product is cut: columns into groups, rows into blocks, the depth into even parts.
struct Cut {
    int64_t group_columns, num_groups, block_rows, num_row_blocks, chunk_blocks, depth, num_parts;

    Cut(const Kernels& kernels, int64_t rows, int64_t columns, int64_t total_depth, int threads) {
        const int64_t panel = kernels.panel_columns;
        block_rows = kernels.block_rows;
        num_row_blocks = ceil_div(rows, block_rows);
        num_parts = std::max<int64_t>(ceil_div(total_depth, kMaxDepth), 1);
        depth = ceil_div(total_depth, num_parts);
        const int64_t num_panels = ceil_div(columns, panel);
        const int64_t most =
            std::min(kPartFloats / std::max<int64_t>(depth, 1), kGroupFloats / std::max<int64_t>(total_depth, 1));
        const int64_t share = ceil_div(4 * threads, num_row_blocks);  // groups that keep all threads at work
        num_groups = std::min(std::max(ceil_div(columns, std::max(most, panel)), share), num_panels);
        group_columns = ceil_div(num_panels, num_groups) * panel;
        num_groups = ceil_div(columns, group_columns);
        chunk_blocks = std::max<int64_t>(kChunkFloats / (group_columns * block_rows), 1);
    }
};

class Gemm {
public:
    Gemm(const LeftOperand& left, const Weights& weights, const Epilogue& epilogue, float* out, int threads)
        : left_(left),
          weights_(weights),
          epilogue_(epilogue),
          out_(out),
          depth_(left.taps * left.width),
          kernels_(kernels()),
          cut_(kernels_, left.rows, weights.columns, depth_, threads) {}

    void run(int threads) const {
        const int64_t work = left_.rows * weights_.columns * depth_;
        // A thread's share is a run of (group, row block) pairs, so that it packs each of its groups once.
        parallel_ranges(threads, work, cut_.num_groups * cut_.num_row_blocks, [&](int64_t first, int64_t last) {
            const Buffer rows(kPack * cut_.depth), packed(weights_.packed ? 0 : depth_ * cut_.group_columns);
            while (first < last) {
                const int64_t group = first / cut_.num_row_blocks;
                const int64_t end = std::min(last, (group + 1) * cut_.num_row_blocks);
                const float* weights = pack_weights(group * cut_.group_columns, packed.data());
                for (; first < end; first += cut_.chunk_blocks) {
                    const int64_t block = first % cut_.num_row_blocks;
                    multiply(group, block, std::min(cut_.chunk_blocks, end - first), weights, rows.data());
                }
                first = end;
            }
        });
    }

private:
    // Blocks of weights from a column on: where they lie packed, or packed into `out`.
    const float* pack_weights(int64_t first_column, float* out) const {
        if (weights_.packed) return weights_.data + first_column * depth_;
        const int64_t columns = std::min(cut_.group_columns, weights_.columns - first_column);
        for (int64_t j = 0; j < columns; j += kPack) {
            const int lanes = static_cast<int>(std::min<int64_t>(columns - j, kPack));
            const float* sources[kPack];
            for (int i = 0; i < lanes; ++i) sources[i] = weights_.data + (first_column + j + i) * depth_;
            kernels_.pack_transposed(sources, lanes, depth_, out + j * depth_, kPack);
        }
        return out;
    }

    // A chunk of row blocks with a group of columns.
    void multiply(int64_t group, int64_t first_block, int64_t num_blocks, const float* weights, float* rows) const {
        const int64_t first_column = group * cut_.group_columns;
        const int64_t columns = std::min(cut_.group_columns, weights_.columns - first_column);
        for (int64_t part = 0; part < cut_.num_parts; ++part) {
            Product product;
            const int64_t first_depth = part * cut_.depth;
            product.depth = std::min(cut_.depth, depth_ - first_depth);
            product.a = rows;
            product.a_stride = kPack;
            product.b_stride = kPack;
            product.b_step = kPack * depth_;
            product.c_stride = weights_.columns;
            product.add = part > 0;
            for (int64_t block = first_block; block < first_block + num_blocks; ++block) {
                const int64_t row = block * cut_.block_rows;
                product.rows = static_cast<int>(std::min(cut_.block_rows, left_.rows - row));
                pack_rows(row, product.rows, first_depth, product.depth, rows);
                float* out = out_ + row * weights_.columns + first_column;
                for (int64_t j = 0; j < columns; j += kernels_.panel_columns) {
                    product.b = weights + j * depth_ + first_depth * kPack;
                    product.c = out + j;
                    const bool last = j + kernels_.panel_columns >= columns;
                    product.ahead = !last                       ? product.b + kernels_.panel_columns * depth_
                                    : part + 1 < cut_.num_parts ? weights + (first_depth + product.depth) * kPack
                                                                : nullptr;
                    product.columns = static_cast<int>(std::min<int64_t>(kernels_.panel_columns, columns - j));
                    kernels_.multiply(product);
                }
                if (part < cut_.num_parts - 1) continue;
                for (int i = 0; i < product.rows; ++i) {
                    kernels_.finish(out + i * weights_.columns, epilogue_.at(row + i, first_column, weights_.bias),
                                    columns);
                }
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
    Gemm(left, weights, epilogue, out, threads).run(threads);
}

}  // namespace packdit
