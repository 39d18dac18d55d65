#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "buffer.h"
#include "check_index.h"
#include "isa.h"
#include "ops.h"
#include "parallel.h"

namespace packdit {
namespace {

class DenseRows final : public LeftOperand {
public:
    DenseRows(const Rows& x, int64_t rows, int64_t depth) : LeftOperand(rows, rows, 1, 1, depth, false), x_(x) {}

    void locate(int64_t first, int count, int64_t, const float** out) const override {
        for (int i = 0; i < count; ++i) out[i] = x_.data + (first + i) * x_.stride;
    }

private:
    const Rows x_;
};

// Row r is the window of output position r: one tap a kernel position.
class WindowRows final : public LeftOperand {
public:
    WindowRows(const Convolution& c, int most_rows)
        : LeftOperand(c.out_size[0] * c.out_size[1] * c.out_size[2], line_of(c, most_rows),
                      c.kernel[0] * c.kernel[1] * c.kernel[2], c.kernel[2], c.channels, slides_in(c, most_rows)),
          c_(c),
          zeros_(c.channels, 0.0f) {}

    void locate(int64_t first, int count, int64_t tap, const float** out) const override {
        const int64_t dx = tap % c_.kernel[2] - c_.left;
        const int64_t dy = tap / c_.kernel[2] % c_.kernel[1] - c_.top;
        const int64_t dt = tap / c_.kernel[2] / c_.kernel[1] - c_.missing;
        int64_t x = first % c_.out_size[2];
        int64_t y = first / c_.out_size[2] % c_.out_size[1];
        int64_t t = first / c_.out_size[2] / c_.out_size[1];
        for (int i = 0; i < count; ++i) {
            out[i] = position(t * c_.stride[0] + dt, y * c_.stride[1] + dy, x * c_.stride[2] + dx);
            if (++x < c_.out_size[2] || slides) continue;
            x = 0;
            if (++y < c_.out_size[1]) continue;
            y = 0;
            ++t;
        }
    }

private:
    // Blocks of rows slide along a line of the frame where the packed rows have room for those that the kernel sees
    // beyond them, and lines are long enough to make good blocks.
    static bool slides_in(const Convolution& c, int most_rows) {
        return c.kernel[2] > 1 && c.stride[2] == 1 && most_rows + c.kernel[2] - 1 <= kPack &&
               2 * c.out_size[2] >= most_rows;
    }
    static int64_t line_of(const Convolution& c, int most_rows) {
        return slides_in(c, most_rows) ? c.out_size[2] : c.out_size[0] * c.out_size[1] * c.out_size[2];
    }

    // t counts from the first carried frame
    const float* position(int64_t t, int64_t y, int64_t x) const {
        if (t < 0) return zeros_.data();
        if (c_.nearest) {
            y = std::clamp<int64_t>(y, 0, c_.height - 1);
            x = std::clamp<int64_t>(x, 0, c_.width - 1);
        }
        if (y < 0 || y >= c_.height || x < 0 || x >= c_.width) return zeros_.data();
        const bool carried = t < c_.past_frames;
        const int64_t frame = carried ? t : t - c_.past_frames;
        return (carried ? c_.past : c_.x) + ((frame * c_.height + y) * c_.width + x) * c_.channels;
    }

    const Convolution& c_;
    const std::vector<float> zeros_;
};

// The rows that lie in no segment: before the first and after the last.
void clear_outside(const Attention& a) {
    const int64_t row = a.q.heads * a.head_dim;
    std::fill(a.out, a.out + a.cu_seqlens_q[0] * row, 0.0f);
    std::fill(a.out + a.cu_seqlens_q[a.segments] * row, a.out + a.num_queries * row, 0.0f);
}

AttentionBlock block_of(const Attention& a, int64_t segment, int64_t first_query, int64_t head, int64_t max_queries) {
    const int64_t start_q = a.cu_seqlens_q[segment], start_k = a.cu_seqlens_k[segment];
    const int64_t kv_head = head / (a.q.heads / a.k.heads);
    AttentionBlock b;
    b.q = a.q.data + (start_q + first_query) * a.q.stride + head * a.q.head_stride;
    b.k = a.k.data + start_k * a.k.stride + kv_head * a.k.head_stride;
    b.v = a.v.data + start_k * a.v.stride + kv_head * a.v.head_stride;
    b.out = a.out + ((start_q + first_query) * a.q.heads + head) * a.head_dim;
    b.q_stride = a.q.stride;
    b.k_stride = a.k.stride;
    b.v_stride = a.v.stride;
    b.out_stride = a.q.heads * a.head_dim;
    b.first_query = first_query;
    b.segment_queries = a.cu_seqlens_q[segment + 1] - start_q;
    b.segment_keys = a.cu_seqlens_k[segment + 1] - start_k;
    b.num_queries = std::min(max_queries, b.segment_queries - first_query);
    b.head_dim = a.head_dim;
    b.causal = a.causal;
    b.scale = a.scale;
    b.key_bias = a.key_bias ? a.key_bias + start_k : nullptr;
    return b;
}

}  // namespace

void linear(const Rows& x, int64_t rows, int64_t depth, const Weights& weights, const Epilogue& epilogue, float* out,
            int threads) {
    if (epilogue.residual.data) require_index("linear: row", epilogue.index, rows);
    gemm(DenseRows(x, rows, depth), weights, epilogue, out, threads);
}

void linear_int8(const Rows& x, int64_t rows, int64_t depth, const Int8Weights& weights, const Epilogue& epilogue,
                 float* out, int threads) {
    if (epilogue.residual.data) require_index("linear_int8: row", epilogue.index, rows);
    gemm_int8(x, rows, depth, weights, epilogue, out, threads);
}

void causal_conv3d(const Convolution& convolution, const Weights& weights, float* out, int threads) {
    gemm(WindowRows(convolution, kernels().block_rows), weights, Epilogue{}, out, threads);
}

void varlen_attention(const Attention& a, int threads) {
    const Kernels& k = kernels();
    clear_outside(a);
    std::vector<std::pair<int64_t, int64_t>> blocks;  // (segment, first query)
    int64_t work = 0;
    for (int64_t s = 0; s < a.segments; ++s) {
        const int64_t queries = a.cu_seqlens_q[s + 1] - a.cu_seqlens_q[s];
        work += queries * (a.cu_seqlens_k[s + 1] - a.cu_seqlens_k[s]) * a.q.heads * a.head_dim * 2;
        for (int64_t first = 0; first < queries; first += k.attention_queries) blocks.emplace_back(s, first);
    }
    const int64_t num_tasks = static_cast<int64_t>(blocks.size()) * a.q.heads;
    std::atomic<int64_t> next{0};
    parallel(threads, work, [&](int, int num_threads) {
        const Buffer scratch(k.attention_scratch(a.head_dim));
        const auto block = [&](int64_t task) {
            const auto [segment, first_query] = blocks[task / a.q.heads];
            AttentionBlock b = block_of(a, segment, first_query, task % a.q.heads, k.attention_queries);
            b.scratch = scratch.data();
            return b;
        };
        // A thread takes several tasks at a time, so that it knows its next one, and fewer towards the end.
        for (;;) {
            const int64_t left = num_tasks - next.load(std::memory_order_relaxed);
            const int64_t count = std::clamp<int64_t>(left / (8 * num_threads), 1, 16);
            const int64_t first = next.fetch_add(count, std::memory_order_relaxed);
            const int64_t last = std::min(first + count, num_tasks);
            if (first >= last) break;
            AttentionBlock now = block(first);
            for (int64_t task = first; task < last; ++task) {
                const bool more = task + 1 < last;
                const AttentionBlock then = more ? block(task + 1) : now;
                now.next = more ? &then : nullptr;
                k.attention(now);
                now = then;
            }
        }
    });
}

}  // namespace packdit
