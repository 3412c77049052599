// The door between Python and an emulated kernel: one C function that launches it, one that says what it takes.
//
// A fault of the processor within a kernel (an address that is nobody's, a division by zero, what the compiler's own
// checks stop at) becomes the launch's message; signals that come elsewhere go where they went before.

#pragma once

#include <signal.h>

#include "machine.hpp"

namespace gpu_on_cpu {

constexpr int FAULTS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
constexpr size_t FAULT_COUNT = sizeof FAULTS / sizeof *FAULTS;

// While it lives, the processor's faults in this thread's fibers end the launch.
class FaultCatcher {
  public:
    FaultCatcher() {
        is_telling_ = false;
        stack_t stack{};
        stack.ss_sp = stack_;
        stack.ss_size = sizeof stack_;
        sigaltstack(&stack, &stack_before_);
        struct sigaction action {};
        action.sa_sigaction = &FaultCatcher::caught;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        for (size_t fault = 0; fault < FAULT_COUNT; ++fault) sigaction(FAULTS[fault], &action, &before_[fault]);
    }
    FaultCatcher(const FaultCatcher&) = delete;
    FaultCatcher& operator=(const FaultCatcher&) = delete;
    ~FaultCatcher() {
        for (const int fault : FAULTS) give_back(fault);
        sigaltstack(&stack_before_, nullptr);
    }

  private:
    static void give_back(int signal) {
        for (size_t fault = 0; fault < FAULT_COUNT; ++fault)
            if (FAULTS[fault] == signal) sigaction(signal, &before_[fault], nullptr);
    }

    static void caught(int signal, siginfo_t* about, void*) {
        // A second fault while the first is told comes from a heap that the kernel has destroyed.
        if (current == nullptr || is_telling_) return give_back(signal);
        is_telling_ = true;
        if (signal == SIGILL) machine->fail("overflows, shifts too far, or uses a misaligned address or wrong index");
        if (signal == SIGFPE) machine->fail("divides an integer by zero");
        machine->fail("touches %s", machine->place(static_cast<const unsigned char*>(about->si_addr)).c_str());
    }

    static inline thread_local bool is_telling_ = false;
    unsigned char stack_[64 * 1024];
    stack_t stack_before_{};
    static inline struct sigaction before_[FAULT_COUNT];
};

template <typename Arguments>
constexpr size_t size_of_arguments(void (*)(Arguments)) {
    return sizeof(Arguments);
}

// Calls the kernel with a copy of its argument, as a launch does.
template <auto kernel, typename Arguments>
void call(void (*)(Arguments), const void* argument) {
    Arguments copy;
    memcpy(static_cast<void*>(&copy), argument, sizeof copy);
    kernel(copy);
}

// True where the grid ran without a fault; else `message` says what went wrong.
inline bool launch(const Launch& how, void (*kernel)(const void*), const void* argument, char* message, size_t room) {
    Machine one(how, kernel, argument);
    machine = &one;
    bool well;
    {
        FaultCatcher catcher;
        well = one.run();
    }
    current = nullptr;
    machine = nullptr;
    snprintf(message, room, "%s", one.message.c_str());
    return well;
}

}  // namespace gpu_on_cpu

#define GPU_ON_CPU_KERNEL(kernel)                                                                                   \
    extern "C" size_t gpu_on_cpu_size_of_arguments() { return gpu_on_cpu::size_of_arguments(kernel); }              \
    extern "C" bool gpu_on_cpu_launch(const gpu_on_cpu::Launch* how, const void* argument, char* message,           \
                                      size_t room) {                                                                \
        return gpu_on_cpu::launch(                                                                                  \
            *how, [](const void* bytes) { gpu_on_cpu::call<kernel>(kernel, bytes); }, argument, message, room);     \
    }
