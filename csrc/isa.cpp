#include "isa.h"

#include <atomic>
#include <stdexcept>

namespace packdit {
namespace {

std::vector<const Kernels*> usable() {
    std::vector<const Kernels*> found;
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (__builtin_cpu_supports("avx512f") && avx2) found.push_back(&kernels_avx512());
    if (avx2) found.push_back(&kernels_avx2());
    found.push_back(&kernels_portable());
    return found;
}

std::vector<const Int8Kernels*> usable_int8() {
    std::vector<const Int8Kernels*> found;
    const bool avx512 = __builtin_cpu_supports("avx512f");
    if (avx512 && __builtin_cpu_supports("avx512vnni")) found.push_back(&int8_avx512_vnni());
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("avxvnni")) found.push_back(&int8_avx_vnni());
    if (__builtin_cpu_supports("avx2")) found.push_back(&int8_avx2());
    found.push_back(&int8_portable());
    return found;
}

template <typename Table>
std::vector<std::string> names_of(const std::vector<const Table*>& tables) {
    std::vector<std::string> names;
    for (const Table* table : tables) names.push_back(table->name);
    return names;
}

template <typename Table>
const Table* find(const std::vector<const Table*>& tables, const std::string& name) {
    std::string allowed;
    for (const Table* table : tables) {
        if (table->name == name) return table;
        allowed += (allowed.empty() ? "" : ", ") + std::string(table->name);
    }
    throw std::invalid_argument("instruction set is '" + name + "'; allowed on this machine: " + allowed);
}

std::atomic<const Kernels*>& chosen() {
    static std::atomic<const Kernels*> kernels{usable().front()};
    return kernels;
}

std::atomic<const Int8Kernels*>& chosen_int8() {
    static std::atomic<const Int8Kernels*> kernels{usable_int8().front()};
    return kernels;
}

}  // namespace

std::vector<std::string> isas() { return names_of(usable()); }
std::vector<std::string> int8_isas() { return names_of(usable_int8()); }

const Kernels& kernels() { return *chosen().load(std::memory_order_relaxed); }
const Int8Kernels& int8_kernels() { return *chosen_int8().load(std::memory_order_relaxed); }

void set_isa(const std::string& name) { chosen().store(find(usable(), name), std::memory_order_relaxed); }
void set_int8_isa(const std::string& name) {
    chosen_int8().store(find(usable_int8(), name), std::memory_order_relaxed);
}

}  // namespace packdit
