// Which instruction set the kernels use: the best that this machine has, or one that a test asked for.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace packdit {

// The sets that this machine can run, best first; "portable" is always among them.
std::vector<std::string> isas();

const Kernels& kernels();

// Makes kernels() return those of a set in isas(). Throws std::invalid_argument for another name.
void set_isa(const std::string& name);

}  // namespace packdit
