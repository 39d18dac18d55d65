// Packing and the tile product that linear, causal_conv3d and attention share.
#pragma once

namespace packdit {
namespace {

constexpr int kPanel = 16 * kTileVectors;

void pack_transposed(const float* const* rows, int count, int64_t width, float* out, int64_t stride) {
    const float* from[16];
    for (int i = 0; i < 16; ++i) from[i] = rows[i < count ? i : 0];
    F16 r[16];
    for_vectors(width, [&](int64_t j, auto lanes) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) r[i] = load(from[i] + j, lanes);
        transpose(r);
        if constexpr (std::is_same_v<decltype(lanes), All>) {
#pragma GCC unroll 16
            for (int i = 0; i < 16; ++i) store(out + (j + i) * stride, r[i]);
        } else {
            for (int64_t i = 0; i < lanes; ++i) store(out + (j + i) * stride, r[i]);
        }
    });
}

void pack_plain(const float* x, int64_t x_stride, int64_t rows, int64_t columns, float* out, int64_t stride) {
    for (int64_t i = 0; i < rows; ++i) {
        const float* from = x + i * x_stride;
        float* to = out + i * stride;
        for_vectors(columns, [&](int64_t j, auto lanes) { store(to + j, load(from + j, lanes)); });
        for (int64_t j = (columns + 15) / 16 * 16; j < stride; j += 16) store(to + j, set(0.0f));
    }
}

template <typename Lanes>
inline void put(float* c, F16 chain, Lanes lanes, bool add) {
    store(c, add ? load(c, lanes) + chain : chain, lanes);
}

// R rows by V vectors of c, held in registers over the whole depth.
template <int R, int V>
void tile(const Product& p, int first_row) {
    F16 acc[R][V];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
        for (int j = 0; j < V; ++j) acc[i][j] = set(0.0f);
    }
    for (int64_t run = 0; run < p.num_runs; ++run) {
        const float* a = p.a + p.runs[run].a + first_row;
        const float* b = p.b + p.runs[run].b;
        for (int64_t k = 0; k < p.runs[run].depth; ++k, a += p.a_stride, b += p.b_stride) {
            if (p.ahead) {
                for (int j = 0; j < V; ++j) __builtin_prefetch(b + p.ahead + j * p.b_step, 0, 2);
            }
            F16 right[V];
#pragma GCC unroll 2
            for (int j = 0; j < V; ++j) right[j] = load(b + j * p.b_step);
#pragma GCC unroll 16
            for (int i = 0; i < R; ++i) {
                const F16 left = set(a[i]);
#pragma GCC unroll 2
                for (int j = 0; j < V; ++j) acc[i][j] = fma(left, right[j], acc[i][j]);
            }
        }
    }
    float* c = p.c + first_row * p.c_stride;
    const int tail = p.columns - 16 * (V - 1);  // columns of the last vector
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i, c += p.c_stride) {
#pragma GCC unroll 2
        for (int j = 0; j < V; ++j) {
            if (j < V - 1 || tail == 16) {
                put(c + 16 * j, acc[i][j], All{}, p.add);
            } else {
                put(c + 16 * j, acc[i][j], tail, p.add);
            }
        }
    }
}

// tile<rows, V> for rows = 1 .. R
template <int R, int V>
void tile_of(int rows, const Product& p, int first_row) {
    if (rows == R) {
        tile<R, V>(p, first_row);
    } else if constexpr (R > 1) {
        tile_of<R - 1, V>(rows, p, first_row);
    }
}

void multiply(const Product& p) {
    for (int i = 0; i < p.rows; i += kTileRows) {
        const int rows = p.rows - i < kTileRows ? p.rows - i : kTileRows;
        if (kTileVectors == 1 || p.columns <= 16) {
            tile_of<kTileRows, 1>(rows, p, i);
        } else {
            tile_of<kTileRows, kTileVectors>(rows, p, i);
        }
    }
}

void finish(float* x, const Finish& f, int64_t width) {
    if (!f.bias && f.activation == Activation::kNone && !f.residual) return;
    for_vectors(width, [&](int64_t j, auto lanes) {
        F16 value = load(x + j, lanes);
        if (f.bias) value = value + load(f.bias + j, lanes);
        value = activate(value, f.activation);
        if (f.residual) value = fma(load(f.gate + j, lanes), value, load(f.residual + j, lanes));
        store(x + j, value, lanes);
    });
}

}  // namespace
}  // namespace packdit
