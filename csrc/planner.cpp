#include "planner.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

namespace packdit {
namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxSequences = 2;  // of one sample: conditional and unconditional

void require_range(const std::string& name, int64_t value, int64_t low, int64_t high) {
    if (value < low || value > high) {
        throw std::invalid_argument(name + " is " + std::to_string(value) + "; allowed: " + std::to_string(low) +
                                    " to " + std::to_string(high));
    }
}

void append(PackPlan& plan, int32_t sample, int64_t length, int64_t sequences) {
    plan.samples.push_back(sample);
    for (int32_t branch = 0; branch < sequences; ++branch) {
        const auto segment = static_cast<int32_t>(plan.segment_sample.size());
        plan.segment_sample.push_back(sample);
        plan.segment_branch.push_back(branch);
        plan.cu_seqlens.push_back(plan.cu_seqlens.back() + static_cast<int32_t>(length));
        plan.token_segment.insert(plan.token_segment.end(), length, segment);
    }
}

}  // namespace

PackPlan plan_pack(const int64_t* lengths, const int64_t* sequences, int64_t num_samples, int64_t budget,
                   int64_t max_segments) {
    require_range("number of samples", num_samples, 0, kMaxInt32);
    require_range("token budget", budget, 1, kMaxInt32);
    require_range("max_segments", max_segments, kMaxSequences, kMaxInt32);
    for (int64_t i = 0; i < num_samples; ++i) {
        require_range("length of sample " + std::to_string(i), lengths[i], 0, kMaxInt32);
        require_range("number of sequences of sample " + std::to_string(i), sequences[i], 1, kMaxSequences);
    }
    if (num_samples > 0) require_range("tokens of the first sample", lengths[0] * sequences[0], 0, kMaxInt32);

    PackPlan plan;
    plan.cu_seqlens.push_back(0);
    int64_t tokens_left = budget;
    int64_t segments_left = max_segments;
    for (int64_t i = 0; i < num_samples && segments_left > 0; ++i) {
        const int64_t tokens = lengths[i] * sequences[i];
        const bool fits = tokens <= tokens_left && sequences[i] <= segments_left;
        if (!fits && i > 0) continue;
        append(plan, static_cast<int32_t>(i), lengths[i], sequences[i]);
        tokens_left -= tokens;  // negative after an oversize first sample: then nothing else fits
        segments_left -= sequences[i];
    }
    return plan;
}

std::vector<int32_t> work_table(const int64_t* cu_seqlens, int64_t num_segments, int64_t block) {
    require_range("block", block, 1, kMaxInt32);
    require_range("number of segments", num_segments, 0, kMaxInt32);
    require_range("first entry of cu_seqlens", cu_seqlens[0], 0, 0);
    for (int64_t s = 0; s < num_segments; ++s) {
        require_range("entry " + std::to_string(s + 1) + " of cu_seqlens", cu_seqlens[s + 1], cu_seqlens[s], kMaxInt32);
    }

    const auto length = [&](int32_t s) { return cu_seqlens[s + 1] - cu_seqlens[s]; };
    std::vector<int32_t> order(num_segments);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return length(a) > length(b); });

    std::vector<int32_t> table;
    for (const int32_t segment : order) {
        const int64_t num_blocks = (length(segment) + block - 1) / block;
        for (int64_t b = 0; b < num_blocks; ++b) {
            table.push_back(segment);
            table.push_back(static_cast<int32_t>(b));
        }
    }
    return table;
}

}  // namespace packdit
