// One row of each elementwise and normalizing op.
#pragma once

namespace packdit {
namespace {

// norm(x) = (x - mean) * factor
struct Moments {
    F16 mean, factor;
};

// Fetches line i of what will be read next, while this row keeps the processor busy.
inline void fetch(const float* next, int64_t i) {
    if (next) __builtin_prefetch(next + i);
}

inline Moments moments(const float* x, int64_t width, Norm norm, float eps, const float* next = nullptr) {
    if (norm == Norm::kNone) return {set(0.0f), set(1.0f)};
    const float count = static_cast<float>(width);
    F16 mean = set(0.0f);
    if (norm == Norm::kLayer) {
        mean = set(sum_over(width, [&](int64_t i, auto lanes) { return load(x + i, lanes); }) / count);
    }
    const float squares = sum_over(width, [&](int64_t i, auto lanes) {
        fetch(next, i);
        const F16 centered = load(x + i, lanes) - mean;
        return centered * centered;
    });
    return {mean, set(1.0f / __builtin_sqrtf(squares / count + eps))};
}

// Calls body with the function that puts a value in its place in `out`: by way of the caches, or past them.
template <typename Body>
inline void storing(bool streams, const float* out, int64_t width, Body body) {
    if (streams && width % 16 == 0 && reinterpret_cast<uintptr_t>(out) % 64 == 0) {
        body([](float* p, F16 value, auto) { stream(p, value); });
    } else {
        body([](float* p, F16 value, auto lanes) { store(p, value, lanes); });
    }
}

void modulate(const ModulateRow& r) {
    const Moments m = moments(r.x, r.width, r.norm, r.eps, r.next);
    storing(r.streams, r.out, r.width, [&](auto put) {
        for_vectors(r.width, [&](int64_t i, auto lanes) {
            fetch(r.next_too, i);
            const F16 normed = (load(r.x + i, lanes) - m.mean) * m.factor;
            put(r.out + i, fma(normed, set(1.0f) + load(r.scale + i, lanes), load(r.shift + i, lanes)), lanes);
        });
    });
}

void gated_add(const GatedRow& r) {
    storing(r.streams, r.out, r.width, [&](auto put) {
        for_vectors(r.width, [&](int64_t i, auto lanes) {
            const F16 total = fma(load(r.gate + i, lanes), load(r.y + i, lanes), load(r.x + i, lanes));
            put(r.out + i, total, lanes);
            if (r.copy) store(r.copy + i, total, lanes);
        });
    });
}

void norm_silu(const float* x, const float* weight, const float* bias, int64_t width, Norm norm, bool silu_too,
               float eps, float* out) {
    const Moments m = moments(x, width, norm, eps);
    for_vectors(width, [&](int64_t i, auto lanes) {
        F16 value = (load(x + i, lanes) - m.mean) * m.factor;
        if (weight) value = value * load(weight + i, lanes);
        if (bias) value = value + load(bias + i, lanes);
        store(out + i, silu_too ? silu(value) : value, lanes);
    });
}

void sum_rows(const float* x, int64_t rows, int64_t width, const float* mean, float* sums) {
    for (int64_t r = 0; r < rows; ++r) {
        const float* row = x + r * width;
        for_vectors(width, [&](int64_t i, auto lanes) {
            F16 value = load(row + i, lanes);
            if (mean) {
                value = value - load(mean + i, lanes);
                value = value * value;
            }
            store(sums + i, r == 0 ? value : load(sums + i, lanes) + value, lanes);
        });
    }
}

void affine_silu(const float* x, const float* mean, const float* factor, const float* bias, int64_t width,
                 bool silu_too, float* out) {
    for_vectors(width, [&](int64_t i, auto lanes) {
        const F16 centered = load(x + i, lanes) - load(mean + i, lanes);
        const F16 value = fma(centered, load(factor + i, lanes), load(bias + i, lanes));
        store(out + i, silu_too ? silu(value) : value, lanes);
    });
}

inline void normalize(const float* x, const float* weight, int64_t width, Norm norm, float eps, float* out) {
    const Moments m = moments(x, width, norm, eps);
    for_vectors(width, [&](int64_t i, auto lanes) {
        F16 value = (load(x + i, lanes) - m.mean) * m.factor;
        if (weight) value = value * load(weight + i, lanes);
        store(out + i, value, lanes);
    });
}

// Pairs (i, i + half): the tables serve as they are.
inline void rotate_halves(const NormRope& t, const float* x, float* out) {
    const int64_t half = t.num_angles;
    for_vectors(half, [&](int64_t i, auto lanes) {
        const F16 a = load(x + i, lanes), b = load(x + half + i, lanes);
        const F16 cos = load(t.cos + i, lanes), sin = load(t.sin + i, lanes);
        store(out + i, fma(b, set(0.0f) - sin, a * cos), lanes);
        store(out + half + i, fma(a, sin, b * cos), lanes);
    });
}

// Pairs (2i, 2i + 1): spread holds cos twice a pair, then -sin and sin.
inline void rotate_pairs(const NormRope& t, const float* spread, const float* x, float* out) {
    const int64_t width = 2 * t.num_angles;
    for_vectors(width, [&](int64_t i, auto lanes) {
        const F16 value = load(x + i, lanes);
        const F16 straight = value * load(spread + i, lanes);
        store(out + i, fma(swap_pairs(value), load(spread + width + i, lanes), straight), lanes);
    });
}

inline void spread_angles(const NormRope& t, float* spread) {
    const int64_t width = 2 * t.num_angles;
    for (int64_t i = 0; i < t.num_angles; ++i) {
        spread[2 * i] = spread[2 * i + 1] = t.cos[i];
        spread[width + 2 * i] = -t.sin[i];
        spread[width + 2 * i + 1] = t.sin[i];
    }
}

void norm_rope(const NormRope& t) {
    const int64_t dim = t.head_dim, width = t.num_heads * dim;
    float* normed = t.scratch;
    float* spread = t.scratch + width;
    for (int64_t h = 0; h < t.num_heads; ++h) {
        const bool alone = !t.across_heads;
        normalize(t.x + h * t.head_stride, alone ? t.weight : nullptr, dim, alone ? t.norm : Norm::kNone, t.eps,
                  normed + h * dim);
    }
    if (t.across_heads) normalize(normed, t.weight, width, t.norm, t.eps, normed);
    if (t.interleaved) spread_angles(t, spread);
    for (int64_t h = 0; h < t.num_heads; ++h) {
        const float* from = normed + h * dim;
        float* to = t.out + h * dim;
        if (t.interleaved) {
            rotate_pairs(t, spread, from, to);
        } else {
            rotate_halves(t, from, to);
        }
        for (int64_t i = 2 * t.num_angles; i < dim; ++i) to[i] = from[i];
    }
}

void guided_step(float* state, int64_t slot_stride, int64_t slots, const float* cond, const float* uncond,
                 float guidance, const float* table, int64_t width, float* next) {
    for_vectors(width, [&](int64_t i, auto lanes) {
        F16 velocity = load(cond + i, lanes);
        if (uncond) {
            const F16 base = load(uncond + i, lanes);
            velocity = fma(set(guidance), velocity - base, base);
        }
        for (int64_t s = 0; s < slots; ++s) {
            const float* factors = table + s * (slots + 1);
            F16 total = set(0.0f);
            for (int64_t j = 0; j < slots; ++j) {
                if (factors[j] != 0.0f) total = fma(set(factors[j]), load(state + j * slot_stride + i, lanes), total);
            }
            if (factors[slots] != 0.0f) total = fma(set(factors[slots]), velocity, total);
            store(next + 16 * s, total);
        }
        for (int64_t s = 0; s < slots; ++s) {
            store(state + s * slot_stride + i, load(next + 16 * s), lanes);
        }
    });
}

}  // namespace
}  // namespace packdit
