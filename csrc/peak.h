// The machine's own limit, for benchmarks.
#pragma once

namespace packdit {

// Float32 operations a second that `threads` threads reach together, two for each fused multiply-add (or for each
// product and sum), in registers alone, with the instruction set in use. The best of some repeats; takes about 0.1 s.
double fma_peak(int threads);

}  // namespace packdit
