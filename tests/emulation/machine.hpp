// A grid on one processor: clusters one after another, all threads of a cluster as fibers in a chosen order.
//
// In: a launch and the kernel's argument. Out: nothing, or the first fault with its block and thread: a deadlock,
// threads that meet at different exchanges, a touched guard of shared memory, an address that nobody gave, a read of
// a block that has not begun or has ended. Nothing of the kernel runs after a fault; its fibers are left where they
// stand.

#pragma once

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "fibers.hpp"
#include "pages.hpp"

namespace gpu_on_cpu {

constexpr unsigned WARP = 32;

struct Index {
    unsigned x = 0, y = 0, z = 0;
};

enum Order : int { FORWARD = 0, REVERSE = 1, SHUFFLED = 2 };

struct Launch {
    unsigned grid, block, cluster, first;
    int order;
    unsigned long long seed, shared_bytes;
};

// Where threads wait for one another. `generation` counts the meetings held.
struct Exchange {
    Exchange() = default;
    Exchange(const char* group, unsigned members) : group(group), members(members) {}

    const char* group = "";
    unsigned members = 0, arrived = 0, generation = 0;
    const char* primitive = "";
};

// Two sets of words: a lane may put its next before another has taken the last, but no lane can be two ahead.
struct Warp {
    Exchange exchange{"warp", WARP};
    unsigned long long words[2][WARP] = {};
};

struct Block {
    explicit Block(size_t shared_bytes) : shared(shared_bytes) {}

    Index index;
    unsigned rank = 0, ended = 0;
    Exchange exchange;
    std::vector<Warp> warps;
    SharedMemory shared;
};

struct Copy {
    unsigned char* to;
    const unsigned char* from;
};

struct Thread {
    Context context;
    Index index;
    Block* block = nullptr;
    Warp* warp = nullptr;
    unsigned lane = 0, turn = 0, generation = 0;
    const Exchange* waiting = nullptr;
    bool ended = false;
    std::vector<Copy> copies;

    bool can_run() const { return !ended && (waiting == nullptr || waiting->generation != generation); }
};

class Machine;
inline thread_local Machine* machine = nullptr;
inline thread_local Thread* current = nullptr;

class Machine {
  public:
    Machine(const Launch& launch, void (*kernel)(const void*), const void* argument)
        : launch_(launch), kernel_(kernel), argument_(argument), stacks_(threads_at_once()),
          threads_(threads_at_once()), turns_(threads_at_once()), random_(launch.seed) {
        grid.x = launch.grid;
        block.x = launch.block;
        grid.y = grid.z = block.y = block.z = 1;
        for (unsigned rank = 0; rank < launch.cluster; ++rank) blocks.emplace_back(launch.shared_bytes);
    }

    // Runs the grid from its first block on; false with a `message` at the first fault.
    bool run() {
        if (!usable()) return false;
        for (const unsigned cluster : arranged((launch_.grid - launch_.first) / launch_.cluster)) {
            begin(launch_.first / launch_.cluster + cluster);
            current = turns_.front();
            switch_context(host_, current->context);
            current = nullptr;
            if (message.empty()) look_at_guards();
            if (!message.empty()) return false;
        }
        return true;
    }

    // Called by a fiber: waits until all members of the exchange have come.
    void meet(Exchange& exchange, const char* primitive) {
        if (exchange.arrived > 0 && strcmp(exchange.primitive, primitive) != 0)
            fail("comes to %s while others of its %s wait in %s", primitive, exchange.group, exchange.primitive);
        exchange.primitive = primitive;
        current->waiting = &exchange;
        current->generation = exchange.generation;
        if (++exchange.arrived == exchange.members) {
            exchange.arrived = 0;
            ++exchange.generation;
        }
        give_way();
    }

    // Called by a fiber: the launch is over, with this message about the running thread.
    [[noreturn]] __attribute__((format(printf, 2, 3))) void fail(const char* format, ...) {
        char text[512];
        va_list values;
        va_start(values, format);
        vsnprintf(text, sizeof text, format, values);
        va_end(values);
        message = name(*current) + " " + text;
        leave();
    }

    // Goes back to `run` from wherever a fiber stands.
    [[noreturn]] void leave() {
        Context left_here;
        switch_context(left_here, host_);
        __builtin_unreachable();
    }

    // What lies at an address at which a thread may not touch memory.
    std::string place(const unsigned char* address) const {
        for (const Block& block : blocks)
            if (block.shared.guards(address))
                return "byte " + std::to_string(address - block.shared.start) + " of the " +
                       std::to_string(block.shared.bytes) + " bytes of shared memory of block " +
                       std::to_string(block.index.x);
        if (stacks_.holds(address, threads_.size())) return "its own stack, which is full";
        char text[64];
        snprintf(text, sizeof text, "address %p, which is not the kernel's", static_cast<const void*>(address));
        return text;
    }

    Index grid, block;
    Exchange cluster;
    std::vector<Block> blocks;
    std::string message;

  private:
    size_t threads_at_once() const { return static_cast<size_t>(launch_.cluster) * launch_.block; }

    bool usable() {
        bool is_usable = stacks_.usable;
        for (const Block& one : blocks) is_usable = is_usable && one.shared.usable;
        if (!is_usable) message = "there is no memory for stacks and shared memory";
        return is_usable;
    }

    // Numbers from 0 on, in the order of this launch.
    std::vector<unsigned> arranged(size_t count) {
        std::vector<unsigned> numbers(count);
        for (size_t at = 0; at < count; ++at)
            numbers[at] = static_cast<unsigned>(launch_.order == REVERSE ? count - 1 - at : at);
        for (size_t left = count; launch_.order == SHUFFLED && left > 1; --left)
            std::swap(numbers[left - 1], numbers[random() % left]);
        return numbers;
    }

    // A linear congruence, of which only the higher bits are used (constants: Knuth's MMIX).
    unsigned random() {
        random_ = random_ * 6364136223846793005ull + 1442695040888963407ull;
        return static_cast<unsigned>(random_ >> 33);
    }

    // Blocks and threads of one cluster, all before their first instruction.
    void begin(unsigned cluster_index) {
        cluster = Exchange{"cluster", static_cast<unsigned>(threads_at_once())};
        for (unsigned rank = 0; rank < launch_.cluster; ++rank) {
            Block& one = blocks[rank];
            one.index.x = cluster_index * launch_.cluster + rank;
            one.rank = rank;
            one.ended = 0;
            one.exchange = Exchange{"block", launch_.block};
            one.warps.assign(launch_.block / WARP, Warp{});
            one.shared.fill();
        }
        const std::vector<unsigned> order = arranged(threads_.size());
        for (unsigned turn = 0; turn < order.size(); ++turn) begin_thread(order[turn], turn);
    }

    void begin_thread(unsigned number, unsigned turn) {
        Thread& thread = threads_[number];
        thread.block = &blocks[number / launch_.block];
        thread.index.x = number % launch_.block;
        thread.warp = &thread.block->warps[thread.index.x / WARP];
        thread.lane = thread.index.x % WARP;
        thread.turn = turn;
        thread.waiting = nullptr;
        thread.ended = false;
        thread.copies.clear();
        turns_[turn] = &thread;
        prepare(thread.context, stacks_.start(number), Stacks::bytes(), &Machine::live);
    }

    // The life of a fiber.
    static void live() {
        machine->kernel_(machine->argument_);
        if (!current->copies.empty()) machine->fail("ended with copies under way: copy_async_wait is missing");
        current->ended = true;
        ++current->block->ended;
        machine->give_way();
        __builtin_unreachable();
    }

    // Lets the next thread run that can, in the order of their turns.
    void give_way() {
        Thread& here = *current;
        size_t turn = here.turn;
        for (size_t looked_at = 0; looked_at < turns_.size(); ++looked_at) {
            turn = turn + 1 == turns_.size() ? 0 : turn + 1;
            Thread& next = *turns_[turn];
            if (!next.can_run()) continue;
            next.waiting = nullptr;
            if (&next == &here) return;
            current = &next;
            switch_context(here.context, next.context);
            return;
        }
        report_deadlock();
        leave();
    }

    // Says where every thread stands, if any has not ended.
    void report_deadlock() {
        std::vector<std::string> groups;
        size_t ended = 0;
        for (size_t first = 0, next; first < threads_.size(); first = next) {
            for (next = first + 1; next < threads_.size() && stands_like(threads_[first], threads_[next]);) ++next;
            if (threads_[first].ended) ended += next - first;
            groups.push_back(stand(threads_[first], threads_[next - 1]));
        }
        if (ended == threads_.size()) return;
        message = "deadlock: ";
        for (size_t group = 0; group < groups.size() && group < 12; ++group)
            message += (group == 0 ? "" : "; ") + groups[group];
        if (groups.size() > 12) message += "; and so on";
    }

    static bool stands_like(const Thread& one, const Thread& other) {
        return one.block == other.block && one.ended == other.ended && (one.ended || one.waiting == other.waiting);
    }

    static std::string stand(const Thread& first, const Thread& last) {
        std::string text = name(first);
        if (&first != &last) text += " to " + std::to_string(last.index.x);
        return text + (first.ended ? " ended" : std::string(" waits in ") + first.waiting->primitive);
    }

    static std::string name(const Thread& thread) {
        return "block " + std::to_string(thread.block->index.x) + " thread " + std::to_string(thread.index.x);
    }

    void look_at_guards() {
        for (const Block& one : blocks) {
            const long long at = one.shared.written_outside();
            if (at == 0) continue;
            message = "block " + std::to_string(one.index.x) + " wrote byte " + std::to_string(at) + " of its " +
                      std::to_string(one.shared.bytes) + " bytes of shared memory";
            return;
        }
    }

    Launch launch_;
    void (*kernel_)(const void*);
    const void* argument_;
    Stacks stacks_;
    std::vector<Thread> threads_;
    std::vector<Thread*> turns_;
    unsigned long long random_;
    Context host_;
};

}  // namespace gpu_on_cpu
