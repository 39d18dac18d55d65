// packdit.kernels._C: the only file here that knows Python. It converts arguments and lists the exports.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <vector>

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

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "The C++ of packdit: the pack planner and the CPU kernels.";
    m.def("plan_pack", &plan_pack, py::arg("lengths"), py::arg("sequences"), py::arg("budget"),
          py::arg("max_segments"));
    m.def("work_table", &work_table, py::arg("cu_seqlens"), py::arg("block"));
}
