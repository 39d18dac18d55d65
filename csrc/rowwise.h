// One row of each elementwise and normalizing op.
#pragma once

namespace packdit {
namespace {

// norm(x) = (x - mean) * factor
struct Moments {
    F16 mean, factor;
};

inline Moments moments(const float* x, int64_t width, Norm norm, float eps) {
    if (norm == Norm::kNone) return {set(0.0f), set(1.0f)};
    const float count = static_cast<float>(width);
    F16 mean = set(0.0f);
    if (norm == Norm::kLayer) {
        mean = set(sum_over(width, [&](int64_t i, int64_t lanes) { return load(x + i, lanes); }) / count);
    }
    const float squares = sum_over(width, [&](int64_t i, int64_t lanes) {
        const F16 centered = load(x + i, lanes) - mean;
        return centered * centered;
    });
    return {mean, set(1.0f / __builtin_sqrtf(squares / count + eps))};
}

void modulate(const float* x, const float* shift, const float* scale, int64_t width, Norm norm, float eps, float* out) {
    const Moments m = moments(x, width, norm, eps);
    for (int64_t i = 0; i < width; i += 16) {
        const int64_t lanes = width - i < 16 ? width - i : 16;
        const F16 normed = (load(x + i, lanes) - m.mean) * m.factor;
        store(out + i, fma(normed, set(1.0f) + load(scale + i, lanes), load(shift + i, lanes)), lanes);
    }
}

void gated_add(const float* x, const float* y, const float* gate, int64_t width, float* out) {
    for (int64_t i = 0; i < width; i += 16) {
        const int64_t lanes = width - i < 16 ? width - i : 16;
        store(out + i, fma(load(gate + i, lanes), load(y + i, lanes), load(x + i, lanes)), lanes);
    }
}

void norm_silu(const float* x, const float* weight, int64_t width, Norm norm, bool silu_too, float eps, float* out) {
    const Moments m = moments(x, width, norm, eps);
    for (int64_t i = 0; i < width; i += 16) {
        const int64_t lanes = width - i < 16 ? width - i : 16;
        F16 value = load(x + i, lanes) * m.factor;
        if (weight) value = value * load(weight + i, lanes);
        store(out + i, silu_too ? silu(value) : value, lanes);
    }
}

inline void normalize(const float* x, const float* weight, int64_t width, Norm norm, float eps, float* out) {
    const Moments m = moments(x, width, norm, eps);
    for (int64_t i = 0; i < width; i += 16) {
        const int64_t lanes = width - i < 16 ? width - i : 16;
        F16 value = (load(x + i, lanes) - m.mean) * m.factor;
        if (weight) value = value * load(weight + i, lanes);
        store(out + i, value, lanes);
    }
}

// Every rotated dimension d becomes x[d] cos[d] + partner[d] sin[d], where cos and sin are spread over the pairs and
// the sin of a pair's first member is negative.
struct Rotation {
    int64_t width;  // rotated dimensions
    bool interleaved;
    float *cos, *sin, *partner;
};

inline Rotation spread(const NormRope& t, float* scratch) {
    const Rotation r{2 * t.num_angles, t.interleaved, scratch, scratch + t.head_dim, scratch + 2 * t.head_dim};
    for (int64_t i = 0; i < t.num_angles; ++i) {
        const int64_t a = t.interleaved ? 2 * i : i;
        const int64_t b = t.interleaved ? 2 * i + 1 : i + t.num_angles;
        r.cos[a] = r.cos[b] = t.cos[i];
        r.sin[a] = -t.sin[i];
        r.sin[b] = t.sin[i];
    }
    return r;
}

inline void rotate(const Rotation& r, const float* x, float* out) {
    const int64_t half = r.width / 2;
    for (int64_t i = 0; i < half; ++i) {
        const int64_t a = r.interleaved ? 2 * i : i;
        const int64_t b = r.interleaved ? 2 * i + 1 : i + half;
        r.partner[a] = x[b];
        r.partner[b] = x[a];
    }
    for (int64_t i = 0; i < r.width; i += 16) {
        const int64_t lanes = r.width - i < 16 ? r.width - i : 16;
        const F16 straight = load(x + i, lanes) * load(r.cos + i, lanes);
        store(out + i, fma(load(r.partner + i, lanes), load(r.sin + i, lanes), straight), lanes);
    }
}

void norm_rope(const NormRope& t) {
    float* normed = t.scratch;
    const int64_t dim = t.head_dim;
    for (int64_t h = 0; h < t.num_heads; ++h) {
        const float* head = t.x + h * t.head_stride;
        if (t.across_heads) {
            normalize(head, nullptr, dim, Norm::kNone, t.eps, normed + h * dim);
        } else {
            normalize(head, t.weight, dim, t.norm, t.eps, normed + h * dim);
        }
    }
    if (t.across_heads) normalize(normed, t.weight, t.num_heads * dim, t.norm, t.eps, normed);
    const Rotation rotation = spread(t, t.scratch + t.num_heads * dim);
    for (int64_t h = 0; h < t.num_heads; ++h) {
        const float* from = normed + h * dim;
        float* to = t.out + h * dim;
        rotate(rotation, from, to);
        for (int64_t i = rotation.width; i < dim; ++i) to[i] = from[i];
    }
}

void guided_step(float* state, int64_t slot_stride, int64_t slots, const float* cond, const float* uncond,
                 float guidance, const float* table, int64_t width, float* next) {
    for (int64_t i = 0; i < width; i += 16) {
        const int64_t lanes = width - i < 16 ? width - i : 16;
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
    }
}

}  // namespace
}  // namespace packdit
