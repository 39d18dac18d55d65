// Indices come from users: those that point outside their table are refused.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "gemm.h"

namespace packdit {

// Throws std::invalid_argument unless low <= index[i] < rows for all i < count.
inline void require_index(const char* name, const int32_t* index, int64_t count, int64_t low, int64_t rows) {
    for (int64_t i = 0; i < count; ++i) {
        if (index[i] < low || index[i] >= rows) {
            throw std::invalid_argument(std::string(name) + "[" + std::to_string(i) + "] is " +
                                        std::to_string(index[i]) + "; allowed: " + std::to_string(low) + " to " +
                                        std::to_string(rows - 1));
        }
    }
}

inline void require_index(const char* name, const RowIndex& index, int64_t tokens) {
    require_index(name, index.row, tokens, 0, index.table_rows);
}

}  // namespace packdit
