// int8 products for any machine.
#include "int8.h"
#include "kernels.h"

namespace packdit {
namespace {

constexpr int kTileRows = 4;
constexpr int kBlockRows = 16;  // at most kPack
constexpr int kTileBlocks = 1;

struct I16 {
    int32_t v[16];
};
struct Weights {
    int16_t v[4 * kInt8Columns];
};

inline Weights load_weights(const uint8_t* p) {
    Weights w;
    for (int i = 0; i < 4 * kInt8Columns; ++i) w.v[i] = static_cast<int16_t>(p[i] - 128);
    return w;
}
inline I16 dot4(I16 sum, const Weights& w, int32_t four) {
    int8_t activations[4];
    __builtin_memcpy(activations, &four, 4);
    for (int i = 0; i < 16; ++i) {
        for (int k = 0; k < 4; ++k) sum.v[i] += w.v[4 * i + k] * activations[k];
    }
    return sum;
}
inline I16 start(int32_t) { return {}; }
inline void store(int32_t* p, const I16& sum) { __builtin_memcpy(p, sum.v, sizeof(sum.v)); }

}  // namespace
}  // namespace packdit

#include "int8_tile.h"

namespace packdit {

const Int8Kernels& int8_portable() {
    static const Int8Kernels kernels{"portable", kBlockRows, kTileBlocks, int8_multiply};
    return kernels;
}

}  // namespace packdit
