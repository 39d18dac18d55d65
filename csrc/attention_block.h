// Attention of one query block, in the manner of FlashAttention (arXiv 2205.14135): keys in blocks of kKeys from the
// segment's first, with a running maximum and sum a query. A query's arithmetic depends on its own segment's keys only:
// key blocks are the same for all queries, and keys beyond a causal query's limit never enter its sums.
#pragma once

namespace packdit {
namespace {

constexpr int kKeys = 128;
constexpr int kDotDepth = 64;  // chains of fused multiply-adds in a score; their sums are added in order
constexpr int kTiles = 8;      // tiles of kBlockRows queries that share the packing of keys and values
constexpr int kQueries = kTiles * kBlockRows;
constexpr float kInfinity = __builtin_inff();

inline int64_t padded(int64_t dim) { return (dim + 15) / 16 * 16; }

struct Scratch {
    float* queries;   // [tile][head_dim][kPack]
    float* keys;      // [panel][head_dim][kPanel]
    float* values;    // [kKeys][padded]
    float* scores;    // [kBlockRows][kKeys]
    float* weights;   // [kKeys][kPack]
    float* weighted;  // [kBlockRows][padded]: the weighted sums of one key block's values
    float* sums;      // [kQueries][padded]: the weighted sums of all values so far
    float* maxima;    // [kQueries]
    float* totals;    // [kQueries]: the sums of weights
};

// Calls place(member, floats) for every part of the scratch memory.
template <typename Place>
inline void lay_out(Scratch& s, int64_t dim, Place place) {
    place(s.queries, kTiles * dim * kPack);
    place(s.keys, kKeys * dim);
    place(s.values, kKeys * padded(dim));
    place(s.scores, kBlockRows * kKeys);
    place(s.weights, kKeys * kPack);
    place(s.weighted, kBlockRows * padded(dim));
    place(s.sums, kQueries * padded(dim));
    place(s.maxima, padded(kQueries));
    place(s.totals, padded(kQueries));
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

inline void pack_keys(const AttentionBlock& b, int64_t first_key, int64_t count, float* out) {
    const float* rows[16];
    for (int64_t j = 0; j < count; j += 16) {
        const int lanes = static_cast<int>(count - j < 16 ? count - j : 16);
        for (int i = 0; i < lanes; ++i) rows[i] = b.k + (first_key + j + i) * b.k_stride;
        pack_transposed(rows, lanes, b.head_dim, out + j / kPanel * kPanel * b.head_dim + j % kPanel, kPanel);
    }
}

inline void pack_queries(const AttentionBlock& b, float* out) {
    const float* rows[kBlockRows];
    for (int64_t i = 0; i < b.num_queries; i += kBlockRows) {
        const int count = static_cast<int>(b.num_queries - i < kBlockRows ? b.num_queries - i : kBlockRows);
        for (int r = 0; r < count; ++r) rows[r] = b.q + (i + r) * b.q_stride;
        pack_transposed(rows, count, b.head_dim, out + i / kBlockRows * b.head_dim * kPack, kPack);
    }
}

// Turns a query's scores of one key block into weights, in place, and brings its running maximum and sum up to date.
// Returns the factor for what it has summed so far.
inline float soften(float* scores, int64_t count, float scale, float& maximum_so_far, float& total) {
    F16 largest = set(-kInfinity);
    for (int64_t j = 0; j < count; j += 16) {
        const F16 s = select_first(count - j < 16 ? count - j : 16, load(scores + j) * set(scale), set(-kInfinity));
        store(scores + j, s);
        largest = max(largest, s);
    }
    const float block_maximum = maximum(largest);
    const float before = maximum_so_far;
    maximum_so_far = before > block_maximum ? before : block_maximum;
    // While every score is -inf the weights are 0, not exp(-inf + inf).
    const float base = maximum_so_far == -kInfinity ? 0.0f : maximum_so_far;
    F16 sums = set(0.0f);
    for (int64_t j = 0; j < count; j += 16) {
        const F16 weight = exp(load(scores + j) - set(base));
        store(scores + j, weight);
        sums = sums + weight;
    }
    float factor[16];
    store(factor, exp(set(before - base)));
    total = __builtin_fmaf(total, factor[0], sum(sums));
    return factor[0];
}

// How many keys of the block each query of a tile sees.
struct Seen {
    int64_t keys[kBlockRows];
    int64_t fewest, most;

    Seen(const AttentionBlock& b, int64_t first_query, int rows, int64_t first_key, int64_t num_keys)
        : fewest(num_keys), most(0) {
        for (int r = 0; r < rows; ++r) {
            const int64_t limit = visible_keys(b, first_query + r) - first_key;
            keys[r] = limit < 0 ? 0 : limit < num_keys ? limit : num_keys;
            fewest = keys[r] < fewest ? keys[r] : fewest;
            most = keys[r] > most ? keys[r] : most;
        }
    }
};

inline void score(const Scratch& s, const float* queries, int rows, int64_t num_keys, int64_t dim) {
    for (int64_t j = 0; j < num_keys; j += kPanel) {
        for (int64_t d = 0; d < dim; d += kDotDepth) {
            multiply(dim - d < kDotDepth ? dim - d : kDotDepth, queries + d * kPack, s.keys + j * dim + d * kPanel,
                     kPanel, s.scores + j, kKeys, rows, kPanel, d == 0 ? Sum::kReplace : Sum::kAdd);
        }
    }
}

// The weighted sum of the block's values for each query of the tile.
inline void weigh_values(const Scratch& s, const Seen& seen, int rows, int64_t width) {
    for (int64_t j = 0; j < width; j += kPanel) {
        const int columns = static_cast<int>(width - j < kPanel ? width - j : kPanel);
        multiply(seen.fewest, s.weights, s.values + j, width, s.weighted + j, width, rows, columns, Sum::kReplace);
        // Keys that only some of the tile's queries see, query by query, go on with the same chains.
        for (int r = 0; r < rows; ++r) {
            if (seen.keys[r] == seen.fewest) continue;
            multiply(seen.keys[r] - seen.fewest, s.weights + seen.fewest * kPack + r,
                     s.values + seen.fewest * width + j, width, s.weighted + r * width + j, width, 1, columns,
                     Sum::kContinue);
        }
    }
}

// One tile of queries, from first_row of the block on, against one packed key block.
inline void attend_tile(const AttentionBlock& b, const Scratch& s, int64_t first_row, int rows, int64_t first_key,
                        int64_t num_keys) {
    const int64_t dim = b.head_dim, width = padded(dim);
    const Seen seen(b, b.first_query + first_row, rows, first_key, num_keys);
    if (seen.most == 0) return;
    score(s, s.queries + first_row / kBlockRows * dim * kPack, rows, seen.most, dim);
    const float* weights[kBlockRows];
    float factors[kBlockRows];
    for (int r = 0; r < rows; ++r) {
        float* scores = s.scores + r * kKeys;
        weights[r] = scores;
        if (seen.keys[r] == 0) continue;
        factors[r] = soften(scores, seen.keys[r], b.scale, s.maxima[first_row + r], s.totals[first_row + r]);
    }
    pack_transposed(weights, rows, seen.most, s.weights, kPack);
    weigh_values(s, seen, rows, width);
    for (int r = 0; r < rows; ++r) {
        if (seen.keys[r] == 0) continue;
        float* sums = s.sums + (first_row + r) * width;
        for (int64_t j = 0; j < width; j += 16) {
            store(sums + j, fma(load(sums + j), set(factors[r]), load(s.weighted + r * width + j)));
        }
    }
}

inline void write_out(const AttentionBlock& b, const Scratch& s) {
    for (int64_t i = 0; i < b.num_queries; ++i) {
        const bool sees_a_key = visible_keys(b, b.first_query + i) > 0;
        for (int64_t j = 0; j < b.head_dim; j += 16) {
            const int64_t lanes = b.head_dim - j < 16 ? b.head_dim - j : 16;
            const F16 sums = load(s.sums + i * padded(b.head_dim) + j);
            store(b.out + i * b.out_stride + j, sees_a_key ? sums / set(s.totals[i]) : set(0.0f), lanes);
        }
    }
}

void attention(const AttentionBlock& b) {
    Scratch s;
    float* next = b.scratch;
    lay_out(s, b.head_dim, [&](float*& member, int64_t floats) {
        member = next;
        next += floats;
    });
    pack_queries(b, s.queries);
    for (int64_t i = 0; i < b.num_queries; ++i) {
        s.maxima[i] = -kInfinity;
        s.totals[i] = 0.0f;
    }
    for (int64_t i = 0; i < b.num_queries * padded(b.head_dim); i += 16) store(s.sums + i, set(0.0f));
    const int64_t end = visible_keys(b, b.first_query + b.num_queries - 1);
    for (int64_t first_key = 0; first_key < end; first_key += kKeys) {
        const int64_t num_keys = b.segment_keys - first_key < kKeys ? b.segment_keys - first_key : kKeys;
        pack_keys(b, first_key, num_keys, s.keys);
        pack_plain(b.v + first_key * b.v_stride, b.v_stride, num_keys, b.head_dim, s.values, padded(b.head_dim));
        for (int64_t i = 0; i < b.num_queries; i += kBlockRows) {
            const int64_t left = b.num_queries - i;
            attend_tile(b, s, i, static_cast<int>(left < kBlockRows ? left : kBlockRows), first_key, num_keys);
        }
    }
    write_out(b, s);
}

}  // namespace
}  // namespace packdit
