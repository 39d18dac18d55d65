#include <algorithm>
#include <cmath>
#include <vector>

#include "buffer.h"
#include "isa.h"
#include "ops.h"
#include "parallel.h"

namespace packdit {
namespace {

constexpr int64_t kSummedRows = 16;  // by one chain of additions; the chains' sums are added in double, in order

class GroupSums {
public:
    GroupSums(const GroupNorm& norm, int threads)
        : norm_(norm),
          threads_(threads),
          num_blocks_((norm.rows + kSummedRows - 1) / kSummedRows),
          partial_(num_blocks_ * norm.width) {}

    // For each group the sum of its elements of x [rows, width], or of their squared distances from mean [width],
    // divided by their number.
    std::vector<double> average(const float* x, const float* mean) const {
        const Kernels& k = kernels();
        const int64_t width = norm_.width;
        parallel_ranges(threads_, norm_.rows * width * 16, num_blocks_, [&](int64_t first, int64_t last) {
            for (int64_t b = first; b < last; ++b) {
                const int64_t row = b * kSummedRows;
                k.sum_rows(x + row * width, std::min(kSummedRows, norm_.rows - row), width, mean,
                           partial_.data() + b * width);
            }
        });
        std::vector<double> totals(norm_.groups, 0.0);
        const int64_t columns = width / norm_.groups;
        const float* next = partial_.data();
        for (int64_t b = 0; b < num_blocks_; ++b) {
            for (double& total : totals) {
                for (int64_t c = 0; c < columns; ++c) total += *next++;
            }
        }
        for (double& total : totals) total /= static_cast<double>(norm_.rows * columns);
        return totals;
    }

private:
    const GroupNorm& norm_;
    const int threads_;
    const int64_t num_blocks_;
    const Buffer partial_;
};

}  // namespace

void group_norm_silu(const GroupNorm& norm, int threads) {
    const Kernels& k = kernels();
    const int64_t width = norm.width, columns = width / norm.groups;
    const GroupSums sums(norm, threads);
    const Buffer mean(width), factor(width);
    for (int64_t clip = 0; clip < norm.clips; ++clip) {
        const float* x = norm.x + clip * norm.rows * width;
        float* out = norm.out + clip * norm.rows * width;
        const auto means = sums.average(x, nullptr);
        for (int64_t c = 0; c < width; ++c) mean.data()[c] = static_cast<float>(means[c / columns]);
        const auto variances = sums.average(x, mean.data());
        for (int64_t c = 0; c < width; ++c) {
            const double scale = 1.0 / std::sqrt(variances[c / columns] + static_cast<double>(norm.eps));
            factor.data()[c] = static_cast<float>(scale * static_cast<double>(norm.weight[c]));
        }
        parallel_ranges(threads, norm.rows * width * 64, norm.rows, [&](int64_t first, int64_t last) {
            for (int64_t row = first; row < last; ++row) {
                k.affine_silu(x + row * width, mean.data(), factor.data(), norm.bias, width, norm.silu,
                              out + row * width);
            }
        });
    }
}

}  // namespace packdit
