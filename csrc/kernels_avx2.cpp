// The kernels for machines with AVX2.
#include <immintrin.h>

#include <cstdint>
#include <type_traits>

#include "kernels.h"

// What is included above is compiled for every machine; only the kernels below may use more.
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define PACKDIT_VEC "vec_avx2.h"
#include "kernels_body.h"
#pragma GCC pop_options

namespace packdit {

const Kernels& kernels_avx2() {
    static const Kernels kernels = all_kernels("avx2");
    return kernels;
}

}  // namespace packdit
