// Threads. Their number never changes a result: every output element belongs to one thread, which computes it alone.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace packdit {

constexpr int64_t kWorkPerThread = 1 << 20;  // multiply-adds, or as many as take as long, for which a thread pays

// Calls body(thread, num_threads) on at most `threads` threads, fewer where the work is small.
template <typename Body>
void parallel(int threads, int64_t work, const Body& body) {
    const int useful = static_cast<int>(std::clamp<int64_t>(work / kWorkPerThread, 1, threads));
    if (useful == 1) {
        body(0, 1);
        return;
    }
#pragma omp parallel num_threads(useful)
    body(omp_get_thread_num(), omp_get_num_threads());
}

// Calls body(first, last) for even shares of `count` items.
template <typename Body>
void parallel_ranges(int threads, int64_t work, int64_t count, const Body& body) {
    parallel(threads, work, [&](int thread, int num_threads) {
        body(count * thread / num_threads, count * (thread + 1) / num_threads);
    });
}

}  // namespace packdit
