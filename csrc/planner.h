// The pack planner: which samples the next step runs and where each lies in the pack. Integers only, no Python.
#pragma once

#include <cstdint>
#include <vector>

namespace packdit {

struct PackPlan {
    std::vector<int32_t> samples;         // taken samples, as indices into the given order
    std::vector<int32_t> segment_sample;  // [S] the sample of each segment, in the same indices
    std::vector<int32_t> segment_branch;  // [S] 0 conditional, 1 unconditional
    std::vector<int32_t> cu_seqlens;      // [S + 1] where each segment starts; the last entry is T
    std::vector<int32_t> token_segment;   // [T] the segment of each token
};

// Takes samples first come, first served: each is taken when all of its sequences still fit into the token budget and
// the segments, and skipped otherwise. The first is always taken; one that is larger than the budget runs alone, so
// that it cannot wait forever. lengths and sequences (1 or 2 a sample) have num_samples entries.
// Throws std::invalid_argument, which says what was got and what is allowed.
PackPlan plan_pack(const int64_t* lengths, const int64_t* sequences, int64_t num_samples, int64_t budget,
                   int64_t max_segments);

// The (segment, query block) entries of an attention launch, flattened: [N, 2]. Longest segments first (in pack order
// among equals), because the entries that take longest must not start last. An empty segment has none.
// Throws std::invalid_argument.
std::vector<int32_t> work_table(const int64_t* cu_seqlens, int64_t num_segments, int64_t block);

}  // namespace packdit
