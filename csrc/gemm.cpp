#include "gemm.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "buffer.h"
#include "depth.h"
#include "isa.h"
#include "parallel.h"

namespace packdit {
namespace {

constexpr int64_t kPartFloats = 1 << 16;   // of a group of weights in one part of the depth, and
constexpr int64_t kChunkFloats = 1 << 17;  // of the results of a chunk of rows: together they fit a second-level cache
constexpr int64_t kGroupFloats = 1 << 22;  // of a group of weights in all, which a thread may have to pack

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How rows and columns are cut: columns into groups, every line of rows into even blocks.
struct Cut {
    int64_t group_columns, num_groups, block_rows, line_blocks, num_row_blocks, chunk_blocks;

    Cut(const Kernels& kernels, const LeftOperand& left, int64_t columns, int threads) {
        line_blocks = ceil_div(left.line, kernels.block_rows);
        block_rows = ceil_div(left.line, line_blocks);
        num_row_blocks = left.rows / left.line * line_blocks;
        const int64_t panel = kernels.panel_columns, num_panels = ceil_div(columns, panel);
        const int64_t depth = std::max<int64_t>(left.taps * left.width, 1);
        const int64_t most = std::min(kPartFloats / std::min(depth, kMaxDepth), kGroupFloats / depth);
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
          cut_(kernels_, left, weights.columns, threads),
          parts_(cut_depth(left)) {}

    void run(int threads) const {
        const int64_t work = left_.rows * weights_.columns * depth_;
        int64_t most = 0;
        for (const Part& part : parts_) most = std::max(most, part.packed);
        // A thread's share is a run of (group, row block) pairs, so that it packs each of its groups once.
        parallel_ranges(threads, work, cut_.num_groups * cut_.num_row_blocks, [&](int64_t first, int64_t last) {
            const Buffer rows(most), packed(weights_.packed ? 0 : depth_ * cut_.group_columns);
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
        const int64_t first_column = group * cut_.group_columns, panel = kernels_.panel_columns;
        const int64_t columns = std::min(cut_.group_columns, weights_.columns - first_column);
        Product product;
        product.a = rows;
        product.a_stride = kPack;
        product.b_stride = kPack;
        product.b_step = kPack * depth_;
        product.c_stride = weights_.columns;
        for (const Part& part : parts_) {
            product.runs = part.runs.data();
            product.num_runs = static_cast<int64_t>(part.runs.size());
            product.add = &part != &parts_.front();
            for (int64_t block = first_block; block < first_block + num_blocks; ++block) {
                const auto [row, count] = rows_of(block);
                product.rows = count;
                pack_rows(row, count, part, rows);
                if (block + 1 < first_block + num_blocks) fetch_rows(block + 1, part);
                float* out = out_ + row * weights_.columns + first_column;
                for (int64_t j = 0; j < columns; j += panel) {
                    product.b = weights + j * depth_;
                    product.c = out + j;
                    product.columns = static_cast<int>(std::min(panel, columns - j));
                    product.ahead = j + panel < columns ? panel * depth_ : 0;
                    kernels_.multiply(product);
                }
                if (&part != &parts_.back()) continue;
                for (int i = 0; i < product.rows; ++i) {
                    kernels_.finish(out + i * weights_.columns, epilogue_.at(row + i, first_column, weights_.bias),
                                    columns);
                }
            }
        }
    }

    // The first row of a block, and how many it has.
    std::pair<int64_t, int> rows_of(int64_t block) const {
        const int64_t in_line = block % cut_.line_blocks * cut_.block_rows;
        return {block / cut_.line_blocks * left_.line + in_line,
                static_cast<int>(std::min(cut_.block_rows, left_.line - in_line))};
    }

    // Calls visit(sources, count, width) for the runs of a block's rows that make a part, in their packed order.
    template <typename Visit>
    void visit_rows(int64_t row, int count, const Part& part, const Visit& visit) const {
        const int64_t shifts = left_.slides ? 1 : left_.shifts;
        if (left_.slides) count += static_cast<int>(left_.shifts) - 1;
        const float* sources[kPack];
        for (const Piece& piece : part.pieces) {
            for (int64_t shift = 0; shift < shifts; ++shift) {
                left_.locate(row, count, piece.tap + shift, sources);
                for (int i = 0; i < count; ++i) sources[i] += piece.first;
                visit(sources, count, piece.width);
            }
        }
    }

    void pack_rows(int64_t row, int count, const Part& part, float* out) const {
        visit_rows(row, count, part, [&](const float* const* sources, int rows, int64_t width) {
            kernels_.pack_transposed(sources, rows, width, out, kPack);
            out += width * kPack;
        });
    }

    // Brings a block's rows into the caches.
    void fetch_rows(int64_t block, const Part& part) const {
        const auto [row, count] = rows_of(block);
        visit_rows(row, count, part, [](const float* const* sources, int rows, int64_t width) {
            for (int i = 0; i < rows; ++i) {
                for (int64_t j = 0; j < width; j += 16) __builtin_prefetch(sources[i] + j);
            }
        });
    }

    const LeftOperand& left_;
    const Weights& weights_;
    const Epilogue& epilogue_;
    float* const out_;
    const int64_t depth_;
    const Kernels& kernels_;
    const Cut cut_;
    const std::vector<Part> parts_;
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
