// Which instruction set the kernels use: the best that this machine has, or one that a test asked for. Products of int8
// have sets of their own.
#pragma once

#include <string>
#include <vector>

#include "int8.h"
#include "kernels.h"

namespace packdit {

// The sets that this machine can run, best first; "portable" is always among them.
std::vector<std::string> isas();

std::vector<std::string> int8_isas();

const Kernels& kernels();
const Int8Kernels& int8_kernels();

// Makes kernels() return those of a set in isas(), int8_kernels() those of one in int8_isas(). They throw
// std::invalid_argument for another name.
void set_isa(const std::string& name);
void set_int8_isa(const std::string& name);

}  // namespace packdit
