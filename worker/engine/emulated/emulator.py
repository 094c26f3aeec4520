"""Runs a static Linux program for x86-64 on the processor of Bochs: `emulator.py PROGRAM [ARGUMENT..]`.

There is no kernel. All memory is mapped to itself, the program runs with every privilege, and the few system calls that a
test program makes are answered here. The processor has no hook for them, but one for writes to its special registers;
so SYSCALL and undefined instructions lead to a few lines of machine code that make such a write.
"""

import ctypes
import mmap
import os
import struct
import sys
import time

import bochscpu
import bochscpu.cpu
from bochscpu import _bochscpu as bochs

import tiles

SIZE = 1 << 30
# What lies where; the program from 16 MiB on.
ANSWER, SAVED, ON_SYSCALL, ON_UNDEFINED, TASK, VECTORS, HANDLER_STACK = (
    0x2000, 0x2100, 0x3000, 0x4000, 0x5000, 0x6000, 0x8000,
)
PAGE_TABLES, STACK, PROGRAM = 0x10000, 0xFFF000, 0x1000000
UNDEFINED = 6
ENVIRONMENT = [
    # All memory from one place, so that nothing has to be given back.
    "MALLOC_MMAP_THRESHOLD_=1073741824",
    "MALLOC_TRIM_THRESHOLD_=1073741824",
    "PROPTEST_CASES=" + os.environ.get("PROPTEST_CASES", "8"),
]
REGISTERS = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split()

memory = mmap.mmap(-1, SIZE)
memory_address = ctypes.addressof(ctypes.c_char.from_buffer(memory))

# Both save rax, rdx and rcx at SAVED, write EDX:EAX to a special register, and go on when that was seen.
SAVE = "48890425 00210000 48891425 08210000 48890c25 10210000 b9 020100c0 31c0"
SYSCALL_CODE = bytes.fromhex(
    SAVE
    + "31d2 0f30"  # xor edx, edx; wrmsr
    + "48 8b0425 08200000 f3480faed0"  # mov rax, [ANSWER + 8]; wrfsbase rax
    + "488b1425 08210000 488b0425 00200000 488b0c25 10210000 ffe1"  # the answer in rax; jmp rcx
)
UNDEFINED_CODE = bytes.fromhex(
    SAVE
    + "ba 01000000 0f30"  # mov edx, 1; wrmsr
    + "488b0425 00210000 488b1425 08210000 488b0c25 10210000 48cf"  # all as it was; iretq
)


def read(address):
    return struct.unpack_from("<Q", memory, address)[0]


def write(address, value):
    struct.pack_into("<Q", memory, address, value & (1 << 64) - 1)


def load(path):
    """Puts a static program where it belongs. Gives its entry, its end, and what it wants to know of its own headers."""
    with open(path, "rb") as file:
        data = file.read()
    kind, (entry, headers), (size, count) = (
        struct.unpack_from("<H", data, 16)[0],
        struct.unpack_from("<QQ", data, 24),
        struct.unpack_from("<HH", data, 54),
    )
    if data[:4] != b"\x7fELF" or kind not in (2, 3):
        sys.exit(f"{path}: not a program")
    base = PROGRAM if kind == 3 else 0
    end, headers_address = 0, 0
    for at in range(headers, headers + size * count, size):
        type, _, offset, address, _, in_file, in_memory, _ = struct.unpack_from("<IIQQQQQQ", data, at)
        if type == 3:
            sys.exit(f"{path}: not a static program")
        if type == 1:
            memory[base + address : base + address + in_file] = data[offset : offset + in_file]
            end = max(end, base + address + in_memory)
            if offset <= headers < offset + in_file:
                headers_address = base + address + headers - offset
    return base + entry, end, [(3, headers_address), (4, size), (5, count), (9, base + entry)]


def push_arguments(arguments, auxiliary):
    """What a program finds on its stack. Gives the top of it."""
    top = STACK

    def push(data):
        nonlocal top
        top -= len(data)
        memory[top : top + len(data)] = data
        return top

    argument_addresses = [push(argument.encode() + b"\0") for argument in arguments]
    environment_addresses = [push(variable.encode() + b"\0") for variable in ENVIRONMENT]
    auxiliary = auxiliary + [(6, 4096), (25, push(os.urandom(16))), (51, 16384), (0, 0)]
    words = [len(arguments), *argument_addresses, 0, *environment_addresses, 0]
    words += [word for pair in auxiliary for word in pair]
    top &= ~15
    if len(words) % 2 == 1:
        words.append(0)
    return push(struct.pack(f"<{len(words)}Q", *words))


class Kernel:
    """Answers system calls."""

    NO_ENTRY, TRY_AGAIN, INVALID, NOT_A_TERMINAL, UNKNOWN = -2, -11, -22, -25, -38
    RANDOM = 100

    def __init__(self, end):
        self.heap = (end + 4095) & ~4095
        self.map = SIZE
        self.exit_code = None

    def call(self, number, a):
        match number:
            case 0 if a[0] == self.RANDOM:  # read
                memory[a[1] : a[1] + a[2]] = os.urandom(a[2])
                return a[2]
            case 1:  # write
                os.write(a[0], memory[a[1] : a[1] + a[2]])
                return a[2]
            case 20:  # writev
                pieces = [(read(a[1] + 16 * i), read(a[1] + 16 * i + 8)) for i in range(a[2])]
                return sum(os.write(a[0], memory[at : at + length]) for at, length in pieces)
            case 7:  # poll: all is ready
                struct.pack_into("<H", memory, a[0] + 6, 1)
                return 1
            case 9:  # mmap, of anonymous memory
                self.map -= (a[1] + 4095) & ~4095
                if self.map < self.heap:
                    sys.exit("the program needs more memory than there is")
                return self.map
            case 12:  # brk
                self.heap = max(self.heap, a[0])
                return self.heap
            case 158:  # arch_prctl
                if a[0] == 0x1002:  # ARCH_SET_FS
                    write(ANSWER + 8, a[1])
                    return 0
                return 0 if a[0] == 0x1023 and a[1] == 18 else self.INVALID  # ARCH_REQ_XCOMP_PERM, of tiles
            case 60 | 231:  # exit, exit_group
                self.exit_code = a[0]
                return 0
            case 228:  # clock_gettime
                seconds, nanoseconds = divmod(time.monotonic_ns(), 10**9)
                write(a[1], seconds)
                write(a[1] + 8, nanoseconds)
                return 0
            case 257:  # openat
                path = memory[a[1] : memory.find(b"\0", a[1])]
                return self.RANDOM if path in (b"/dev/random", b"/dev/urandom") else self.NO_ENTRY
            case 302:  # prlimit64
                if a[3]:
                    memory[a[3] : a[3] + 16] = b"\xff" * 16
                return 0
            case 318:  # getrandom
                memory[a[0] : a[0] + a[1]] = os.urandom(a[1])
                return a[1]
            case 56 | 435:  # clone: without threads, tests run on the first one
                return self.TRY_AGAIN
            case 16:  # ioctl
                return self.NOT_A_TERMINAL
            case 79 | 89 | 262 | 332:  # getcwd, readlink, newfstatat, statx
                return self.NO_ENTRY
            case 39 | 186 | 218:  # the numbers of process and thread
                return 1
            case 204:  # sched_getaffinity: one processor
                write(a[2], 1)
                return 8
            case 3 | 10 | 11 | 13 | 14 | 28 | 131 | 202 | 273:  # of no consequence: signals, protection, robust lists
                return 0
        return self.UNKNOWN


def segment(selector, attributes, base=0, limit=0xFFFFFFFF):
    made = bochs.Segment()
    made.present, made.selector, made.attr, made.base, made.limit = True, selector, attributes, base, limit
    return made


def table(base, limit):
    made = bochs.GlobalSegment()
    made.base, made.limit = base, limit
    return made


def start_state(entry, top):
    """A processor in 64-bit mode with every feature that tests may use turned on."""
    write(PAGE_TABLES, PAGE_TABLES + 0x1000 | 7)
    write(PAGE_TABLES + 0x1000, PAGE_TABLES + 0x2000 | 7)
    for page in range(SIZE >> 21):
        write(PAGE_TABLES + 0x2000 + 8 * page, page << 21 | 0x87)
    write(8, 0x00AF9B000000FFFF)
    write(16, 0x00CF93000000FFFF)
    memory[ON_SYSCALL : ON_SYSCALL + len(SYSCALL_CODE)] = SYSCALL_CODE
    memory[ON_UNDEFINED : ON_UNDEFINED + len(UNDEFINED_CODE)] = UNDEFINED_CODE
    # The handler has a stack of its own: below that of the program is what a function keeps there.
    write(TASK + 36, HANDLER_STACK)
    write(VECTORS + 16 * UNDEFINED, ON_UNDEFINED | 8 << 16 | 1 << 32 | 0x8E << 40)

    state = bochs.State()
    state.cr0 = 0x80010033
    state.cr4 = 1 << 5 | 1 << 9 | 1 << 10 | 1 << 16 | 1 << 18  # PAE, OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE
    state.efer = 0xD01  # SCE, LME, LMA, NXE
    state.cr3, state.xcr0 = PAGE_TABLES, 0x600E7
    state.lstar, state.star, state.sfmask = ON_SYSCALL, 8 << 32, 0
    state.mxcsr, state.mxcsr_mask, state.fpcw, state.fptw = 0x1F80, 0xFFFF, 0x37F, 0
    state.rflags, state.rip, state.rsp = 2, entry, top
    state.cs = segment(8, 0xA09B)
    for name in ("ds", "es", "ss", "fs", "gs"):
        setattr(state, name, segment(16, 0xC093))
    state.tr = segment(24, 0x008B, TASK, 0x67)
    state.gdtr, state.idtr = table(0, 0xFFF), table(VECTORS, 0xFFF)
    return state


def main(arguments):
    entry, end, auxiliary = load(arguments[0])
    top = push_arguments(arguments, auxiliary)
    kernel, amx = Kernel(end), tiles.Tiles(memory)
    session = bochscpu.Session()

    def missing_page(address):
        if address >= SIZE:
            sys.exit(f"the program uses {address:#x}, where there is nothing")
        bochs.memory.page_insert(address & ~4095, memory_address + (address & ~4095))

    def stop(exit_code, words):
        print(words, file=sys.stderr, flush=True)
        kernel.exit_code = exit_code
        session.stop()

    def special_register_written(session, _processor, _register, value):
        cpu = session.cpu
        saved = {"rax": read(SAVED), "rdx": read(SAVED + 8), "rcx": read(SAVED + 16)}
        if value >> 32 == 0:
            arguments = [cpu.rdi, cpu.rsi, saved["rdx"], cpu.r10, cpu.r8, cpu.r9]
            answer = kernel.call(saved["rax"], arguments)
            if answer == Kernel.UNKNOWN and saved["rax"] != 334:  # rseq, without which a program does as well
                print(f"no system call {saved['rax']}", file=sys.stderr, flush=True)
            write(ANSWER, answer)
            if kernel.exit_code is not None:
                session.stop()
            return
        frame = cpu.rsp
        saved["rsp"] = read(frame + 24)
        registers = [saved[name] if name in saved else getattr(cpu, name) for name in REGISTERS]
        try:
            length = amx.execute(read(frame), registers)
        except AssertionError as error:
            return stop(134, f"tiles: {error}, at {read(frame):#x}")
        if length is None:
            return stop(132, f"undefined instruction {memory[read(frame):read(frame) + 8].hex()} at {read(frame):#x}")
        write(frame, read(frame) + length)

    def exception(session, _processor, vector, error):
        if vector != UNDEFINED:
            stop(139, f"exception {vector}, error {error:#x}, at {session.cpu.rip:#x}")

    session.missing_page_handler = missing_page
    session.cpu.set_state(start_state(entry, top))
    hook = bochs.Hook()
    hook.wrmsr, hook.exception = special_register_written, exception
    session.run([hook])
    if kernel.exit_code == 0:
        print(f"Products of tiles: {sum(amx.executed[key] for key in tiles.PRODUCTS)}", flush=True)
    # Without the farewells of an emulator that was not made to end.
    os._exit(kernel.exit_code if kernel.exit_code is not None else 1)


main(sys.argv[1:])
