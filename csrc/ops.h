// The CPU kernels as whole ops on float32 arrays. Formulas stand beside the references in kernels/*.py. Strides are in
// floats; the last dimension is contiguous. No result depends on the number of threads, nor any row on another row.
#pragma once

#include <array>
#include <cstdint>

#include "gemm.h"
#include "kernels.h"

namespace packdit {

struct Modulation {
    Rows shift, scale;
    Norm norm;
    float eps;
};

// out [tokens, width], contiguous. Throws std::invalid_argument when an index lies outside the table.
void modulate(const Rows& x, const Modulation& modulation, const RowIndex& index, int64_t tokens, int64_t width,
              float* out, int threads);

// total [tokens, width] = x + gate y and, where modulation is not null, modulated = modulate(total).
void gated_residual(const Rows& x, const Rows& y, const Rows& gate, const Modulation* modulation, const RowIndex& index,
                    int64_t tokens, int64_t width, float* total, float* modulated, int threads);

// `token` describes the first of `tokens`; out, cos and sin are contiguous over tokens.
void norm_rope(const NormRope& token, int64_t x_stride, int64_t tokens, int threads);

void norm_silu(const float* x, const float* weight, const float* bias, int64_t rows, int64_t width, Norm norm,
               bool silu, float eps, float* out, int threads);

// x and out [clips, rows, width]: a mean and a variance for each group of columns of a clip.
struct GroupNorm {
    const float *x, *weight, *bias;
    int64_t clips, rows, width, groups;
    bool silu;
    float eps;
    float* out;
};

void group_norm_silu(const GroupNorm& norm, int threads);

struct GuidedStep {
    float* state;
    int64_t slot_stride, token_stride, slots, tokens, channels;
    Rows out;
    int64_t out_rows;
    const int32_t *cond, *uncond;
    const float *guidance, *table;
    RowIndex row;
};

// Throws std::invalid_argument when an index lies outside its array.
void guided_step(const GuidedStep& step, int threads);

// Both throw std::invalid_argument when an index of the epilogue lies outside its table.
void linear(const Rows& x, int64_t rows, int64_t depth, const Weights& weights, const Epilogue& epilogue, float* out,
            int threads);
void linear_int8(const Rows& x, int64_t rows, int64_t depth, const Int8Weights& weights, const Epilogue& epilogue,
                 float* out, int threads);

// Channels-last x [frames, height, width, channels] after past [past_frames, ...] and `missing` frames of zeros. Around
// a frame are zeros, or its nearest pixels.
struct Convolution {
    const float *x, *past;
    int64_t missing, past_frames, frames, height, width, channels;
    std::array<int64_t, 3> kernel, stride;
    int64_t top, left;
    bool nearest;
    std::array<int64_t, 3> out_size;
};

void causal_conv3d(const Convolution& convolution, const Weights& weights, float* out, int threads);

struct Heads {
    const float* data;
    int64_t stride, head_stride, heads;
};

// out [num_queries, heads, head_dim], contiguous; rows that lie in no segment become 0.
struct Attention {
    Heads q, k, v;
    const int32_t *cu_seqlens_q, *cu_seqlens_k;  // within the arrays, and never decreasing
    int64_t segments, num_queries, head_dim;
    bool causal;
    float scale;
    const float* key_bias;  // of each row of k; null: none
    float* out;
};

void varlen_attention(const Attention& attention, int threads);

}  // namespace packdit
