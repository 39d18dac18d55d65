// All kernels over one F16. Each kernels_*.cpp includes it once, with PACKDIT_VEC naming the header that defines F16.
#pragma once

// clang-format off: in the order of what needs what
#include PACKDIT_VEC
#include "vec_math.h"
#include "tile_multiply.h"
#include "quantize.h"
#include "attention_block.h"
#include "rowwise.h"
// clang-format on

namespace packdit {
namespace {

Kernels all_kernels(const char* name) {
    Kernels k;
    k.name = name;
    k.block_rows = kBlockRows;
    k.panel_columns = kPanel;
    k.pack_transposed = pack_transposed;
    k.pack_plain = pack_plain;
    k.multiply = multiply;
    k.finish = finish;
    k.quantize = quantize;
    k.dequantize = dequantize;
    k.modulate = modulate;
    k.gated_add = gated_add;
    k.finish_streams = finish_streams;
    k.norm_rope = norm_rope;
    k.norm_silu = norm_silu;
    k.sum_rows = sum_rows;
    k.affine_silu = affine_silu;
    k.guided_step = guided_step;
    k.attention_queries = kQueries;
    k.attention_scratch = attention_scratch;
    k.attention = attention;
    return k;
}

}  // namespace
}  // namespace packdit
