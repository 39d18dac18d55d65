#include "depth.h"

#include <algorithm>

namespace packdit {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

void add(const LeftOperand& left, const Piece& piece, Part& part) {
    const int64_t taken = piece.width * kPack;
    for (int64_t shift = 0; shift < left.shifts; ++shift) {
        const int64_t place = left.slides ? part.packed + shift : part.packed + shift * taken;
        part.runs.push_back({place, ((piece.tap + shift) * left.width + piece.first) * kPack, piece.width});
    }
    part.pieces.push_back(piece);
    part.packed += left.slides ? taken : taken * left.shifts;
}

}  // namespace

std::vector<Part> cut_depth(const LeftOperand& left) {
    const int64_t num_groups = left.taps / left.shifts, group_depth = left.shifts * left.width;
    if (num_groups * group_depth == 0) return std::vector<Part>(1);
    const int64_t cuts = ceil_div(group_depth, kMaxDepth), width = ceil_div(left.width, cuts);  // of a group
    const int64_t whole = std::max<int64_t>(kMaxDepth / group_depth, 1);
    const int64_t groups = ceil_div(num_groups, ceil_div(num_groups, whole));  // in a part
    std::vector<Part> parts;
    for (int64_t group = 0; group < num_groups; group += groups) {
        for (int64_t first = 0; first < left.width; first += width) {
            Part part{};
            for (int64_t g = group; g < std::min(group + groups, num_groups); ++g) {
                add(left, {g * left.shifts, first, std::min(width, left.width - first)}, part);
            }
            parts.push_back(part);
        }
    }
    return parts;
}

}  // namespace packdit
