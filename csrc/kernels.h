// The innermost loops, compiled once for each instruction set. All sets give the same bits: they run the same templates
// over F16, sixteen floats, and every output element is computed by one sequence of operations that depends on nothing
// but its own row and the widths.
#pragma once

#include <cstdint>

namespace packdit {

constexpr int64_t kMaxInt8Depth = 1 << 17;  // 127^2 times it fits int32, 127 times it a float
constexpr int kPack = 16;                   // rows of a packed left operand lie this far apart: packed[k * kPack + row]

enum class Norm : int { kLayer, kRms, kNone };  // in the order of NORMS in kernels/norm.py

// In the order of ACTIVATIONS in kernels/linear.py.
enum class Activation : int { kNone, kGelu, kGeluTanh, kSilu };

// A piece of a product's depth: where its first k lies in a and in b.
struct Run {
    int64_t a, b, depth;
};

// c [rows, columns] from a [depth, rows] and b [depth, columns]: the sum of a[k, i] b[k, j] is one chain of fused
// multiply-adds over ascending k, run by run, and becomes c[i, j] or is added to it. At most panel_columns columns; of
// b whole vectors of sixteen are read.
struct Product {
    const Run* runs;
    int64_t num_runs;
    const float* a;
    int64_t a_stride;
    const float* b;
    int64_t b_stride, b_step;  // from one k to the next; from sixteen columns to the next sixteen
    int64_t ahead;             // how far from b lies what is fetched into the caches meanwhile; 0: nothing
    float* c;
    int64_t c_stride;
    int rows, columns;
    bool add;
};

// One query block of one head of one segment. Pointers are to its first row; strides are floats between rows.
struct AttentionBlock {
    const float *q, *k, *v;
    float* out;
    int64_t q_stride, k_stride, v_stride, out_stride;
    int64_t first_query, num_queries;  // the block, within the segment
    int64_t segment_queries, segment_keys;
    int64_t head_dim;
    bool causal;
    float scale;
    const float* key_bias;       // added to the scaled scores of each key; null: none
    float* scratch;              // attention_scratch(head_dim) floats, aligned to 64 bytes
    const AttentionBlock* next;  // what the same thread does afterwards; null: unknown
};

// q or k of one token: num_heads vectors of head_dim, head_stride apart; out is contiguous.
struct NormRope {
    const float* x;
    int64_t head_stride, num_heads, head_dim;
    const float* weight;  // null: none
    Norm norm;
    bool across_heads;
    float eps;
    const float *cos, *sin;  // of the token, num_angles each
    int64_t num_angles;
    bool interleaved;
    float* scratch;  // num_heads * head_dim + 2 * head_dim floats
    float* out;
};

// Results of an op that are larger than the caches are streamed past them. `next` and
// `next_too`, where not null, are what will be read after a row.

// out = norm(x) (1 + scale) + shift
struct ModulateRow {
    const float *x, *shift, *scale;
    int64_t width;
    Norm norm;
    float eps;
    float* out;
    bool streams;
    const float *next, *next_too;
};

// out = x + gate y, and the same in `copy` where that is not null
struct GatedRow {
    const float *x, *y, *gate;
    int64_t width;
    float *out, *copy;
    bool streams;
};

// What follows a product in one row: residual + gate activation(product + bias).
struct Finish {
    const float* bias;  // null: none
    Activation activation;
    const float *residual, *gate;  // null: only the activation
};

struct Kernels {
    const char* name;
    int block_rows;     // rows of a left operand that are packed and multiplied together
    int panel_columns;  // columns of a right operand that are packed together

    // out[j * stride + i] = rows[i][j] for i < count, and anything for the other i below 16. 1 <= count <= 16.
    void (*pack_transposed)(const float* const* rows, int count, int64_t width, float* out, int64_t stride);
    // out[i * stride + j] = x[i * x_stride + j] for j < columns, and 0 for the other j below stride.
    void (*pack_plain)(const float* x, int64_t x_stride, int64_t rows, int64_t columns, float* out, int64_t stride);
    void (*multiply)(const Product& product);
    void (*finish)(float* x, const Finish& finish, int64_t width);  // in place

    // Rounds a row to int8: out = round(127 x / peak) with peak = max |x|, and 0 beyond the width up to a multiple of
    // sixteen; *sum is their sum. Returns what turns int8 back into x, and NaN where an x is not finite. Rows longer
    // than kMaxInt8Depth overflow.
    float (*quantize)(const float* x, int64_t width, int8_t* out, int32_t* sum);
    // out = product (row_scale column_scales); whole vectors of sixteen are read of `product`.
    void (*dequantize)(const int32_t* product, float row_scale, const float* column_scales, int64_t width, float* out);

    void (*modulate)(const ModulateRow& row);
    void (*gated_add)(const GatedRow& row);
    void (*finish_streams)();  // before another thread may read what was streamed
    void (*norm_rope)(const NormRope& token);
    // out = activation(norm(x) weight + bias); weight and bias may be null
    void (*norm_silu)(const float* x, const float* weight, const float* bias, int64_t width, Norm norm, bool silu,
                      float eps, float* out);
    // sums[c] = the sum over rows r of x[r, c], or of (x[r, c] - mean[c])² where mean is not null
    void (*sum_rows)(const float* x, int64_t rows, int64_t width, const float* mean, float* sums);
    // out = activation((x - mean) factor + bias), each a number a column
    void (*affine_silu)(const float* x, const float* mean, const float* factor, const float* bias, int64_t width,
                        bool silu, float* out);
    // state[s] = sum over j <= slots of table[s, j] operand[j], operands with a factor of 0 left out; the last operand
    // is out[cond], or out[uncond] + guidance (out[cond] - out[uncond]). `next` holds slots * 16 floats.
    void (*guided_step)(float* state, int64_t slot_stride, int64_t slots, const float* cond, const float* uncond,
                        float guidance, const float* table, int64_t width, float* next);

    int attention_queries;  // queries in a block, at most
    int64_t (*attention_scratch)(int64_t head_dim);
    void (*attention)(const AttentionBlock& block);
};

const Kernels& kernels_avx512();
const Kernels& kernels_avx2();
const Kernels& kernels_portable();

}  // namespace packdit
