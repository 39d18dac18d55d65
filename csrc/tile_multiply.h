// Packing and the tile product that linear, causal_conv3d and attention share.
#pragma once

namespace packdit {
namespace {

constexpr int kPanel = 16 * kTileVectors;

void pack_transposed(const float* const* rows, int count, int64_t width, float* out, int64_t stride) {
    F16 r[16];
    for (int64_t j = 0; j < width; j += 16) {
        const int64_t lanes = width - j < 16 ? width - j : 16;
        for (int i = 0; i < 16; ++i) r[i] = i < count ? load(rows[i] + j, lanes) : set(0.0f);
        transpose(r);
        for (int64_t i = 0; i < lanes; ++i) store(out + (j + i) * stride, r[i]);
    }
}

void pack_plain(const float* x, int64_t x_stride, int64_t rows, int64_t columns, float* out, int64_t stride) {
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < stride; j += 16) {
            const int64_t lanes = columns - j;
            const float* from = x + i * x_stride + j;
            float* to = out + i * stride + j;
            if (lanes >= 16) {
                store(to, load(from));
            } else {
                store(to, lanes > 0 ? load(from, lanes) : set(0.0f));
            }
        }
    }
}

// R rows by V vectors of c, held in registers over the whole depth: one chain of fused multiply-adds an element.
template <int R, int V>
void tile(int64_t depth, const float* a, const float* b, int64_t b_stride, float* c, int64_t c_stride, int columns,
          Sum mode) {
    F16 acc[R][V];
    const int tail = columns - 16 * (V - 1);  // columns of the last vector
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
        for (int j = 0; j < V; ++j) {
            const float* from = c + i * c_stride + 16 * j;
            acc[i][j] = mode != Sum::kContinue ? set(0.0f) : j < V - 1 ? load(from) : load(from, tail);
        }
    }
    for (int64_t k = 0; k < depth; ++k, a += kPack, b += b_stride) {
        F16 right[V];
#pragma GCC unroll 2
        for (int j = 0; j < V; ++j) right[j] = load(b + 16 * j);
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
            const F16 left = set(a[i]);
#pragma GCC unroll 2
            for (int j = 0; j < V; ++j) acc[i][j] = fma(left, right[j], acc[i][j]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
        for (int j = 0; j < V; ++j) {
            float* to = c + i * c_stride + 16 * j;
            const int lanes = j < V - 1 ? 16 : tail;
            if (mode == Sum::kAdd) acc[i][j] = load(to, lanes) + acc[i][j];
            store(to, acc[i][j], lanes);
        }
    }
}

// tile<rows, V> for rows = 1 .. R
template <int R, int V>
void tile_of(int rows, int64_t depth, const float* a, const float* b, int64_t b_stride, float* c, int64_t c_stride,
             int columns, Sum mode) {
    if (rows == R) {
        tile<R, V>(depth, a, b, b_stride, c, c_stride, columns, mode);
    } else if constexpr (R > 1) {
        tile_of<R - 1, V>(rows, depth, a, b, b_stride, c, c_stride, columns, mode);
    }
}

void multiply(int64_t depth, const float* a, const float* b, int64_t b_stride, float* c, int64_t c_stride, int rows,
              int columns, Sum mode) {
    for (int i = 0; i < rows; i += kTileRows) {
        const int count = rows - i < kTileRows ? rows - i : kTileRows;
        float* to = c + i * c_stride;
        if (kTileVectors == 1 || columns <= 16) {
            tile_of<kTileRows, 1>(count, depth, a + i, b, b_stride, to, c_stride, columns, mode);
        } else {
            tile_of<kTileRows, kTileVectors>(count, depth, a + i, b, b_stride, to, c_stride, columns, mode);
        }
    }
}

void finish(float* x, const float* bias, int64_t width, Activation activation) {
    for (int64_t j = 0; j < width; j += 16) {
        const int64_t lanes = width - j < 16 ? width - j : 16;
        F16 value = load(x + j, lanes);
        if (bias) value = value + load(bias + j, lanes);
        store(x + j, activate(value, activation), lanes);
    }
}

}  // namespace
}  // namespace packdit
