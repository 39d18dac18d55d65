// packdit.kernels._C: the only file here that knows Python. It converts arguments and lists the exports.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "isa.h"
#include "ops.h"
#include "peak.h"
#include "planner.h"

namespace py = pybind11;

namespace {

using Ints = std::vector<int64_t>;

py::array_t<int32_t> to_numpy(const std::vector<int32_t>& values) {
    return py::array_t<int32_t>(static_cast<py::ssize_t>(values.size()), values.data());
}

py::tuple plan_pack(const Ints& lengths, const Ints& sequences, int64_t budget, int64_t max_segments) {
    if (lengths.size() != sequences.size()) {
        throw std::invalid_argument("got " + std::to_string(lengths.size()) + " lengths and " +
                                    std::to_string(sequences.size()) + " sequence counts; allowed: one each a sample");
    }
    const auto num_samples = static_cast<int64_t>(lengths.size());
    const auto plan = packdit::plan_pack(lengths.data(), sequences.data(), num_samples, budget, max_segments);
    return py::make_tuple(to_numpy(plan.samples), to_numpy(plan.segment_sample), to_numpy(plan.segment_branch),
                          to_numpy(plan.cu_seqlens), to_numpy(plan.token_segment));
}

py::array_t<int32_t> work_table(const Ints& cu_seqlens, int64_t block) {
    if (cu_seqlens.empty()) throw std::invalid_argument("cu_seqlens is empty; allowed: at least one entry, 0");
    const auto num_segments = static_cast<int64_t>(cu_seqlens.size()) - 1;
    const auto table = packdit::work_table(cu_seqlens.data(), num_segments, block);
    return to_numpy(table).reshape({static_cast<py::ssize_t>(table.size() / 2), py::ssize_t{2}});
}

// Arrays come as addresses; 0 is null.
using Address = uintptr_t;
using RowsArg = std::pair<Address, int64_t>;                      // address, stride
using HeadsArg = std::tuple<Address, int64_t, int64_t, int64_t>;  // address, stride, head stride, heads
using ModulationArg = std::tuple<RowsArg, RowsArg, int, float>;   // shift, scale, norm, eps
using IndexArg = std::pair<Address, int64_t>;                     // address, rows of the table
using WeightsArg = std::tuple<Address, int64_t, bool, Address>;   // address, columns, packed, bias

using Int8WeightsArg = std::tuple<Address, int64_t, Address, Address>;  // address, columns, scales, bias
using ResidualArg = std::tuple<RowsArg, RowsArg, IndexArg>;             // residual, gate, index into gate
using EpilogueArg = std::pair<int, std::optional<ResidualArg>>;         // activation, residual
using Triple = std::array<int64_t, 3>;

float* floats(Address address) { return reinterpret_cast<float*>(address); }
const int32_t* ints(Address address) { return reinterpret_cast<const int32_t*>(address); }
packdit::Rows rows(const RowsArg& arg) { return {floats(arg.first), arg.second}; }
packdit::RowIndex index(const IndexArg& arg) { return {ints(arg.first), arg.second}; }

packdit::Modulation modulation(const ModulationArg& arg) {
    const auto& [shift, scale, norm, eps] = arg;
    return {rows(shift), rows(scale), static_cast<packdit::Norm>(norm), eps};
}

packdit::Weights weights(const WeightsArg& arg) {
    const auto& [address, columns, packed, bias] = arg;
    return {floats(address), columns, packed, floats(bias)};
}

packdit::Epilogue epilogue(const EpilogueArg& arg) {
    const auto& [activation, add] = arg;
    packdit::Epilogue e{};
    e.activation = static_cast<packdit::Activation>(activation);
    if (add) {
        e.residual = rows(std::get<0>(*add));
        e.gate = rows(std::get<1>(*add));
        e.index = index(std::get<2>(*add));
    }
    return e;
}

packdit::Heads heads(const HeadsArg& arg) {
    const auto& [address, stride, head_stride, count] = arg;
    return {floats(address), stride, head_stride, count};
}

void modulate(const RowsArg& x, const ModulationArg& table, const IndexArg& row, int64_t tokens, int64_t width,
              Address out, int threads) {
    packdit::modulate(rows(x), modulation(table), index(row), tokens, width, floats(out), threads);
}

void gated_residual(const RowsArg& x, const RowsArg& y, const RowsArg& gate, const std::optional<ModulationArg>& table,
                    const IndexArg& row, int64_t tokens, int64_t width, Address total, Address modulated, int threads) {
    const auto next = table ? modulation(*table) : packdit::Modulation{};
    packdit::gated_residual(rows(x), rows(y), rows(gate), table ? &next : nullptr, index(row), tokens, width,
                            floats(total), floats(modulated), threads);
}

void norm_rope(const HeadsArg& x, int64_t tokens, int64_t head_dim, Address weight, int norm, bool across_heads,
               float eps, Address cos, Address sin, int64_t num_angles, bool interleaved, Address out, int threads) {
    const auto from = heads(x);
    packdit::NormRope token{};
    token.x = from.data;
    token.head_stride = from.head_stride;
    token.num_heads = from.heads;
    token.head_dim = head_dim;
    token.weight = floats(weight);
    token.norm = static_cast<packdit::Norm>(norm);
    token.across_heads = across_heads;
    token.eps = eps;
    token.cos = floats(cos);
    token.sin = floats(sin);
    token.num_angles = num_angles;
    token.interleaved = interleaved;
    token.out = floats(out);
    packdit::norm_rope(token, from.stride, tokens, threads);
}

void norm_silu(Address x, Address weight, Address bias, int64_t num_rows, int64_t width, int norm, bool silu, float eps,
               Address out, int threads) {
    packdit::norm_silu(floats(x), floats(weight), floats(bias), num_rows, width, static_cast<packdit::Norm>(norm), silu,
                       eps, floats(out), threads);
}

void group_norm_silu(Address x, const Triple& size, int64_t groups, Address weight, Address bias, bool silu, float eps,
                     Address out, int threads) {
    packdit::GroupNorm norm{};
    norm.x = floats(x);
    norm.weight = floats(weight);
    norm.bias = floats(bias);
    std::tie(norm.clips, norm.rows, norm.width) = std::tie(size[0], size[1], size[2]);
    norm.groups = groups;
    norm.silu = silu;
    norm.eps = eps;
    norm.out = floats(out);
    packdit::group_norm_silu(norm, threads);
}

void guided_step(Address state, const Triple& size, int64_t slot_stride, int64_t token_stride, const RowsArg& out,
                 int64_t out_rows, Address cond, Address uncond, Address guidance, Address table, const IndexArg& row,
                 int threads) {
    packdit::GuidedStep step{};
    step.state = floats(state);
    step.slots = size[0];
    step.tokens = size[1];
    step.channels = size[2];
    step.slot_stride = slot_stride;
    step.token_stride = token_stride;
    step.out = rows(out);
    step.out_rows = out_rows;
    step.cond = ints(cond);
    step.uncond = ints(uncond);
    step.guidance = floats(guidance);
    step.table = floats(table);
    step.row = index(row);
    packdit::guided_step(step, threads);
}

void linear(const RowsArg& x, int64_t num_rows, int64_t depth, const WeightsArg& weight, const EpilogueArg& then,
            Address out, int threads) {
    packdit::linear(rows(x), num_rows, depth, weights(weight), epilogue(then), floats(out), threads);
}

void linear_int8(const RowsArg& x, int64_t num_rows, int64_t depth, const Int8WeightsArg& weight,
                 const EpilogueArg& then, Address out, int threads) {
    const auto& [address, columns, scales, bias] = weight;
    const packdit::Int8Weights packed{reinterpret_cast<const uint8_t*>(address), columns, floats(scales), floats(bias)};
    packdit::linear_int8(rows(x), num_rows, depth, packed, epilogue(then), floats(out), threads);
}

void causal_conv3d(Address x, const std::array<int64_t, 4>& size, Address past, int64_t past_frames, int64_t missing,
                   const WeightsArg& weight, const Triple& kernel, const Triple& stride, int64_t top, int64_t left,
                   bool nearest, const Triple& out_size, Address out, int threads) {
    packdit::Convolution c{};
    c.x = floats(x);
    c.past = floats(past);
    c.missing = missing;
    c.past_frames = past_frames;
    std::tie(c.frames, c.height, c.width, c.channels) = std::tie(size[0], size[1], size[2], size[3]);
    c.kernel = kernel;
    c.stride = stride;
    c.top = top;
    c.left = left;
    c.nearest = nearest;
    c.out_size = out_size;
    packdit::causal_conv3d(c, weights(weight), floats(out), threads);
}

void varlen_attention(const HeadsArg& q, const HeadsArg& k, const HeadsArg& v, Address cu_seqlens_q,
                      Address cu_seqlens_k, int64_t segments, int64_t num_queries, int64_t head_dim, bool causal,
                      float scale, Address key_bias, Address out, int threads) {
    packdit::varlen_attention({heads(q), heads(k), heads(v), ints(cu_seqlens_q), ints(cu_seqlens_k), segments,
                               num_queries, head_dim, causal, scale, floats(key_bias), floats(out)},
                              threads);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "The C++ of packdit: the pack planner and the CPU kernels.";
    m.def("plan_pack", &plan_pack, py::arg("lengths"), py::arg("sequences"), py::arg("budget"),
          py::arg("max_segments"));
    m.def("work_table", &work_table, py::arg("cu_seqlens"), py::arg("block"));

    m.def("isas", &packdit::isas);
    m.def("isa", [] { return std::string(packdit::kernels().name); });
    m.def("set_isa", &packdit::set_isa, py::arg("name"));
    m.def("int8_isas", &packdit::int8_isas);
    m.def("int8_isa", [] { return std::string(packdit::int8_kernels().name); });
    m.def("set_int8_isa", &packdit::set_int8_isa, py::arg("name"));
    m.def("fma_peak", &packdit::fma_peak, py::arg("threads"), py::call_guard<py::gil_scoped_release>());

    const auto kernel = [&m](const char* name, auto function) {
        m.def(name, function, py::call_guard<py::gil_scoped_release>());
    };
    kernel("modulate", &modulate);
    kernel("gated_residual", &gated_residual);
    kernel("norm_rope", &norm_rope);
    kernel("norm_silu", &norm_silu);
    kernel("group_norm_silu", &group_norm_silu);
    kernel("guided_step", &guided_step);
    kernel("linear", &linear);
    kernel("linear_int8", &linear_int8);
    kernel("causal_conv3d", &causal_conv3d);
    kernel("varlen_attention", &varlen_attention);
}
