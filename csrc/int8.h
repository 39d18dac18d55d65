// Products of int8, exact in int32: compiled once for each instruction set that multiplies bytes. As sums of whole
// numbers they have the same bits whatever the set and the order.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace packdit {

constexpr int kInt8Columns = 16;  // of a block of weights, INT8_COLUMNS in kernels/linear_int8.py

// c [rows, columns] from activations a [rows, depth] and weights b [columns, depth], the depth in fours.
struct Int8Product {
    int64_t fours;
    const int8_t* a;      // [fours][kPack rows][4]
    const int32_t* sums;  // of each row's activations
    const uint8_t* b;     // num_blocks blocks of columns, each [fours][kInt8Columns][4]: the weights + 128
    int32_t* c;
    int64_t c_stride;
    int rows, num_blocks;
};

// What the sums of a row begin with where its products take the weights as they are stored, 128 too large. Unsigned,
// because it may wrap around on the way to a sum that fits.
inline int32_t excess(int32_t sum_of_row) { return static_cast<int32_t>(-128u * static_cast<uint32_t>(sum_of_row)); }

struct Int8Kernels {
    const char* name;
    int block_rows;    // of activations that are packed and multiplied together
    int panel_blocks;  // blocks of weights that are, at most
    void (*multiply)(const Int8Product& product);
};

const Int8Kernels& int8_avx512_vnni();
const Int8Kernels& int8_avx_vnni();
const Int8Kernels& int8_avx2();
const Int8Kernels& int8_portable();

}  // namespace packdit
