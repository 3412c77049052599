// Fibers: threads of which one runs at a time, until it gives way to another itself.
//
// `Context` is where a fiber stopped; `Stacks` is the memory that fibers run on, each with a page below that nobody
// may touch. A switch on x86-64 saves what the calling convention asks to be kept and makes no system call; other
// processors take the C library's slower way.

#pragma once

#include "pages.hpp"

#if !defined(__x86_64__) && !defined(GPU_ON_CPU_UCONTEXT)
#define GPU_ON_CPU_UCONTEXT 1
#endif

#ifdef GPU_ON_CPU_UCONTEXT
#include <ucontext.h>
#endif

namespace gpu_on_cpu {

#ifdef GPU_ON_CPU_UCONTEXT

struct Context {
    ucontext_t registers;
};

inline void prepare(Context& context, unsigned char* stack, size_t bytes, void (*body)()) {
    getcontext(&context.registers);
    context.registers.uc_stack.ss_sp = stack;
    context.registers.uc_stack.ss_size = bytes;
    context.registers.uc_link = nullptr;
    makecontext(&context.registers, body, 0);
}

inline void switch_context(Context& from, Context& to) { swapcontext(&from.registers, &to.registers); }

#else

struct Context {
    void* stack_pointer = nullptr;
};

// Pushes the registers that a called function must keep, and pops those of the other stack.
__attribute__((naked, noinline)) inline void switch_stack(void** /*from*/, void* /*to*/) {
    asm("push %rbp\n\t"
        "push %rbx\n\t"
        "push %r12\n\t"
        "push %r13\n\t"
        "push %r14\n\t"
        "push %r15\n\t"
        "mov %rsp, (%rdi)\n\t"
        "mov %rsi, %rsp\n\t"
        "pop %r15\n\t"
        "pop %r14\n\t"
        "pop %r13\n\t"
        "pop %r12\n\t"
        "pop %rbx\n\t"
        "pop %rbp\n\t"
        "ret");
}

// As though `body` had been about to be called: six registers, its address, and no address to return to.
inline void prepare(Context& context, unsigned char* stack, size_t bytes, void (*body)()) {
    auto** top = reinterpret_cast<void**>(stack + bytes);
    top[-1] = nullptr;
    top[-2] = reinterpret_cast<void*>(body);  // so that its stack is aligned as a call leaves it
    for (int kept = 3; kept <= 8; ++kept) top[-kept] = nullptr;
    context.stack_pointer = top - 8;
}

inline void switch_context(Context& from, Context& to) { switch_stack(&from.stack_pointer, to.stack_pointer); }

#endif

class Stacks {
  public:
    static constexpr size_t BYTES = 128 * 1024;

    explicit Stacks(size_t count) : memory_(count * BYTES) {
        usable = memory_.start != nullptr;
        for (size_t fiber = 0; usable && fiber < count; ++fiber) usable = memory_.forbid(fiber * BYTES, page_bytes());
    }

    unsigned char* start(size_t fiber) const { return memory_.start + fiber * BYTES + page_bytes(); }
    static size_t bytes() { return BYTES - page_bytes(); }
    bool holds(const unsigned char* address, size_t count) const {
        return address >= memory_.start && address < memory_.start + count * BYTES;
    }

    bool usable;

  private:
    Mapping memory_;
};

}  // namespace gpu_on_cpu
