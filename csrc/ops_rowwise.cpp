#include "buffer.h"
#include "check_index.h"
#include "isa.h"
#include "ops.h"
#include "parallel.h"

namespace packdit {
namespace {

constexpr int64_t kStreamedFloats = 1 << 23;  // of a result that no cache keeps until it is read

}  // namespace

void modulate(const Rows& x, const Modulation& m, const RowIndex& index, int64_t tokens, int64_t width, float* out,
              int threads) {
    require_index("modulate: row", index, tokens);
    const Kernels& k = kernels();
    parallel_ranges(threads, tokens * width * 64, tokens, [&](int64_t first, int64_t last) {
        ModulateRow r{};
        r.width = width;
        r.norm = m.norm;
        r.eps = m.eps;
        r.streams = tokens * width >= kStreamedFloats;
        for (int64_t t = first; t < last; ++t) {
            r.x = x.data + t * x.stride;
            r.shift = m.shift.data + index.row[t] * m.shift.stride;
            r.scale = m.scale.data + index.row[t] * m.scale.stride;
            r.out = out + t * width;
            r.next = t + 1 < last ? r.x + x.stride : nullptr;
            k.modulate(r);
        }
        k.finish_streams();
    });
}

void gated_residual(const Rows& x, const Rows& y, const Rows& gate, const Modulation* m, const RowIndex& index,
                    int64_t tokens, int64_t width, float* total, float* modulated, int threads) {
    require_index("gated_residual: row", index, tokens);
    const Kernels& k = kernels();
    parallel_ranges(threads, tokens * width * 64, tokens, [&](int64_t first, int64_t last) {
        const Buffer copy(width);
        GatedRow g{};
        ModulateRow r{};
        g.width = r.width = width;
        g.streams = r.streams = tokens * width >= kStreamedFloats;
        if (m) {
            g.copy = copy.data();
            r.x = copy.data();
            r.norm = m->norm;
            r.eps = m->eps;
        }
        for (int64_t t = first; t < last; ++t) {
            g.x = x.data + t * x.stride;
            g.y = y.data + t * y.stride;
            g.gate = gate.data + index.row[t] * gate.stride;
            g.out = total + t * width;
            k.gated_add(g);
            if (!m) continue;
            r.shift = m->shift.data + index.row[t] * m->shift.stride;
            r.scale = m->scale.data + index.row[t] * m->scale.stride;
            r.out = modulated + t * width;
            r.next = t + 1 < last ? g.x + x.stride : nullptr;
            r.next_too = t + 1 < last ? g.y + y.stride : nullptr;
            k.modulate(r);
        }
        k.finish_streams();
    });
}

void norm_rope(const NormRope& token, int64_t x_stride, int64_t tokens, int threads) {
    const Kernels& k = kernels();
    const int64_t width = token.num_heads * token.head_dim;
    parallel_ranges(threads, tokens * width * 128, tokens, [&](int64_t first, int64_t last) {
        const Buffer scratch(width + 2 * token.head_dim);
        NormRope t = token;
        t.scratch = scratch.data();
        for (int64_t i = first; i < last; ++i) {
            t.x = token.x + i * x_stride;
            t.cos = token.cos + i * token.num_angles;
            t.sin = token.sin + i * token.num_angles;
            t.out = token.out + i * width;
            k.norm_rope(t);
        }
    });
}

void norm_silu(const float* x, const float* weight, const float* bias, int64_t rows, int64_t width, Norm norm,
               bool silu, float eps, float* out, int threads) {
    const Kernels& k = kernels();
    parallel_ranges(threads, rows * width * 128, rows, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            k.norm_silu(x + i * width, weight, bias, width, norm, silu, eps, out + i * width);
        }
    });
}

void guided_step(const GuidedStep& s, int threads) {
    require_index("guided_step: cond", s.cond, s.tokens, 0, s.out_rows);
    require_index("guided_step: uncond", s.uncond, s.tokens, -1, s.out_rows);
    require_index("guided_step: row", s.row, s.tokens);
    const Kernels& k = kernels();
    parallel_ranges(threads, s.tokens * s.channels * s.slots * 64, s.tokens, [&](int64_t first, int64_t last) {
        const Buffer next(s.slots * 16);
        for (int64_t t = first; t < last; ++t) {
            const int64_t row = s.row.row[t];
            const float* cond = s.out.data + s.cond[t] * s.out.stride;
            const float* uncond = s.uncond[t] < 0 ? nullptr : s.out.data + s.uncond[t] * s.out.stride;
            k.guided_step(s.state + t * s.token_stride, s.slot_stride, s.slots, cond, uncond, s.guidance[row],
                          s.table + row * s.slots * (s.slots + 1), s.channels, next.data());
        }
    });
}

}  // namespace packdit
