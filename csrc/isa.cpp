#include "isa.h"

#include <atomic>
#include <stdexcept>

namespace packdit {
namespace {

std::vector<const Kernels*> usable() {
    std::vector<const Kernels*> found;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        found.push_back(&kernels_avx512());
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&kernels_avx2());
    found.push_back(&kernels_portable());
    return found;
}

std::atomic<const Kernels*>& chosen() {
    static std::atomic<const Kernels*> kernels{usable().front()};
    return kernels;
}

}  // namespace

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (const Kernels* kernels : usable()) names.push_back(kernels->name);
    return names;
}

const Kernels& kernels() { return *chosen().load(std::memory_order_relaxed); }

void set_isa(const std::string& name) {
    std::string allowed;
    for (const Kernels* kernels : usable()) {
        if (kernels->name == name) {
            chosen().store(kernels, std::memory_order_relaxed);
            return;
        }
        allowed += (allowed.empty() ? "" : ", ") + std::string(kernels->name);
    }
    throw std::invalid_argument("instruction set is '" + name + "'; allowed on this machine: " + allowed);
}

}  // namespace packdit
