// How the depth of a product is cut into parts that are summed in registers.
#pragma once

#include <cstdint>
#include <vector>

#include "gemm.h"

namespace packdit {

// The channels [first, first + width) of `shifts` taps from `tap` on.
struct Piece {
    int64_t tap, first, width;
};

struct Part {
    std::vector<Piece> pieces;
    std::vector<Run> runs;  // of packed rows and packed weights
    int64_t packed;         // floats that the packed rows take
};

// At least one part. They depend on the numbers of taps and shifts and on the width alone; where rows slide they only
// take less room.
std::vector<Part> cut_depth(const LeftOperand& left);

}  // namespace packdit
