// The tile product of int8 over one I16, sixteen sums of int32. Each int8_*.cpp includes it after it has defined:
//   I16; Weights, 64 bytes of a block; load_weights(p); dot4(sum, weights, four): sum + the products of each column's
//   four weights with four activations; start(sum_of_row): what a row's sums begin with; store(p, sum);
//   kTileRows, kTileBlocks, kBlockRows.
#pragma once

namespace packdit {
namespace {

template <int R, int V>
void int8_tile(const Int8Product& p, int first_row, int first_block) {
    I16 acc[R][V];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
        for (int j = 0; j < V; ++j) acc[i][j] = start(p.sums[first_row + i]);
    }
    const int64_t block_bytes = p.fours * 4 * kInt8Columns;
    const int8_t* a = p.a + first_row * 4;
    const uint8_t* b = p.b + first_block * block_bytes;
    for (int64_t k = 0; k < p.fours; ++k, a += 4 * kPack, b += 4 * kInt8Columns) {
        Weights right[V];
#pragma GCC unroll 2
        for (int j = 0; j < V; ++j) {
            right[j] = load_weights(b + j * block_bytes);
            __builtin_prefetch(b + (V + j) * block_bytes, 0, 2);  // the next blocks, or nothing where there are none
        }
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
            int32_t left;
            __builtin_memcpy(&left, a + 4 * i, 4);
#pragma GCC unroll 2
            for (int j = 0; j < V; ++j) acc[i][j] = dot4(acc[i][j], right[j], left);
        }
    }
    int32_t* c = p.c + first_row * p.c_stride + first_block * kInt8Columns;
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i, c += p.c_stride) {
#pragma GCC unroll 2
        for (int j = 0; j < V; ++j) store(c + j * kInt8Columns, acc[i][j]);
    }
}

// int8_tile<rows, V> for rows = 1 .. R
template <int R, int V>
void int8_tile_of(int rows, const Int8Product& p, int first_row, int first_block) {
    if (rows == R) {
        int8_tile<R, V>(p, first_row, first_block);
    } else if constexpr (R > 1) {
        int8_tile_of<R - 1, V>(rows, p, first_row, first_block);
    }
}

void int8_multiply(const Int8Product& p) {
    for (int i = 0; i < p.rows; i += kTileRows) {
        const int rows = p.rows - i < kTileRows ? p.rows - i : kTileRows;
        int j = 0;
        for (; j + kTileBlocks <= p.num_blocks; j += kTileBlocks) int8_tile_of<kTileRows, kTileBlocks>(rows, p, i, j);
        for (; j < p.num_blocks; ++j) int8_tile_of<kTileRows, 1>(rows, p, i, j);
    }
}

}  // namespace
}  // namespace packdit
