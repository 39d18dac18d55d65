// Attention of one query block, in the manner of FlashAttention (arXiv 2205.14135): keys in blocks of kKeys from the
// segment's first, with a running maximum and sum a query. Queries are the lanes of vectors: scores, weights and sums
// lie as [key or dimension][query]. A query's arithmetic depends on its own segment's keys only: key blocks are the
// same for all queries, and keys beyond a causal query's limit never enter its sums.
#pragma once

namespace packdit {
namespace {

constexpr int kKeys = 112;     // in a block: a multiple of 14 (tile rows of AVX-512) and of 16 (lanes)
constexpr int kQueries = 128;  // that share the packing of keys and values
constexpr int kDotDepth = 64;  // of one chain of fused multiply-adds in a score; the chains are added in order
constexpr float kInfinity = __builtin_inff();

inline int64_t padded(int64_t dim) { return (dim + 15) / 16 * 16; }

struct Scratch {
    float* queries;   // [panel][head_dim][kPanel]
    float* keys;      // [head_dim][kKeys]
    float* values;    // [kKeys][padded]
    float* biases;    // [kKeys]
    float* weights;   // [kKeys][kPanel]: scores, then their exponentials
    float* weighted;  // [padded][kPanel]: the weighted sums of one key block's values
    float* sums;      // [panel][padded][kPanel]: the weighted sums of all values so far
    float* maxima;    // [kQueries]
    float* totals;    // [kQueries]: the sums of weights
};

// Calls place(member, floats) for every part of the scratch memory.
template <typename Place>
inline void lay_out(Scratch& s, int64_t dim, Place place) {
    place(s.queries, kQueries * dim);
    place(s.keys, kKeys * dim);
    place(s.values, kKeys * padded(dim));
    place(s.biases, kKeys);
    place(s.weights, kKeys * kPanel);
    place(s.weighted, padded(dim) * kPanel);
    place(s.sums, kQueries * padded(dim));
    place(s.maxima, kQueries);
    place(s.totals, kQueries);
}

int64_t attention_scratch(int64_t head_dim) {
    Scratch s;
    int64_t floats = 0;
    lay_out(s, head_dim, [&](float*&, int64_t count) { floats += count; });
    return floats;
}

// How many keys of its segment the query sees, counted from the first.
inline int64_t visible_keys(const AttentionBlock& b, int64_t query) {
    const int64_t limit = b.causal ? query + 1 + b.segment_keys - b.segment_queries : b.segment_keys;
    return limit > 0 ? limit : 0;
}

// out[d * stride + i] = x[i * x_stride + d] for the rows i, and anything up to a multiple of sixteen of them.
inline void pack_heads(const float* x, int64_t x_stride, int64_t rows, int64_t dim, float* out, int64_t stride) {
    const float* sources[16];
    for (int64_t i = 0; i < rows; i += 16) {
        const int count = static_cast<int>(rows - i < 16 ? rows - i : 16);
        for (int r = 0; r < count; ++r) sources[r] = x + (i + r) * x_stride;
        pack_transposed(sources, count, dim, out + i, stride);
    }
}

// Fetches rows into the caches a few at a time, while the processor is busy with others.
class Ahead {
public:
    // Rows of `dim` floats.
    void add(const float* x, int64_t stride, int64_t rows, int64_t dim) {
        parts_[num_parts_++] = {x, stride, rows, dim};
        rows_ += rows;
    }

    // To be called `calls` times: fetches as many rows each time.
    void spread(int64_t calls) { step_ = calls > 0 ? (rows_ + calls - 1) / calls : 0; }

    void fetch() {
        int64_t left = step_;
        while (left > 0 && part_ < num_parts_) {
            Part& p = parts_[part_];
            for (; left > 0 && p.rows > 0; --left, --p.rows, p.x += p.stride) {
                for (int64_t d = 0; d < p.dim; d += 16) __builtin_prefetch(p.x + d);
                __builtin_prefetch(p.x + p.dim - 1);
            }
            if (p.rows == 0) ++part_;
        }
    }

private:
    struct Part {
        const float* x;
        int64_t stride, rows, dim;
    };
    Part parts_[4];
    int num_parts_ = 0, part_ = 0;
    int64_t rows_ = 0, step_ = 0;
};

// Up to kPanel queries of the block, from `first` on, and how many keys of a key block they see.
struct Panel {
    int64_t first;
    int rows, vectors;
    int64_t fewest, most;
    float limits[kPanel];  // of each query; as floats, for comparison by lane

    Panel(const AttentionBlock& b, int64_t first_query, int64_t first_key, int64_t num_keys)
        : first(first_query), fewest(num_keys), most(0) {
        const int64_t left = b.num_queries - first_query;
        rows = static_cast<int>(left < kPanel ? left : kPanel);
        vectors = (rows + 15) / 16;
        if (!b.causal) {
            fewest = most = num_keys;
            for (float& limit : limits) limit = static_cast<float>(num_keys);
            return;
        }
        for (int r = 0; r < kPanel; ++r) {
            const int64_t query = b.first_query + first_query + (r < rows ? r : rows - 1);
            const int64_t limit = visible_keys(b, query) - first_key;
            const int64_t seen = limit < 0 ? 0 : limit < num_keys ? limit : num_keys;
            limits[r] = static_cast<float>(seen);
            fewest = seen < fewest ? seen : fewest;
            most = seen > most ? seen : most;
        }
    }
};

inline void score(const Scratch& s, const Panel& p, int64_t dim) {
    for (int64_t d = 0; d < dim; d += kDotDepth) {
        const Run run{0, 0, dim - d < kDotDepth ? dim - d : kDotDepth};
        Product scores;
        scores.runs = &run;
        scores.num_runs = 1;
        scores.a = s.keys + d * kKeys;
        scores.a_stride = kKeys;
        scores.b = s.queries + p.first * dim + d * kPanel;
        scores.b_stride = kPanel;
        scores.b_step = 16;
        scores.ahead = 0;
        scores.c = s.weights;
        scores.c_stride = kPanel;
        scores.rows = static_cast<int>(p.most);
        scores.columns = 16 * p.vectors;
        scores.add = d > 0;
        multiply(scores);
    }
}

// Turns the scores of sixteen queries into weights, in place, and brings their running maxima and totals up to date.
// Returns the factors for what they have summed so far.
inline F16 soften(float* scores, const float* biases, const Panel& p, F16 limits, float scale, float* maxima,
                  float* totals) {
    F16 largest[4] = {set(-kInfinity), set(-kInfinity), set(-kInfinity), set(-kInfinity)};
    by_fours(p.most, [&](int64_t key, int j) {
        float* at = scores + key * kPanel;
        F16 value = fma(load(at), set(scale), set(biases[key]));
        if (key >= p.fewest) value = select_less(set(static_cast<float>(key)), limits, value, set(-kInfinity));
        store(at, value);
        largest[j] = max(largest[j], value);
    });
    const F16 before = load(maxima);
    const F16 now = max(before, max(max(largest[0], largest[1]), max(largest[2], largest[3])));
    store(maxima, now);
    // While every score is -inf the weights are 0, not exp(-inf + inf).
    const F16 base = select_less(now, set(-3.4028235e38f), set(0.0f), now);
    F16 sums[4] = {set(0.0f), set(0.0f), set(0.0f), set(0.0f)};
    by_fours(p.most, [&](int64_t key, int j) {
        float* at = scores + key * kPanel;
        const F16 weight = exp(load(at) - base);
        store(at, weight);
        sums[j] = sums[j] + weight;
    });
    const F16 factor = exp(before - base);
    store(totals, fma(load(totals), factor, (sums[0] + sums[1]) + (sums[2] + sums[3])));
    return factor;
}

// Goes on with the chains of four dimensions over the keys that only some of the queries see.
inline void weigh_ragged(const Scratch& s, const Panel& p, int64_t width, int64_t first_dim, int64_t lane, float* out) {
    const F16 limits = load(p.limits + lane);
    float* weighted = out + first_dim * kPanel + lane;
    F16 acc[4] = {load(weighted), load(weighted + kPanel), load(weighted + 2 * kPanel), load(weighted + 3 * kPanel)};
    for (int64_t key = p.fewest; key < p.most; ++key) {
        const float* values = s.values + key * width + first_dim;
        const F16 weight = load(s.weights + key * kPanel + lane);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const F16 next = fma(set(values[i]), weight, acc[i]);
            acc[i] = select_less(set(static_cast<float>(key)), limits, next, acc[i]);
        }
    }
    for (int i = 0; i < 4; ++i) store(weighted + i * kPanel, acc[i]);
}

// out = the weighted sums of the block's values.
inline void weigh(const Scratch& s, const Panel& p, int64_t dim, float* out) {
    const int64_t width = padded(dim);
    const Run run{0, 0, p.fewest};
    Product product;
    product.runs = &run;
    product.num_runs = 1;
    product.a = s.values;
    product.a_stride = width;
    product.b = s.weights;
    product.b_stride = kPanel;
    product.b_step = 16;
    product.ahead = 0;
    product.c = out;
    product.c_stride = kPanel;
    product.rows = static_cast<int>(dim);
    product.columns = 16 * p.vectors;
    product.add = false;
    multiply(product);
    if (p.fewest == p.most) return;
    for (int64_t d = 0; d < dim; d += 4) {
        for (int v = 0; v < p.vectors; ++v) weigh_ragged(s, p, width, d, 16 * v, out);
    }
}

// One panel of queries against one packed key block, which may be the first.
inline void attend_panel(const AttentionBlock& b, const Scratch& s, const Panel& p, bool first, Ahead& ahead) {
    score(s, p, b.head_dim);
    ahead.fetch();
    float factors[kPanel];
    for (int v = 0; v < p.vectors; ++v) {
        const int64_t lane = p.first + 16 * v;
        const F16 limits = load(p.limits + 16 * v);
        store(factors + 16 * v,
              soften(s.weights + 16 * v, s.biases, p, limits, b.scale, s.maxima + lane, s.totals + lane));
    }
    float* sums = s.sums + p.first * padded(b.head_dim);
    weigh(s, p, b.head_dim, first ? sums : s.weighted);
    ahead.fetch();
    if (first) return;
    for (int64_t d = 0; d < b.head_dim; ++d) {
        for (int v = 0; v < p.vectors; ++v) {
            const int64_t at = d * kPanel + 16 * v;
            const F16 old = load(sums + at);
            const F16 merged = fma(old, load(factors + 16 * v), load(s.weighted + at));
            store(sums + at, select_less(set(0.0f), load(p.limits + 16 * v), merged, old));
        }
    }
}

// Sixteen queries of the block, from `first` on.
inline void write_out(const AttentionBlock& b, const Scratch& s, int64_t first) {
    const float* sums = s.sums + first / kPanel * kPanel * padded(b.head_dim) + first % kPanel;
    const F16 inverse = set(1.0f) / load(s.totals + first);
    const int64_t count = b.num_queries - first < 16 ? b.num_queries - first : 16;
    for_vectors(b.head_dim, [&](int64_t d, auto lanes) {
        F16 r[16];
        for (int i = 0; i < 16; ++i) r[i] = load(sums + (d + i) * kPanel) * inverse;
        transpose(r);
        for (int64_t i = 0; i < count; ++i) {
            const bool sees_a_key = visible_keys(b, b.first_query + first + i) > 0;
            store(b.out + (first + i) * b.out_stride + d, sees_a_key ? r[i] : set(0.0f), lanes);
        }
    });
}

// What is read after the key block that ends at first_key: the keys and values from there on, else the next block's.
inline Ahead following(const AttentionBlock& b, int64_t first_key, int64_t end) {
    Ahead ahead;
    const auto add_keys = [&](const AttentionBlock& of, int64_t first) {
        const int64_t rows = of.segment_keys - first < kKeys ? of.segment_keys - first : kKeys;
        ahead.add(of.k + first * of.k_stride, of.k_stride, rows, of.head_dim);
        ahead.add(of.v + first * of.v_stride, of.v_stride, rows, of.head_dim);
    };
    if (first_key < end) {
        add_keys(b, first_key);
    } else {
        ahead.add(b.out, b.out_stride, b.num_queries, b.head_dim);
        if (b.next) {
            ahead.add(b.next->q, b.next->q_stride, b.next->num_queries, b.head_dim);
            add_keys(*b.next, 0);
        }
    }
    ahead.spread(2 * ((b.num_queries + kPanel - 1) / kPanel));
    return ahead;
}

void attention(const AttentionBlock& b) {
    const int64_t dim = b.head_dim;
    Scratch s;
    float* next = b.scratch;
    lay_out(s, dim, [&](float*& member, int64_t floats) {
        member = next;
        next += floats;
    });
    for (int64_t i = 0; i < b.num_queries; i += kPanel) {
        const int64_t rows = b.num_queries - i < kPanel ? b.num_queries - i : kPanel;
        pack_heads(b.q + i * b.q_stride, b.q_stride, rows, dim, s.queries + i * dim, kPanel);
    }
    for (int64_t i = 0; i < kQueries; i += 16) {
        store(s.maxima + i, set(-kInfinity));
        store(s.totals + i, set(0.0f));
    }
    const int64_t end = visible_keys(b, b.first_query + b.num_queries - 1);
    for (int64_t first_key = 0; first_key < end; first_key += kKeys) {
        const int64_t num_keys = b.segment_keys - first_key < kKeys ? b.segment_keys - first_key : kKeys;
        pack_heads(b.k + first_key * b.k_stride, b.k_stride, num_keys, dim, s.keys, kKeys);
        pack_plain(b.v + first_key * b.v_stride, b.v_stride, num_keys, dim, s.values, padded(dim));
        for (int64_t i = 0; i < num_keys; ++i) s.biases[i] = b.key_bias ? b.key_bias[first_key + i] : 0.0f;
        Ahead ahead = following(b, first_key + kKeys, end);
        for (int64_t i = 0; i < b.num_queries; i += kPanel) {
            const Panel panel(b, i, first_key, num_keys);
            if (panel.most > 0) attend_panel(b, s, panel, first_key == 0, ahead);
        }
    }
    for (int64_t i = 0; i < b.num_queries; i += 16) write_out(b, s, i);
}

}  // namespace
}  // namespace packdit
