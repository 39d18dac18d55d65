// Scratch memory of one thread, aligned to a cache line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

namespace packdit {

class Buffer {
public:
    explicit Buffer(int64_t floats)
        : data_(static_cast<float*>(::operator new(static_cast<size_t>(floats) * sizeof(float), kAlignment))) {}
    ~Buffer() { ::operator delete(data_, kAlignment); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    float* data() const { return data_; }

private:
    static constexpr std::align_val_t kAlignment{64};
    float* data_;
};

}  // namespace packdit
