// The kernels for any machine.
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "kernels.h"

#define PACKDIT_VEC "vec_portable.h"
#include "kernels_body.h"

namespace packdit {

const Kernels& kernels_portable() {
    static const Kernels kernels = all_kernels("portable");
    return kernels;
}

}  // namespace packdit
