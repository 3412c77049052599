// Memory with pages that nobody may touch: below each fiber's stack, behind each block's shared memory.

#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

namespace gpu_on_cpu {

// Anonymous memory, given back at the end; `start` is null where there was none to have.
class Mapping {
  public:
    explicit Mapping(size_t bytes) : bytes_(bytes) {
        void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        start = memory == MAP_FAILED ? nullptr : static_cast<unsigned char*>(memory);
    }
    Mapping(Mapping&& other) noexcept : start(other.start), bytes_(other.bytes_) { other.start = nullptr; }
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping() {
        if (start != nullptr) munmap(start, bytes_);
    }

    // From now on nobody may touch these bytes.
    bool forbid(size_t offset, size_t bytes) { return mprotect(start + offset, bytes, PROT_NONE) == 0; }

    unsigned char* start;

  private:
    size_t bytes_;
};

inline size_t page_bytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

// Dynamic shared memory, full of a pattern that is NaN in every floating-point format, between a guard that is looked
// at afterwards and a page that nobody may touch.
class SharedMemory {
  public:
    explicit SharedMemory(size_t bytes)
        : bytes(bytes), guard_(page_bytes()), pages_((bytes + 15) / page_bytes() * page_bytes() + page_bytes()),
          memory_(guard_ + pages_ + page_bytes()) {
        usable = memory_.start != nullptr && memory_.forbid(guard_ + pages_, page_bytes());
        if (usable) start = memory_.start + guard_ + pages_ - (bytes + 15) / 16 * 16;
    }

    void fill() {
        for (size_t at = 0; at < guard_ + pages_; ++at) memory_.start[at] = pattern(at);
    }

    // Where, relative to `start`, the first byte outside was written; 0 where none was.
    long long written_outside() const {
        const size_t first = static_cast<size_t>(start - memory_.start);
        for (size_t at = 0; at < guard_ + pages_; ++at) {
            const bool inside = at >= first && at < first + bytes;
            if (!inside && memory_.start[at] != pattern(at))
                return static_cast<long long>(at) - static_cast<long long>(first);
        }
        return 0;
    }

    bool guards(const unsigned char* address) const {
        return address >= memory_.start && address < memory_.start + guard_ + pages_ + page_bytes();
    }

    size_t bytes;
    unsigned char* start = nullptr;
    bool usable;

  private:
    static unsigned char pattern(size_t at) { return at % 2 == 0 ? 0xf5 : 0xff; }

    size_t guard_, pages_;
    Mapping memory_;
};

}  // namespace gpu_on_cpu
