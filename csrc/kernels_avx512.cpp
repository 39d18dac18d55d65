// The kernels for machines with AVX-512.
#include <immintrin.h>

#include <cstdint>
#include <type_traits>

#include "kernels.h"

// What is included above is compiled for every machine; only the kernels below may use more.
#pragma GCC push_options
#pragma GCC target("avx512f,avx2,fma")
// GCC 12's own AVX-512 header sets them off.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#define PACKDIT_VEC "vec_avx512.h"
#include "kernels_body.h"
#pragma GCC pop_options

namespace packdit {

const Kernels& kernels_avx512() {
    static const Kernels kernels = all_kernels("avx512");
    return kernels;
}

}  // namespace packdit
